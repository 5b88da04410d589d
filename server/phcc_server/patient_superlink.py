"""``flower-superlink`` that waits longer for its own database.

SQLite lets one write at a time. Flower's server (1.41) waits 5 s for its turn and then answers 500: seen with 24
hospitals that sent 28 MB each to a server of two busy cores, where it cost replies, a SuperExec and one attempt.
All of that came back by itself, but waiting is cheaper.
"""

from __future__ import annotations

from flwr.supercore import sql_mixin

PRAGMAS = "SQLITE_PRAGMAS"
BUSY_TIMEOUT_MS = 60_000


def wait_longer() -> None:
    """Have every connection to the database that is opened from now on wait `BUSY_TIMEOUT_MS` for its turn."""
    flowers = dict(vars(sql_mixin)[PRAGMAS])
    setattr(sql_mixin, PRAGMAS, tuple({**flowers, "busy_timeout": str(BUSY_TIMEOUT_MS)}.items()))


def main() -> None:
    """Run Flower's own program."""
    wait_longer()
    from flwr.superlink.cli import flower_superlink

    flower_superlink()


if __name__ == "__main__":
    main()

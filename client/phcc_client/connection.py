"""How a hospital's node stands with the coordinator, by the last that its log says of it."""

from __future__ import annotations

import contextlib

from phcc_client.home import Home

CONNECTED = "connected"
TAIL = 20_000
"""Bytes at the end of the node's log that say how it stands."""
_SIGNS = (
    ("SuperNode ID:", CONNECTED),
    ("Received successfully", CONNECTED),  # the first sign is long past in the log of a node that works
    ("Sent successfully", CONNECTED),
    ("CERTIFICATE_VERIFY_FAILED", "not connected: the server's certificate is not the coordinator's"),
    ("Exit Code: 305", "not connected: the coordinator does not know this key (or, for a minute, thinks that it "
     "is still connected)"),
    ("Connection attempt failed", "not connected: the coordinator does not answer"),
    ("ConnectError", "not connected: the coordinator cannot be reached"),
)  # fmt: skip


def connection_of(home: Home) -> str:
    """How it stands, in words; `CONNECTED` where it is."""
    for name in ("supernode.log", "supernode.log.1"):  # the second one once the first has been shortened
        log, text = home.logs / name, ""
        with contextlib.suppress(OSError), log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL))
            text = stream.read().decode("utf-8", errors="replace")
        place, meaning = max((text.rfind(sign), meaning) for sign, meaning in _SIGNS)
        if place >= 0:
            return meaning
    return "not connected yet"

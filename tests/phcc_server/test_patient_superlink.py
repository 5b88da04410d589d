"""Flower's server waits for its database: that is in force on a real connection, and nothing else is changed."""

from __future__ import annotations

import sqlite3

import pytest
from flwr.supercore import sql_mixin

from phcc_server.patient_superlink import BUSY_TIMEOUT_MS, PRAGMAS, wait_longer


def test_a_connection_waits_a_minute_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    flowers = dict(vars(sql_mixin)[PRAGMAS])
    assert float(flowers["busy_timeout"]) < BUSY_TIMEOUT_MS  # where Flower waits as long, this is not needed
    monkeypatch.setattr(sql_mixin, PRAGMAS, vars(sql_mixin)[PRAGMAS])
    wait_longer()
    connection = sqlite3.connect(":memory:")
    sql_mixin._set_sqlite_pragmas(connection, None)
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (BUSY_TIMEOUT_MS,)
    connection.close()
    assert {**dict(vars(sql_mixin)[PRAGMAS]), "busy_timeout": flowers["busy_timeout"]} == flowers

"""The recordings of runs, beside their rows: what each got from outside (`runtime/recording.py`).

The column `recorded` of a run says whether there is one: `kept`, or why there is none. A run that
got nothing has none and needs none (`empty`).
"""

from __future__ import annotations

import sqlite3


def stage(connection: sqlite3.Connection, run: str, recorded: str, recording: bytes | None) -> None:
    """Keep the recording of a run that is written down; that of its last attempt stays."""
    connection.execute("update runs set recorded = ? where id = ?", (recorded, run))
    stage_kept(connection, run, recording)


def stage_kept(connection: sqlite3.Connection, run: str, recording: bytes | None) -> None:
    """The same for a run whose row says so already."""
    if recording is not None:
        connection.execute("insert or replace into recordings values (?, ?)", (run, recording))


def recording_of(connection: sqlite3.Connection, run: str) -> bytes | None:
    row = connection.execute("select recording from recordings where run = ?", (run,)).fetchone()
    return None if row is None else bytes(row[0])

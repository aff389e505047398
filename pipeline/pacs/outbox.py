"""What was pushed to which PACS, on disk before the next object is: each goes once, and after a crash the rest.

SQLite underneath; an object is known by its SHA-256 alone, so no path, name or UID is written.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.scans.database import closed_on_error, opened, refusals

OUTBOX_FILE = "outbox.sqlite"
_VERSION = 1
Status = Literal["sent", "unconfirmed", "refused"]
"""``unconfirmed``: the PACS took it, and is still to be asked whether it keeps it."""


class Outbox:
    """The ledger in a file; used by one thread. Every method raises ConfigError where the disk or the file refuses."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        with self._refusals(), closed_on_error(opened(path, create=True)) as self._database:
            # A rollback journal, not WAL: hospital shares are network file systems, where WAL is not safe.
            self._database.execute("PRAGMA journal_mode=DELETE")
            self._database.execute("PRAGMA synchronous=FULL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise ConfigError(f"{self._name} is of a newer ocuseg; update ocuseg, or move the file away")
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS sent (pacs TEXT, sha256 TEXT, status TEXT, reason TEXT, attempts INTEGER,"
                    " PRIMARY KEY (pacs, sha256))"
                )
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database.execute("SELECT pacs, sha256, status, reason, attempts FROM sent LIMIT 1").fetchone()

    def _refusals(self) -> AbstractContextManager[None]:
        return refusals(self._name, "is damaged or no outbox of ocuseg; move it away, and everything is pushed anew")

    def close(self) -> None:
        self._database.close()

    def status(self, pacs: str, sha256: str) -> Status | None:
        with self._refusals():
            found = self._database.execute("SELECT status FROM sent WHERE pacs = ? AND sha256 = ?", (pacs, sha256)).fetchone()
        return None if found is None else found[0]

    def record(self, pacs: str, sha256: str, status: Status, reason: str = "") -> None:
        """Enter how one attempt ended."""
        with self._refusals(), self._database:
            self._database.execute(
                "INSERT INTO sent VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET status = excluded.status, reason = excluded.reason,"
                " attempts = attempts + 1",
                (pacs, sha256, status, reason),
            )

    def counts(self, pacs: str) -> dict[str, int]:
        with self._refusals():
            return dict(self._database.execute("SELECT status, COUNT(*) FROM sent WHERE pacs = ? GROUP BY status", (pacs,)).fetchall())

"""SQLite files of ours, and what SQLite or the disk refuses in plain words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError

_WHY = {
    sqlite3.SQLITE_FULL: "the disk is full; make room and run the command again",
    sqlite3.SQLITE_READONLY: "it or its folder is read-only; check the permissions",
    sqlite3.SQLITE_PERM: "it or its folder is read-only; check the permissions",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the folder and its permissions",
    sqlite3.SQLITE_BUSY: "another program has it open; close that one and run the command again",
    sqlite3.SQLITE_LOCKED: "another program has it open; close that one and run the command again",
    sqlite3.SQLITE_IOERR: "the disk it lies on does not answer; check it and run the command again",
}


@contextmanager
def refusals(what: str, damaged: str, foreign: str | None = None) -> Iterator[None]:
    """Turn what SQLite or the system refuses inside into one sentence: ``what`` it concerns, why, and what to do.

    ``damaged`` goes on after ``what`` for a database with holes, ``foreign`` (else ``damaged``) for a file that is no database, or
    another one than ours.

    Raises
    ------
    ConfigError: instead of sqlite3.Error or OSError.
    """
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or type(error).__name__}; check the folder, its permissions and the space on the disk"
        raise ConfigError(f"{what} cannot be written: {why}") from None
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF  # the low byte: the kind of error
        if code in _WHY:
            raise ConfigError(f"{what} cannot be used: {_WHY[code]}") from None
        raise ConfigError(f"{what} {damaged if code == sqlite3.SQLITE_CORRUPT else foreign or damaged}") from None


@contextmanager
def closed_on_error(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A connection that is closed where what is done inside fails: left to the garbage collector, its file stays open for a while."""
    try:
        yield database
    except BaseException:
        database.close()
        raise


class TemporaryDatabase:
    """Tables in a temporary file of this process, so that memory stays flat however many files a folder holds.

    The tables are made by the SQL ``script``; what they hold is gone with the process, so nothing is kept for a crash.
    """

    def __init__(self, script: str) -> None:
        with closed_on_error(sqlite3.connect("", isolation_level=None)) as self._database:
            self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -1024; {script}")

    def close(self) -> None:
        self._database.close()


def opened(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """A connection to a database file that SQLite has checked from end to end.

    Never for reading only: what a killed process left half written is rolled back as the file is opened.

    Raises
    ------
    sqlite3.Error: it is damaged, no database, or cannot be opened.
    """
    with closed_on_error(sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}", uri=True)) as database:
        found = database.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            error = sqlite3.DatabaseError("the check found a fault")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
    return database

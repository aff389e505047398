"""The journal of a prediction: brought up to date, and in true words where it cannot be used."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.inference.journal import Entry, Journal
from pipeline.scans.identity import Pseudonyms

KEY = Pseudonyms(b"a site key for tests")
WHEN = 1_712_052_123_456_789_012
OLD = [
    ("t1", 123, WHEN, "a" * 64, "", "c1", "done", "", "", 1.5),
    ("t2", 456, WHEN, "", "", "", "rejected", "not_an_image", "no image", 0.1),
    ("t3", 789, WHEN, "", "", "", "rejected", "empty", "empty", 0.1),
    ("t4", 12, WHEN, "b" * 64, "uid", "c4", "done", "", "", 0.1),
]


def old_journal(path: Path) -> Path:
    """As ocuseg 0.1 wrote it, with enough rows that dropped ones leave free pages."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            'CREATE TABLE entries (id INTEGER PRIMARY KEY, "token", "size", "mtime_ns", "sha256", "instance", "case", "status", "code", '
            '"reason", "seconds")'
        )
        for column in ("token", "sha256", "instance"):
            database.execute(f"CREATE INDEX by_{column} ON entries ({column})")
        rows = [*OLD, *((f"more {k}", 1, WHEN, "", "", "", "rejected", "empty", "e", 0.0) for k in range(500))]
        database.executemany(f"INSERT INTO entries VALUES (NULL, {', '.join('?' * 10)})", rows)
    return path


def test_an_old_journal_loses_its_times_and_nothing_else(tmp_path: Path) -> None:
    path = old_journal(tmp_path / "journal.sqlite")
    when = WHEN.to_bytes(8, "big")
    assert when in path.read_bytes()
    for _ in range(2):
        journal = Journal(path, KEY)
        entries = {entry.token: entry for entry in journal}
        journal.close()
        assert len(entries) == 504
        assert entries["t1"] == Entry("t1", KEY.token("stamp", f"123:{WHEN}"), "a" * 64, "", "c1", "done", "", "", 1.5)
        assert (entries["t2"].status, entries["t3"].status) == ("not_an_image", "rejected")
        assert entries["t4"].stamp == ""  # looked at again: which pixels its UID stands for was not known
    assert when not in path.read_bytes()


@pytest.mark.parametrize("kind", ["half", "random", "foreign", "newer"])
def test_what_cannot_be_used_is_told(tmp_path: Path, kind: str) -> None:
    path = old_journal(tmp_path / "journal.sqlite")
    words = "is damaged or no journal of ocuseg; give a new output folder"
    if kind == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "random":
        path.write_bytes(b"\x93random" * 500)
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("DROP TABLE entries" if kind == "foreign" else "PRAGMA user_version = 99")
            if kind == "foreign":
                database.execute("CREATE TABLE entries (token, work)")
        words = words if kind == "foreign" else "newer ocuseg"
    with pytest.raises(ConfigError, match=words):
        Journal(path, KEY)


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", KEY)
    (pages,) = journal._database.execute("PRAGMA page_count").fetchone()
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ConfigError, match="the disk is full; make room and run the command again"):
        journal.record(Entry("t", "s", "", "", "", "rejected", "empty", "too long for the disk " * 10_000, 0.0))
    journal.close()


def test_a_folder_that_can_be_listed_again_is_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", KEY)
    journal.record(Entry("folder", "s", "", "", "", "rejected", "unlisted", "it cannot be listed", 0.0))
    journal.record(Entry("file", "s", "", "", "", "rejected", "empty", "it is empty", 0.0))
    assert journal.unlisted() == {"folder"}
    journal.forget_folder("folder")
    journal.forget_folder("file")
    assert [entry.token for entry in journal] == ["file"]
    journal.close()

"""How far each study of a watch has come, on disk before the next step begins: after a crash it goes on from there.

SQLite underneath. It holds Study Instance UIDs, which lead to patients where the PACS is at hand, and is readable by its owner alone.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.scans.database import closed_on_error, opened, refusals

State = Literal["seen", "pulled", "predicted", "exported", "pushed", "nothing", "failed"]
"""``nothing``: no image of it could be used · ``failed``: given up, with a reason."""
ENDS: tuple[State, ...] = ("pushed", "nothing", "failed")
_VERSION = 1
_COLUMNS = "study, state, day, contents, changed, attempts, not_before, reason"


@dataclass(frozen=True)
class StudyState:
    """``day``: of the folder of predictions that it is in."""

    study: str
    state: State
    day: str


class StudyStates:
    """The table in a file; used by one thread. Times are seconds since the epoch."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        with self._refusals():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with closed_on_error(opened(path)) as self._database:
                self._database.execute("PRAGMA journal_mode=DELETE")
                self._database.execute("PRAGMA synchronous=FULL")
                (version,) = self._database.execute("PRAGMA user_version").fetchone()
                if version > _VERSION:
                    raise ConfigError(f"{self._name} is of a newer ocuseg; update ocuseg, or give another folder")
                with self._database:
                    self._database.execute(
                        "CREATE TABLE IF NOT EXISTS studies (study TEXT PRIMARY KEY, state TEXT, day TEXT, contents TEXT, changed REAL,"
                        " attempts INTEGER, not_before REAL, reason TEXT)"
                    )
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
                self._database.execute(f"SELECT {_COLUMNS} FROM studies LIMIT 1").fetchone()  # noqa: S608 (fixed names)

    def _refusals(self) -> AbstractContextManager[None]:
        return refusals(self._name, "is damaged or not of a watch; give another folder")

    def close(self) -> None:
        self._database.close()

    def see(self, study: str, contents: str, now: float, day: str) -> None:
        """A study is there with these ``contents``; one that has changed begins anew, in the folder of its first day."""
        with self._refusals(), self._database:
            self._database.execute(
                f"INSERT INTO studies ({_COLUMNS}) VALUES (?, 'seen', ?, ?, ?, 0, 0, '') ON CONFLICT DO UPDATE SET"  # noqa: S608
                " state = 'seen', contents = excluded.contents, changed = excluded.changed, attempts = 0, not_before = 0, reason = ''"
                " WHERE contents != excluded.contents",
                (study, day, contents, now),
            )

    def due(self, now: float, rest_s: float) -> list[StudyState]:
        """Studies that have come to rest and are not at an end, in the order in which they were first seen."""
        return self._select("state NOT IN ('pushed', 'nothing', 'failed') AND changed <= ? AND not_before <= ?", (now - rest_s, now))

    def resting(self, now: float, rest_s: float) -> int:
        """How many studies may still grow."""
        return len(self._select("state = 'seen' AND changed > ?", (now - rest_s,)))

    def at_end(self) -> list[StudyState]:
        return self._select("state IN ('pushed', 'nothing', 'failed')", ())

    def begin(self, study: str) -> int:
        """Count an attempt before it is made, so that a step that ends the process is not begun for ever."""
        self._update("attempts = attempts + 1", (), study)
        with self._refusals():
            return int(self._database.execute("SELECT attempts FROM studies WHERE study = ?", (study,)).fetchone()[0])

    def advance(self, study: str, state: State, reason: str = "") -> None:
        self._update("state = ?, attempts = 0, not_before = 0, reason = ?", (state, reason), study)

    def move(self, study: str, day: str) -> None:
        """To another day's folder."""
        self._update("day = ?", (day,), study)

    def put_off(self, study: str, until: float, reason: str, *, counts: bool) -> None:
        """``counts``: whether the attempt does."""
        self._update(f"attempts = attempts - {0 if counts else 1}, not_before = ?, reason = ?", (until, reason), study)

    def counts(self) -> dict[str, int]:
        with self._refusals():
            return dict(self._database.execute("SELECT state, COUNT(*) FROM studies GROUP BY state ORDER BY state").fetchall())

    def _update(self, change: str, values: tuple[object, ...], study: str) -> None:
        with self._refusals(), self._database:
            self._database.execute(f"UPDATE studies SET {change} WHERE study = ?", (*values, study))  # noqa: S608 (fixed names)

    def _select(self, condition: str, values: tuple[object, ...]) -> list[StudyState]:
        query = f"SELECT study, state, day FROM studies WHERE {condition} ORDER BY rowid"  # noqa: S608 (fixed names)
        with self._refusals():
            return [StudyState(*row) for row in self._database.execute(query, values).fetchall()]

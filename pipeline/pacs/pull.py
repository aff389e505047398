"""Studies of a PACS into a folder: what is whole there already is not fetched again, and each file appears by one rename."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PacsError, ScanError
from pipeline.pacs.arrival import is_whole, keep, look
from pipeline.pacs.connection import Connection, Instance, tried_again
from pipeline.pacs.query import Query, Series, instances_of, series_of
from pipeline.types import ProgressCallback

_GONE = 3
"""After so many failures in a row the PACS is not asked for the rest of a series."""


@dataclass
class Pulled:
    """How a pull ended: instances by ``fetched``, ``there_already`` and ``failed``; ``reasons`` of the latter, and how often each."""

    studies: int = 0
    fetched: int = 0
    there_already: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, object]:
        return {"studies": self.studies, "fetched": self.fetched, "there_already": self.there_already, "failed": self.failed} | {
            "reasons": dict(self.reasons)
        }


def pull(
    connection: Connection,
    studies: Iterable[str],
    out: Path,
    *,
    query: Query | None = None,
    only: Callable[[Series], bool] = lambda series: True,
    retries: int = 3,
    progress: ProgressCallback | None = None,
) -> Pulled:
    """Fetch studies to ``out``/STUDY/SERIES/INSTANCE.dcm, each folder and file named by its UID.

    Parameters
    ----------
    studies: Study Instance UIDs.
    query: a modality or a series in it limits what is fetched of each study. only: the same by what a series says of itself.
    retries: how often what fails by chance is tried again.

    Raises
    ------
    PacsError: the PACS cannot be asked what it has. OSError: the disk refuses. What fails of single instances is counted.
    """
    ended = Pulled()
    for study in studies:
        ended.studies += 1
        found = tried_again(lambda study=study: series_of(connection, study, query), retries, "query")  # type: ignore[misc]
        for series in filter(only, found):
            wanted = tried_again(lambda series=series: instances_of(connection, series), retries, "query")  # type: ignore[misc]
            _pull_series(connection, wanted, out / study / series.uid, retries, ended)
            if progress is not None:
                progress(ended.fetched + ended.there_already + ended.failed, None, f"studies {ended.studies}")
    return ended


def _pull_series(connection: Connection, wanted: Sequence[Instance], folder: Path, retries: int, ended: Pulled) -> None:
    missing = [instance for instance in wanted if not is_whole(place_of(folder, instance.uid), instance.uid)]
    ended.there_already += len(wanted) - len(missing)
    arrivals = _Arrivals(folder, missing, len(wanted))
    if missing:
        _fetch(connection, arrivals, retries)
    ended.fetched += len(arrivals.kept)
    ended.failed += len(arrivals.missing())
    ended.reasons.update(arrivals.refused.get(instance.uid, "the PACS did not send it") for instance in arrivals.missing())


def _fetch(connection: Connection, arrivals: _Arrivals, retries: int) -> None:
    """Everything together; should that end early, what is missing one by one, because a PACS may stop at one bad object."""
    reason = _attempt(connection, arrivals.missing(), arrivals, retries)
    in_a_row = 0
    for instance in arrivals.missing() if reason is not None else ():
        if in_a_row < _GONE:
            again = _attempt(connection, [instance], arrivals, 0)
            in_a_row = 0 if again is None else in_a_row + 1
        arrivals.refuse(instance.uid, again or reason or "")


def _attempt(connection: Connection, instances: Sequence[Instance], arrivals: _Arrivals, retries: int) -> str | None:
    """Why it ended early; None where the PACS has sent what it would."""

    def fetched() -> None:
        rest = [instance for instance in instances if instance.uid not in arrivals.kept]
        connection.fetch(rest, arrivals.take, whole=2 * len(rest) > arrivals.series)

    try:
        tried_again(fetched, retries, "retrieval")
    except PacsError as error:
        return str(error)
    return None


class _Arrivals:
    """Keeps what was asked for, once it is whole. ``series``: how many instances the whole series has."""

    def __init__(self, folder: Path, wanted: Sequence[Instance], series: int) -> None:
        self._folder, self._wanted, self.series = folder, {instance.uid: instance for instance in wanted}, series
        self.kept: set[str] = set()
        self.refused: dict[str, str] = {}

    def take(self, uid: str, data: bytes) -> None:
        """``uid``: what the PACS says that it sends."""
        wanted = self._wanted.get(uid)
        if wanted is None:
            return
        try:
            found = look(data)
        except ScanError as error:
            return self.refuse(uid, f"what the PACS sent: {error}")
        if (found.study, found.series, found.uid) != (wanted.study, wanted.series, wanted.uid):
            return self.refuse(uid, "the PACS sent another object than asked for")
        keep(data, place_of(self._folder, uid))
        self.kept.add(uid)

    def refuse(self, uid: str, reason: str) -> None:
        self.refused.setdefault(uid, reason)

    def missing(self) -> list[Instance]:
        return [instance for uid, instance in self._wanted.items() if uid not in self.kept]


def place_of(folder: Path, uid: str) -> Path:
    return folder / f"{uid}.dcm"

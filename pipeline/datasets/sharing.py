"""A data set read by several processes: each decodes its part of the cases, once, and has the others' from them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from pipeline.errors import CardError

Value = TypeVar("Value")
Case = TypeVar("Case")

EXCHANGED = 4
"""Cases of each process that go to the others at once: few, because volumes are large."""


def _own(values: list[Any]) -> list[Any]:
    return values


@dataclass(frozen=True)
class Team:
    """The processes that train together. ``gather``: every process gives a list and gets all of them, joined in the order of ranks."""

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = _own

    def first(self, make: Callable[[], Value]) -> Value:
        """What ``make`` gives in the first process, which alone calls it."""
        found: Value = self.gather([make()] if self.rank == 0 else [])[0]
        return found


ALONE = Team()


@dataclass(frozen=True)
class Refusal:
    """An error that is to be raised in every process, so that none waits for one that has gone."""

    text: str


def read_together(load: Callable[[Case], Value], cases: Sequence[Case], workers: int, team: Team) -> Generator[Value, None, None]:
    """``load`` of every case, in their order; process r of n calls it for the cases r, r + n, ... and for no other.

    What the others have loaded arrives as a copy: arrays by their values, arrays on a disk that all share (OnDisk) by their place.

    Raises
    ------
    CardError: what ``load`` raised of the first case that it refused, in all processes alike.
    """
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        try:
            if team.size == 1:
                yield from pool.map(load, cases)
                return
            own = pool.map(lambda case: _loaded_or_refused(load, case), cases[team.rank :: team.size])
            for first in range(0, len(cases), EXCHANGED * team.size):
                number = len(cases[first + team.rank : first + EXCHANGED * team.size : team.size])
                parts = team.gather([list(islice(own, number))])
                for value in chain.from_iterable(_in_turn(parts)):
                    if isinstance(value, Refusal):
                        raise CardError(value.text)
                    yield value
        finally:
            pool.shutdown(cancel_futures=True)


def _in_turn(parts: list[list[Any]]) -> Iterator[list[Any]]:
    """The first of each part, then the second of each that has one, ..."""
    for position in range(max(map(len, parts), default=0)):
        yield [part[position] for part in parts if position < len(part)]


def _loaded_or_refused(load: Callable[[Case], Value], case: Case) -> Value | Refusal:
    try:
        return load(case)
    except CardError as error:
        return Refusal(str(error))

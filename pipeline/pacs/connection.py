"""What a connection to a PACS can do, whichever protocol it speaks, and how what fails by chance is tried again."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pipeline.errors import PacsError

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger(__name__)

T = TypeVar("T")
Take = Callable[[str, bytes], None]
Level = Literal["study", "series", "instance"]
LONGEST_WAIT_S = 60.0
USABLE_UID = re.compile(r"(?=.{1,64}\Z)[0-9A-Za-z-][0-9A-Za-z.-]*")
"""What serves as a UID and as the name of a file; wider than the standard, because some devices number more freely."""


@dataclass(frozen=True)
class Instance:
    """One SOP instance of a PACS."""

    study: str
    series: str
    uid: str
    sop_class: str = ""


@dataclass(frozen=True)
class Stored:
    """What the PACS said to one file: ``refusal`` is "" where it took it. ``passing``: it may take it later."""

    path: Path
    refusal: str = ""
    passing: bool = False


class Connection(Protocol):
    """One PACS over one protocol. Every method raises PacsError where the PACS is not reached or refuses everything."""

    def find(self, level: Level, keys: Mapping[str, str], limit: int | None = None) -> Iterator[Dataset]:
        """Answers to a query (PS3.4 C.6.2, study root): ``keys`` are attributes by keyword, "" those that are only to be returned."""

    def fetch(self, instances: Sequence[Instance], take: Take, *, whole: bool = False) -> None:
        """Have ``take`` called with the UID and the DICOM file of each instance, in any order. Instances are of one series; ``whole``: they
        are most of it, so that all of it may be asked for at once.

        What does not come is not called for; an error that ``take`` raises comes out.
        """

    def store(self, paths: Sequence[Path]) -> Iterator[Stored]:
        """Send DICOM files one by one."""

    def close(self) -> None: ...


Confirm = Callable[[Sequence[Path]], Mapping[Path, str]]
"""Files that a PACS does not promise to keep, and why."""


def tried_again(call: Callable[[], T], retries: int, what: str) -> T:
    """What ``call`` returns; what fails by chance is tried again ``retries`` times, after 1, 2, 4 ... seconds and a little.

    Raises
    ------
    PacsError: the last failure, or one that is not by chance.
    """
    for attempt in range(retries + 1):
        try:
            return call()
        except PacsError as error:
            if not error.passing or attempt == retries:
                raise
            wait = back_off(attempt)
            log.info("%s: %s; tried again in %.0f s", what, error, wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def back_off(attempt: int) -> float:
    """Seconds before attempt ``attempt`` + 2: doubled each time, spread so that many clients do not come back together."""
    return min(LONGEST_WAIT_S, 2.0**attempt) * random.uniform(1.0, 1.25)

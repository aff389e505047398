"""What can go wrong, in one sentence each: what was wrong, which case or key, what to do next.

Every error a user can cause derives from :class:`OcusegError`; the command line prints it as one line and leaves with
its ``exit_code``, as it does (with 2) with what the system refuses. Anything else is a fault of ocuseg and keeps its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_SOME_REJECTED = 3
EXIT_NOTHING_USABLE = 4
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: the time that --stop-after gives is over, and the same command goes on; 130's sibling."""
EXIT_INTERRUPTED = 130


class OcusegError(Exception):
    """Base of every error whose cause lies outside ocuseg; ``exit_code`` is what the command line leaves with."""

    exit_code = EXIT_USAGE

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole from another process, too, whatever ``__init__`` takes."""
        return _again, (type(self), self.args), vars(self)


def _again(kind: type[OcusegError], args: tuple[Any, ...]) -> OcusegError:
    return kind.__new__(kind, *args)


class ConfigError(OcusegError):
    """A configuration, option or command line that cannot be carried out."""


class CardError(OcusegError):
    """A data card that is malformed, or that does not fit the files it describes."""


class LabelFileError(CardError):
    """One file that speaks of many images (COCO JSON, a table of objects) and is not as the card says: told once, and not anew for
    each image. ``path`` is the file, ``fault`` what is wrong with it, ``name`` how the card calls it."""

    def __init__(self, path: Path, fault: str, name: str | None = None) -> None:
        super().__init__(fault if name is None else f"label file {name!r}: {fault}")
        self.path, self.fault = path, fault


class LeakError(OcusegError):
    """The same patient, file or picture stands on both sides of a split."""


class BundleError(OcusegError):
    """A bundle folder that is incomplete, altered or made for something else."""


class PacsError(OcusegError):
    """A PACS that is not reached, or that refuses; the message never holds what was asked for, which may name a patient.

    ``passing``: by chance, so that it may go better when it is tried again.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class NothingUsableError(OcusegError):
    """Input was read, and none of it could be used."""

    exit_code = EXIT_NOTHING_USABLE


class TrainingError(OcusegError):
    """Training cannot go on: a non-finite loss, a worker that failed on a case."""

    exit_code = EXIT_NOTHING_USABLE


class TooManyFailures(OcusegError):
    """More files failed or were rejected than --max-failures allows; all work up to that point is saved."""

    exit_code = EXIT_SOME_REJECTED


class StoppedRun(OcusegError):
    """The time that the user gave is over; all work up to that point is saved, and the same command goes on."""

    exit_code = EXIT_STOPPED


class InterruptedRun(OcusegError):
    """The run was asked to stop (SIGTERM, Ctrl-C); all work up to that point is saved."""

    exit_code = EXIT_INTERRUPTED


class ScanError(OcusegError):
    """One file that cannot become a Scan.

    ``code`` is a short, stable name that programs may count (``empty``, ``truncated``, ``too_large``, ``not_an_image``,
    ``unsupported``, ``unreadable``, ``malformed``, ...); the message is for people and never holds the file's path or any
    value that identifies a patient, because it is written to catalogues and ledgers.
    """

    exit_code = EXIT_NOTHING_USABLE

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

"""Options of what many processes do together: which share of the files, which of them, how long."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.scans.shard import Share

HowProgress = Annotated[str, typer.Option("--progress", help="auto, or json: a line of JSON a second on standard error, for a program.")]

_TIME = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds_of(text: str | None) -> float | None:
    """3h50m, 90m, 1d2h, 45s or 45 in seconds.

    Raises
    ------
    ConfigError: it is no time, or none at all.
    """
    if text is None:
        return None
    found = _TIME.fullmatch(text.strip().replace(" ", ""))
    total = 0.0 if found is None else sum(float(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    if total <= 0:
        raise ConfigError(f"--stop-after {text!r}: must be a time such as 3h50m, 90m or 45s")
    return total


@dataclass(frozen=True)
class SharingOptions:
    """Which part of a folder one process does, and how long."""

    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", help="Do a share of the files, such as 3/16, or `auto`: as Slurm's array, an indexed job or torchrun says."
        ),
    ] = None
    input_list: Annotated[
        str | None,
        typer.Option(
            "--input-list", help="Do only these files of the folder: a text file with one a line, a CSV file with a column path, or -."
        ),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Look again at files that were rejected, whatever the reason.")] = (
        False
    )
    stop_after: Annotated[
        str | None, typer.Option("--stop-after", help="Begin no more files after this time, such as 3h50m, and leave with exit code 75.")
    ] = None
    scratch: Annotated[
        Path | None, typer.Option("--scratch", help="Local folder to work in, from which what is finished is moved to its place whole.")
    ] = None
    max_failures: Annotated[
        str | None, typer.Option("--max-failures", help="End the run when more files than this failed or were rejected: 20, or 5% of all.")
    ] = None

    def share(self, folder: Path) -> Share:
        """What the options say of a folder of scans, checked."""
        from pipeline.scans.listing import read_input_list
        from pipeline.scans.shard import Shard, Share

        if self.scratch is not None and not self.scratch.is_dir():
            raise ConfigError(f"--scratch {str(self.scratch)!r} is not a folder; give one that exists")
        share = Share(
            shard=None if self.shard is None else Shard.parse(self.shard, os.environ),
            chosen=None if self.input_list is None else read_input_list(self.input_list, folder),
            again=self.retry_failed,
            stop_after=seconds_of(self.stop_after),
            scratch=self.scratch,
            max_failures=self.max_failures,
        )
        share.most_failures(0)
        return share

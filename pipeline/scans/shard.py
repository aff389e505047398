"""Which share of a folder's files is this process's, as the user or a scheduler says."""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

AUTO = "auto"
"""``--shard auto``: as the environment of a scheduler says."""


@dataclass(frozen=True)
class Shard:
    """Share ``number`` of ``of``, from 1. What has one key is in one share, and stays there whatever else the folder holds."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(f"--shard {self}: the first number must lie between 1 and the second, as in 3/16")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, key: str) -> bool:
        return Shard.of_key(key, self.of) == self

    @classmethod
    def of_key(cls, key: str, of: int) -> Shard:
        """The share in which ``key`` is."""
        return cls(zlib.crc32(key.encode()) % of + 1, of)

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Shard:
        """Of ``--shard``: 3/16, or ``auto``.

        Raises
        ------
        ConfigError: it is neither, or the environment names no share.
        """
        if text == AUTO:
            return _of_scheduler(environment)
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None:
            raise ConfigError(f"--shard {text!r}: write it as 3/16 (the third of sixteen), or auto")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Share:
    """Which part of a folder one process does, and how.

    shard: its share of the files; the other ones are other processes'. chosen: files below the folder, instead of all of them.
    again: look again at what failed or was rejected, whatever the reason. stop_after: seconds after which no more files are begun.
    scratch: a local folder in which cases are made before they are moved to OUT whole. max_failures: how many files may fail or be
    rejected, as "20" or, of this process's files, "5%".
    """

    shard: Shard | None = None
    chosen: Sequence[Path] | None = None
    again: bool = False
    stop_after: float | None = None
    scratch: Path | None = None
    max_failures: str | None = None

    def most_failures(self, files: int) -> float:
        """Raises ConfigError: ``max_failures`` is neither a number nor a percentage."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", (self.max_failures or "").strip())
        if self.max_failures is None:
            return math.inf
        if found is None:
            raise ConfigError(f"--max-failures {self.max_failures!r}: must be a number of files, such as 20, or a percentage, such as 5%")
        return float(found[1]) * files / 100 if found[2] else float(found[1])

    def ends_at(self) -> float:
        """When to begin no more files, by the monotonic clock."""
        return math.inf if self.stop_after is None else time.monotonic() + self.stop_after


def _of_scheduler(environment: Mapping[str, str]) -> Shard:
    """Of a Slurm array, an indexed Kubernetes job, or torchrun."""

    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name, "" if default is None else str(default))
        if not re.fullmatch(r"\d+", text):
            raise ConfigError(f"--shard auto: {name} is {text!r} and no number; give --shard 3/16 instead")
        return int(text)

    if "SLURM_ARRAY_TASK_ID" in environment:
        first, last, step = (number(f"SLURM_ARRAY_TASK_{name}", default) for name, default in (("MIN", None), ("MAX", None), ("STEP", 1)))
        of = (last - first) // max(step, 1) + 1
        if number("SLURM_ARRAY_TASK_COUNT", of) != of:
            raise ConfigError(
                "--shard auto: the indices of the Slurm array have gaps, so that nobody knows how many shares there are; give --shard "
                "$SLURM_ARRAY_TASK_ID/16, with the number of the whole array"
            )
        return Shard((number("SLURM_ARRAY_TASK_ID") - first) // max(step, 1) + 1, of)
    if "JOB_COMPLETION_INDEX" in environment:
        if "JOB_COMPLETION_COUNT" not in environment:
            raise ConfigError("--shard auto: JOB_COMPLETION_COUNT is not set; set it in the job's manifest to its number of completions")
        return Shard(number("JOB_COMPLETION_INDEX") + 1, number("JOB_COMPLETION_COUNT"))
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Shard(number("RANK") + 1, number("WORLD_SIZE"))
    raise ConfigError(
        "--shard auto: neither SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX nor RANK is set; give --shard 3/16, or leave the option out"
    )

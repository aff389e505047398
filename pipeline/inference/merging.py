"""What the shards of a run have done together, without the scans and without a network: ``ocuseg merge``."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.inference.crew import Crew
from pipeline.inference.desk import Desk
from pipeline.inference.folder import ROUNDS, SETTLE, finish
from pipeline.inference.found import found
from pipeline.inference.out_folder import WORK, check_key
from pipeline.inference.settle import carry_out, decide
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.shard import Shard
from pipeline.types.run_record import RunRecord

_ENDS = ("done", "part", "failed", "duplicate", "not_an_image", "not_followed", "rejected")


@dataclass
class Merged:
    """``found`` files, and how those that are known ended (``counts``). ``missing``: tokens of the others; ``shards``: how many of each
    shard are missing, of how many. ``unsettled``: cases that hang on files of several shards and are still to be made. ``at_work``: how
    many processes work on the folder at this moment."""

    found: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    shards: dict[str, tuple[int, int]] = field(default_factory=dict)
    unsettled: int = 0
    at_work: int = 0

    @property
    def complete(self) -> bool:
        return not self.missing and not self.unsettled

    def to_json(self) -> dict[str, Any]:
        shards = {name: {"missing": missing, "files": files} for name, (missing, files) in self.shards.items()}
        about = {"found": self.found, **self.counts, "missing": self.missing, "shards": shards}
        return about | {"unsettled": self.unsettled, "at_work": self.at_work}

    def lines(self, most: int = 20) -> list[str]:
        out = [f"found: {self.found:,}", *(f"{name.replace('_', ' ')}: {count:,}" for name, count in self.counts.items() if count)]
        out.append(f"missing: {len(self.missing):,}")
        out += [f"  share {name}: {missing:,} of {files:,} files are missing" for name, (missing, files) in self.shards.items()]
        out += [f"  {token}" for token in self.missing[:most]]
        if len(self.missing) > most:
            out.append(f"  and {len(self.missing) - most:,} more (--json names all; `ocuseg whois TOKEN` leads to a file)")
        if self.unsettled:
            out.append(
                f"{self.unsettled:,} cases hang on files of several shards and are not made yet: run the command of the shards once more, "
                "without --shard"
            )
        if self.at_work:
            out.append(f"{self.at_work} processes are at work on the folder now")
        return out


def merge(out: Path, names: Pseudonyms) -> Merged:
    """What all processes have done in ``out``; where nothing is missing, what lies beside the cases is written as by one process.

    Raises
    ------
    ConfigError: ``out`` holds no predictions, or those of another site key.
    """
    check_key(out, names)
    told = Merged()
    with closing(Crew(out / WORK)) as crew, closing(Desk(out, out, names, crew)) as desk:
        told.at_work = len(crew.living()) - 1
        missing, files = Counter[str](), Counter[str]()
        for token, key, of in found(out / WORK):
            told.found += 1
            name = str(Shard.of_key(key, of))
            files[name] += 1
            if not desk.journal.knows(token):
                missing[name] += 1
                told.missing.append(token)
        told.shards = {name: (missing[name], files[name]) for name in sorted(missing, key=lambda name: int(name.partition("/")[0]))}
        told.found = told.found or sum(desk.journal.counts()[status] for status in _ENDS)
        if not told.missing and not told.at_work:
            with desk.crew.turn(SETTLE):
                desk.catch_up()
                told.unsettled = _settle(desk, out)
                if not told.unsettled:
                    finish(desk, finds_objects=RunRecord.read(out).objects)
        told.counts = desk.journal.counts()
    return told


def _settle(desk: Desk, out: Path) -> int:
    """How many cases would have to be made, which needs scans and a network."""
    for _ in range(ROUNDS):
        decision = decide(desk.journal, out, lambda token: True)
        if decision.make:
            return len(decision.make)
        carry_out(decision, desk.journal, out)
        if not decision.drop:
            return 0
    raise ConfigError("what files say of each other has no end; run `ocuseg predict` once more into the folder")

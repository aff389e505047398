"""Parts of a catalogue, one a shard, become the catalogue that one process would have written."""

from __future__ import annotations

import heapq
import os
import re
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.lock import locked
from pipeline.scans.catalogue import Catalogue, CatalogueWriter
from pipeline.scans.database import refusals
from pipeline.scans.shard import Shard


def part_of(out: Path, shard: Shard) -> Path:
    """Where the part of ``shard`` lies beside the catalogue ``out``."""
    return out.with_name(f"{out.name}.{shard.number}of{shard.of}")


def parts_beside(out: Path) -> dict[Shard, Path]:
    """The parts that lie beside ``out``."""
    found = {}
    for path in out.parent.glob(f"{glob_safe(out.name)}.*of*"):
        numbers = re.fullmatch(r"(\d{1,9})of(\d{1,9})", path.name.removeprefix(f"{out.name}."))
        if numbers is not None:
            with suppress(ConfigError):
                found[Shard(int(numbers[1]), int(numbers[2]))] = path
    return found


def glob_safe(name: str) -> str:
    """A file's name as a pattern that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def merge_catalogues(out: Path, *, wait: bool = False) -> list[Shard]:
    """Put the parts beside ``out`` together, and remove them; the shards that are missing, in which case nothing is changed.

    ``wait`` for another process that does the same, and leave it at that, as the last shards may end at one time.

    Raises
    ------
    ConfigError: there is no part, parts are of several divisions or models, or one is damaged.
    """
    staged, lock = out.with_name(out.name + ".part"), out.with_name(f".{out.name}.lock")
    busy = ConfigError(f"another process is writing the catalogue {out.name!r}; wait for it")
    with (
        refusals(f"the catalogue {out.name!r}", "is damaged; remove its part, and run that shard again"),
        locked(lock, None if wait else busy),
        ExitStack() as held,
    ):
        parts = parts_beside(out)
        divisions = {shard.of for shard in parts}
        if not parts and wait:
            return []
        if not parts:
            raise ConfigError(f"no part of the catalogue {out.name!r} lies beside it; run `ocuseg index ... --shard 1/N` first")
        if len(divisions) > 1:
            raise ConfigError(f"the parts of {out.name!r} are of {' and '.join(map(str, sorted(divisions)))} shards; remove those of one")
        (of,) = divisions
        if missing := [Shard(number, of) for number in range(1, of + 1) if Shard(number, of) not in parts]:
            return missing
        catalogues = [held.enter_context(Catalogue(path)) for path in parts.values()]
        models = {catalogue.models for catalogue in catalogues}
        if len(models) > 1:
            raise ConfigError(f"the parts of {out.name!r} were made with different models (--with); make them alike")
        staged.unlink(missing_ok=True)
        with closing(CatalogueWriter(staged, models.pop())) as writer:
            for _, record in heapq.merge(*(catalogue.placed() for catalogue in catalogues), key=lambda pair: pair[0]):
                writer.add(record)
            writer.join()
        os.replace(staged, out)
        held.close()
        for path in parts.values():
            path.unlink(missing_ok=True)
    return []

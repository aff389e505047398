"""The program of a process that cleans files: ``python -m pipeline.deidentify.worker``, started with limits by pipeline/scans/workers.py.

The content of a cleaned file travels as the array of an answer (pipeline/scans/wire.py), the rest as its line.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.file import Job, clean_file, name_of
from pipeline.deidentify.profile import Rules
from pipeline.errors import ScanError
from pipeline.memory import Limits
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.wire import path_from_text
from pipeline.scans.worker import Answer, Head, serve
from pipeline.scans.workers import Pool, too_large


def pool_of(job: Job, limits: Limits) -> Pool:
    """Processes that clean files of ``job``'s folder."""
    limits = replace(limits, max_pixels=job.max_pixels)
    return Pool(job.root, job.names, limits, __name__, {"options": sorted(job.rules.options), "burned_in": job.burned_in})


def clean_in(pool: Pool | None, path: Path, job: Job) -> tuple[Cleaned, str]:
    """A file without whose it is, and where it goes below OUT; by a process of the pool, or by this one.

    Raises
    ------
    ScanError: as of :func:`clean_file`, and ``crashed``, ``timeout``, ``too_large``.
    """
    if pool is None:
        return _clean(path, job)
    head, content = pool.ask("clean", path)
    if content is None:
        raise ScanError(*head["error"])
    place = str(head["place"])
    if not re.fullmatch(r"[\w-]+(/[\w-]+)*(\.\w+)+", place):  # a hostile file may have taken its decoder over
        raise ScanError("crashed", "the process that read this file did not answer as it should; the file may be hostile")
    return Cleaned(content.tobytes(), head["suffix"], tuple(head["removed"]), tuple(head["notes"])), place


def _clean(path: Path, job: Job) -> tuple[Cleaned, str]:
    cleaned, whose = clean_file(path, job)
    return cleaned, name_of(whose, cleaned.suffix, job)


def _cleaner(settings: Head) -> Answer:
    rules = Rules(frozenset(settings["options"]))
    names, root = Pseudonyms(bytes.fromhex(settings["key"])), path_from_text(settings["root"])
    job = Job(rules, names, root, settings["burned_in"], settings["max_pixels"])

    def answer(asked: Head) -> tuple[Head, npt.NDArray[Any] | None]:
        try:
            cleaned, place = _clean(path_from_text(asked["path"]), job)
        except ScanError as error:
            return {"error": [error.code, str(error)]}, None
        except MemoryError:
            return {"error": [too_large().code, str(too_large())]}, None
        content = np.frombuffer(cleaned.content, np.uint8)
        said = {"place": place, "suffix": cleaned.suffix, "removed": cleaned.removed, "notes": cleaned.notes}
        return {**said, "shape": content.shape, "dtype": content.dtype.str}, content

    return answer


if __name__ == "__main__":
    serve(_cleaner)

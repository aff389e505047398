"""The program of a decoding process: ``python -m pipeline.scans.worker``, started by :mod:`pipeline.scans.workers`.

Settings come on the first line of standard input, then one job per line; answers go to standard output (:mod:`pipeline.scans.wire`).
The site's key travels over the pipe, never over the command line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy.typing as npt

from pipeline.parent import end_with_parent
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import open_file, record_of, stamp_of
from pipeline.scans.wire import line_of, pack, path_from_text

READY = b"\n"


def limit_memory(size: int) -> None:
    """Limit this process's data to ``size`` bytes where the platform supports it; allocating more raises MemoryError."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


Head = dict[str, Any]
Answer = Callable[[Head], tuple[Head, npt.NDArray[Any] | None]]
"""A job (``want``, ``path``) -> a line, and the array, if any, whose ``shape`` and ``dtype`` the line has."""


def main() -> None:
    serve(_reader)


def serve(prepare: Callable[[Head], Answer]) -> None:
    """Answer jobs until standard input ends; ``prepare`` gets the settings of the first line once memory is limited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what C libraries print must not get between the answers
    settings = json.loads(sys.stdin.buffer.readline())
    end_with_parent(settings["parent"])
    limit_memory(settings["memory"])
    answers.write(READY)
    answers.flush()
    answer = prepare(settings)
    for line in sys.stdin.buffer:
        head, array = answer(json.loads(line))
        answers.write(line_of(head))
        if array is not None:
            answers.write(array.reshape(-1).view("u1").data)
        answers.flush()


def _reader(settings: Head) -> Answer:
    pseudonyms, root = Pseudonyms(bytes.fromhex(settings["key"])), path_from_text(settings["root"])

    def answer(job: Head) -> tuple[Head, npt.NDArray[Any] | None]:
        path = path_from_text(job["path"])
        stamp = stamp_of(path, pseudonyms)
        opened = open_file(path, root, pseudonyms, settings["max_pixels"])
        if job["want"] == "record":
            return asdict(record_of(opened, path, root, pseudonyms, stamp)), None
        return pack(opened)

    return answer


if __name__ == "__main__":
    main()

"""The blocks of a folder, worked on by other processes, of a Dask cluster or one for each device.

They share the output folder like any processes, their networks loaded once. A block's end is published by the worker that did it
(inference/shares.py), so what a worker had finished when it died is not done again; the process that began the call settles and writes
what lies beside the cases, as without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.work import Lost, Workers
from pipeline.inference.desk import Desk
from pipeline.inference.folder_work import FolderWork
from pipeline.inference.journal import Entry
from pipeline.scans.listing import Block, Listed
from pipeline.scans.record import stamp_of

_ASK_AGAIN_S = 0.2
_MOST, _FEWEST = 128, 8
"""Files of a task: a worker starts its decoder anew for each, and a worker that dies begins one again."""


@dataclass(frozen=True)
class OnCluster:
    """Whose ``workers`` do the work. ``key_path``: the site key's file, the same for all, by which no key is sent (None: no key)."""

    workers: Workers
    key_path: Path | None = None


def work_on_cluster(workers: Workers, work: FolderWork, desk: Desk, files: int, blocks: Iterable[Block]) -> None:
    """Have ``workers`` work on ``blocks``, which hold at most so many ``files``, until it is enough.

    Files of a block whose workers were killed again and again are tried apart (what may be one volume together), and those
    that do the same alone end as ``failed``.
    """
    at_once = max(min(_FEWEST, math.ceil(files / workers.count())), min(_MOST, files // (4 * workers.count())))
    deadly: list[Block] = []
    for block, done in workers.results(work, _tasks(desk, blocks, at_once)):
        if isinstance(done, Lost):
            deadly += _apart(block)
        else:
            _count(desk, "done", *done)
    if deadly:
        for block, done in workers.results(work, ([part] for part in deadly)):
            if isinstance(done, Lost):
                _fail(desk, block, done.reason)
            else:
                _count(desk, "done", *done)


def _tasks(desk: Desk, blocks: Iterable[Block], files: int) -> Iterator[list[Block]]:
    """Blocks in which something is left to do, some together."""
    task: list[Block] = []
    for block in blocks:
        known = sum(_is_known(desk, file) for file in block.files)
        _count(desk, "known", known)
        if known < len(block.files):
            task.append(block)
        if sum(len(one.files) for one in task) >= files:
            yield task
            task = []
        if desk.enough():
            desk.stopped = True
            break
    if task:
        yield task


def _is_known(desk: Desk, file: Listed) -> bool:
    stamp = stamp_of(file.path, desk.names)
    return any(entry.stamp == stamp and desk.stands(entry) for entry in desk.journal.of_file(file.token))


def _count(desk: Desk, status: str, files: int, failed: int = 0) -> None:
    desk.finished += files
    desk.tell(desk.finished, status)
    desk.count_failures(failed)


def _apart(block: Block) -> list[Block]:
    """Blocks of the files that hang together by their key."""
    groups: dict[str, list[Listed]] = {}
    for file in block.files:
        groups.setdefault(file.key, []).append(file)
    return [Block(f"{block.id}-{number}", group) for number, group in enumerate(groups.values(), 1)]


def _fail(desk: Desk, block: Block, reason: str) -> None:
    """Publish that the files of ``block`` have failed, as a worker would."""
    while not desk.crew.take(block.id):  # of a worker that has just died
        time.sleep(_ASK_AGAIN_S)
    desk.hands.begin(block.id, [file.token for file in block.files], [])
    for file in block.files:
        desk.enter([Entry(file.token, stamp_of(file.path, desk.names), "", "", "", "failed", "worker_killed", reason, 0.0)])

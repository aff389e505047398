"""The blocks of a folder, worked on by a Dask cluster: workers share the output folder like any processes, their networks loaded once.

A block's end is published by the worker that did it (inference/shares.py), so what a worker had finished when it died is not done
again; the process that began the call settles and writes what lies beside the cases, as without a cluster.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import open_bundle
from pipeline.cluster.work import Lost, results
from pipeline.errors import ConfigError
from pipeline.inference.desk import Desk
from pipeline.inference.journal import Entry
from pipeline.inference.model_set import ModelSet
from pipeline.inference.out_folder import open_out, record_engine
from pipeline.inference.predict import Predictor
from pipeline.inference.profile import Profile
from pipeline.inference.worker import Means, Worker
from pipeline.memory import Limits
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Block, Listed
from pipeline.scans.raw_img import state_img_geometry
from pipeline.scans.record import stamp_of
from pipeline.scans.stated import fill, scale_of
from pipeline.training.platform import prepare_machine
from pipeline.types.stated import Stated

_ASK_AGAIN_S = 0.2
_MOST, _FEWEST = 128, 8
"""Files of a task: a worker starts its decoder anew for each, and a worker that dies begins one again."""


@dataclass(frozen=True)
class OnCluster:
    """Whose workers do the work: those of a dask ``client``. ``key_path``: the site key's file, the same for all (None: no key)."""

    client: Any
    key_path: Path | None = None


@dataclass(frozen=True)
class ClusterWork:
    """What each worker does with blocks; paths are the same on all machines. The site key is read from its file and never sent."""

    bundles: Sequence[Path]
    folder: Path
    out: Path
    key_path: Path | None
    stated: Stated
    device: str = "auto"
    engine: str = "torch"
    probabilities: bool = False
    doubt: bool = False
    max_pixels: int | None = None
    again: bool = False
    scratch: Path | None = None
    batch_size: int | None = None
    ocuseg: str = version("ocuseg")

    def open(self, held: ExitStack) -> Callable[[Sequence[Block]], list[int]]:
        if version("ocuseg") != self.ocuseg:
            raise ConfigError(f"a worker of the cluster has ocuseg {version('ocuseg')}, not {self.ocuseg}; install one version everywhere")
        on = prepare_machine(self.device)
        names = Pseudonyms.unkeyed() if self.key_path is None else Pseudonyms.load(self.key_path)
        state_img_geometry(self.stated.img_geometry)
        bundles = [open_bundle(path) for path in self.bundles]
        predictors = [Predictor(one, on, self.engine, explains=True, doubts=self.doubt, batch=self.batch_size) for one in bundles]
        models = ModelSet(predictors, scale_of(self.stated))
        limits = Limits.chosen(self.max_pixels, workers=1)
        means = Means(models, partial(fill, self.stated, names), 1, limits, Profile(), self.probabilities)
        crew = held.enter_context(open_out(self.out, self.folder, models, names, self.probabilities, self.stated))
        for predictor in predictors:
            predictor.tell_engine(partial(record_engine, self.out, crew, predictor.bundle.id))
        root = Path(os.path.abspath(self.folder if self.folder.is_dir() else self.folder.parent))
        desk = held.enter_context(closing(Desk(self.out, root, names, crew, scratch=self.scratch, again=self.again)))

        def work(blocks: Sequence[Block]) -> list[int]:
            """Also those whose lease a dead worker still has, once it has run out."""
            todo = list(blocks)
            while todo:
                Worker(means, desk).go(todo)
                free = desk.come_free()
                while desk.waiting and not free:
                    time.sleep(_ASK_AGAIN_S)
                    free = desk.come_free()
                todo = [block for block in blocks if block.id in free]
            return [len(block.files) for block in blocks]

        return work


def work_on_cluster(client: Any, work: ClusterWork, desk: Desk, files: int, enough: Callable[[], bool], blocks: Iterable[Block]) -> None:
    """Have the workers of ``client`` work on ``blocks``, which hold at most so many ``files``, until it is ``enough``.

    Files of a block whose workers were killed again and again are tried apart (what may be one volume together), and those
    that do the same alone end as ``failed``.
    """
    threads = max(sum(client.nthreads().values()), 1)
    at_once = max(_FEWEST, min(_MOST, files // (4 * threads)))
    deadly: list[Block] = []
    for block, done in results(client, work, _tasks(desk, blocks, at_once, enough)):
        if isinstance(done, Lost):
            deadly += _apart(block)
        else:
            _count(desk, "done", done)
    if deadly:
        for block, done in results(client, work, ([part] for part in deadly)):
            if isinstance(done, Lost):
                _fail(desk, block, done.reason)
            else:
                _count(desk, "done", done)


def _tasks(desk: Desk, blocks: Iterable[Block], files: int, enough: Callable[[], bool]) -> Iterator[list[Block]]:
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
        if enough():
            desk.stopped = True
            break
    if task:
        yield task


def _is_known(desk: Desk, file: Listed) -> bool:
    stamp = stamp_of(file.path, desk.names)
    return any(entry.stamp == stamp and desk.stands(entry) for entry in desk.journal.of_file(file.token))


def _count(desk: Desk, status: str, files: int) -> None:
    desk.finished += files
    desk.tell(desk.finished, status)


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

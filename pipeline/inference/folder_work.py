"""What a process that works on a folder of scans makes ready: networks, output folder, desk. The same for the process that was begun
by the user and for those that work for it (inference/on_cluster.py), to which this is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

from pipeline.bundles.bundle import open_bundle
from pipeline.errors import ConfigError
from pipeline.inference.desk import Desk
from pipeline.inference.model_set import ModelSet, finds_objects
from pipeline.inference.out_folder import open_out, record_engine
from pipeline.inference.predict import Predictor
from pipeline.inference.profile import Profile
from pipeline.inference.worker import Means, Worker
from pipeline.memory import Limits
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Block
from pipeline.scans.raw_img import state_img_geometry
from pipeline.scans.stated import fill, scale_of
from pipeline.training.platform import prepare_machine
from pipeline.types.stated import Stated

_ASK_AGAIN_S = 0.2


@dataclass(frozen=True)
class FolderWork:
    """Paths are the same on all machines, and absolute where this is sent.

    ``names``: the site key, or its file, where a key is not to be sent over a network. ``workers``: files read, and results written, at
    once. ``again`` and ``scratch`` as of :class:`~pipeline.scans.shard.Share`; others as of ``predict_folder`` (inference/folder.py).
    """

    bundles: Sequence[Path]
    folder: Path
    out: Path
    names: Pseudonyms | Path = field(repr=False)
    stated: Stated
    device: str
    engine: str
    probabilities: bool
    doubt: bool
    batch_size: int | None
    workers: int
    max_pixels: int | None
    again: bool
    scratch: Path | None
    ocuseg: str = version("ocuseg")

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    @property
    def root(self) -> Path:
        """What tokens are of."""
        return self.folder if self.folder.is_dir() else self.folder.parent

    def prepare(self, held: ExitStack, limits: Limits | None = None, profile: Profile | None = None) -> tuple[Means, Desk]:
        """What a worker works with, until ``held`` is closed.

        Raises
        ------
        BundleError: a bundle is not usable, or not by the engine. ConfigError: ``out`` is not (see :func:`open_out`), or an option.
        """
        on = prepare_machine(self.device)
        names = self.names if isinstance(self.names, Pseudonyms) else Pseudonyms.load(self.names)
        state_img_geometry(self.stated.img_geometry)
        bundles = [open_bundle(path) for path in self.bundles]
        if self.probabilities and any(map(finds_objects, bundles)):
            raise ConfigError("--probabilities: a detection bundle has scores of objects and none of pixels; leave the option out")
        predictors = [Predictor(one, on, self.engine, explains=True, doubts=self.doubt, batch=self.batch_size) for one in bundles]
        models = ModelSet(predictors, scale_of(self.stated))
        limits = limits or Limits.chosen(self.max_pixels, workers=self.workers)
        means = Means(models, partial(fill, self.stated, names), self.workers, limits, profile or Profile(), self.probabilities)
        crew = held.enter_context(open_out(self.out, self.folder, models, names, self.probabilities, self.stated))
        for predictor in predictors:
            predictor.tell_engine(partial(record_engine, self.out, crew, predictor.bundle.id))
        desk = Desk(self.out, self.root, names, crew, scratch=self.scratch, again=self.again)
        held.enter_context(closing(desk))
        return means, desk

    def open(self, held: ExitStack) -> Callable[[Sequence[Block]], list[tuple[int, int]]]:
        """In a worker's process: a function that works on blocks, and tells of each how many files it has, and how many have failed."""
        if version("ocuseg") != self.ocuseg:
            raise ConfigError(f"a worker of the cluster has ocuseg {version('ocuseg')}, not {self.ocuseg}; install one version everywhere")
        means, desk = self.prepare(held)

        def work(blocks: Sequence[Block]) -> list[tuple[int, int]]:
            """Also those whose lease a dead worker still has, once it has run out."""
            todo, before = list(blocks), desk.failures
            while todo:
                Worker(means, desk).go(todo)
                free = desk.come_free()
                while desk.waiting and not free:
                    time.sleep(_ASK_AGAIN_S)
                    free = desk.come_free()
                todo = [block for block in blocks if block.id in free]
            failed = [desk.failures - before] + [0] * len(blocks)
            return [(len(block.files), failed[number]) for number, block in enumerate(blocks)]

        return work


def absolute(path: Path) -> Path:
    """As it is named, links in it not followed."""
    return Path(os.path.abspath(path))

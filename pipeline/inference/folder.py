"""A whole hospital folder through one bundle or several, by one process or by many that share it: every file is accounted for.

The executor of one process. Any number of them may work on one OUT at the same time, on one machine or on many over a shared folder: they
share its blocks of files by leases (inference/crew.py), publish how each block ended (inference/shares.py), and the last one settles
what files say of each other and writes what lies beside the cases (inference/settle.py). One process alone goes the same way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from pipeline.bundles.shipped_models import find_bundle
from pipeline.errors import OcusegError, StoppedRun
from pipeline.inference import found
from pipeline.inference.desk import JOURNAL, Desk
from pipeline.inference.folder_work import FolderWork, absolute
from pipeline.inference.measurement_table import write_measurements
from pipeline.inference.object_files import gather_coco
from pipeline.inference.on_cluster import OnCluster, work_on_cluster
from pipeline.inference.out_folder import WORK
from pipeline.inference.profile import Profile
from pipeline.inference.settle import carry_out, decide, tell_conflicts
from pipeline.inference.visits import export, patients_of
from pipeline.inference.worker import Means, Worker
from pipeline.memory import Limits, usual_workers
from pipeline.scans.identity import Pseudonyms, tell_of_roles, warn_of_one_patient
from pipeline.scans.listing import Block, Listed, Listing
from pipeline.scans.record import token_of
from pipeline.scans.shard import Share
from pipeline.training.platform import device_workers, usable_cores
from pipeline.types import ProgressCallback
from pipeline.types.stated import Stated

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.5
SETTLE, _LEDGER = "settle", "ledger"
"""Leases of what one process at a time does."""
ROUNDS = 6
"""Of settling: a case that is made once more may get another name, or free one."""


def predict_folder(
    bundles: Path | Sequence[Path],
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    engine: str = "torch",
    probabilities: bool = False,
    doubt: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    pseudonyms: Pseudonyms | None = None,
    stated: Stated | None = None,
    limits: Limits | None = None,
    progress: ProgressCallback | None = None,
    profile: Profile | None = None,
    share: Share | None = None,
    cluster: OnCluster | None = None,
) -> dict[str, int]:
    """Segment every scan below ``folder``, or the one file that it is, into ``out``; begin, or go on where an earlier call ended.

    Other processes may do the same at the same time: each file is worked on by one of them. Without a shard the call returns when every
    file is done, by whomever.

    Parameters
    ----------
    bundles: a bundle, or several: those that fit a scan's kind make one case of it together.
    device: auto, cpu, cuda, or several for a process each: cuda:0,1 or cpu,cpu.
    engine: what runs the network (inference/engines/); auto: what is fastest on the first image.
    probabilities: also keep each class's probabilities (float16, ``probabilities.npz``).
    doubt: also look at flips of each picture, and show where they disagree; no mask changes.
    batch_size: images that go through a network together (None: one on a CPU, on a GPU as many as keep it busy).
    workers: files read, and results written, at once; as many as cores and memory allow, where nothing is given.
    pseudonyms: makes the names of cases; the published key of :meth:`Pseudonyms.unkeyed` is used without it (public data only).
    stated: what the user says of scans whose files do not say it. limits: what one file may take (None: what fits this machine).
    progress: called with files finished, files in all, and a word on the current state. profile: is told where the time goes.
    share: which part of it this process does; all of it without one. cluster: whose workers do it in place of this process.

    Returns
    -------
    How many files ended as done, part (of a volume that is done), failed, duplicate, not_an_image, not_followed (links) and rejected,
    earlier calls and other processes included; and how many of those done were read with_warnings.

    Raises
    ------
    BundleError: the bundle is not usable, or not by ``engine``; its weights are looked at with the first scan that they are for.
    ConfigError: ``out`` is not (see :func:`open_out`), or ``engine``. StoppedRun: ``share.stop_after`` is over.
    """
    own_device, others = device_workers(device, None if cluster is None else cluster.workers)
    share, profile = share or Share(), profile or Profile()
    names, workers = pseudonyms or Pseudonyms.unkeyed(), max(1, workers or usual_workers(usable_cores()))
    limits = limits or Limits.chosen(workers=workers)
    work = FolderWork(
        list(bundles) if isinstance(bundles, Sequence) else [bundles],
        absolute(folder), absolute(out), names, stated or Stated(), own_device, engine, probabilities, doubt, batch_size, workers,
        limits.max_pixels, share.again, share.scratch and absolute(share.scratch),
    )  # fmt: skip
    root = work.root
    with ExitStack() as held:
        means, desk = work.prepare(held, limits, profile)
        ends = share.ends_at()
        desk.enough = lambda: time.monotonic() > ends
        unlisted = desk.journal.unlisted()

        def note_listed(path: Path) -> None:
            if unlisted and (token := token_of(path, root, names)) in unlisted:
                desk.journal.forget_folder(token)

        listing = Listing(folder, root, names, chosen=share.chosen, shard=share.shard, on_folder=note_listed)
        held.enter_context(closing(listing))
        if share.shard is not None:
            log.info("share %s: %s of %s files are mine", share.shard, f"{listing.mine:,}", f"{listing.total:,}")
        found.note(out / WORK, listing, share.shard, desk.crew.me, whole=share.chosen is None)
        desk.most_failures = share.most_failures(listing.mine)
        desk.tell = lambda done, note: progress(done, listing.mine, note) if progress is not None else None
        every = None if share.chosen is None else cache(lambda: held.enter_context(closing(Listing(folder, root, names))))
        run = _Run(means, desk, listing, every, finds_objects=means.models.finds_objects)
        if others is not None:
            places = [absolute(find_bundle(path)) for path in work.bundles]
            theirs = replace(work, bundles=places, workers=max(1, workers // others.count()))
            if cluster is not None:
                theirs = replace(work, names=cluster.key_path or Pseudonyms.unkeyed(), device=device, workers=1)
            run.work = partial(work_on_cluster, others, theirs, desk, listing.mine)
        try:
            run.go()
        except BaseException:
            # Also after Ctrl-C what is known is what the ledger says; on a full disk the first error is the one to tell.
            with suppress(OSError, OcusegError):
                run.show()
            raise
        if desk.stopped:
            raise StoppedRun("the time of --stop-after is over: what was finished is saved; run the same command again to continue")
        tell_of_roles(desk.roles)
        return desk.journal.counts()


class _Run:
    """One process's call. ``every``: all files of the folder, where ``listing`` has chosen ones alone, else None."""

    def __init__(self, means: Means, desk: Desk, listing: Listing, every: Callable[[], Listing] | None, *, finds_objects: bool) -> None:
        self.means, self.desk, self.listing, self.every, self.finds_objects = means, desk, listing, every, finds_objects
        self.work: Callable[[Iterable[Block]], None] = lambda blocks: Worker(means, desk).go(blocks)

    def go(self) -> None:
        only: set[str] | None = None
        before = math.inf
        while True:
            self.work(block for block in self.listing.blocks() if only is None or block.id in only)
            if not self.desk.stopped:
                only = self._come_free()
                if only is not None:
                    continue
                if self.desk.catch_up() and self._is_settled():
                    return
                if self._knows_all():
                    if self._settle():
                        return
                    self.desk.finished = 0
                    continue  # another process has, and there may be more since
                left = sum(not self.desk.journal.knows(file.token) for file in self.listing)
                if 0 < left < before:  # new files, in blocks that another process had listed, and done, without them
                    before, self.desk.finished = left, 0
                    continue
            self.show()
            return

    def _come_free(self) -> set[str] | None:
        """Wait for what others work on: the blocks of those that ended before their end; None when all blocks are done."""
        while self.desk.waiting:
            if free := self.desk.come_free():
                return free
            if self.desk.waiting:
                time.sleep(_ASK_AGAIN_S)
        return None

    def _settle(self) -> bool:
        """As the last of those who share the work: what files say of each other, and what lies beside the cases. False where another
        process did it first."""
        desk = self.desk
        while not desk.crew.take(SETTLE):
            time.sleep(_ASK_AGAIN_S)
        try:
            if desk.catch_up():  # also with what one that was killed while it settled had made
                return self._is_settled()
            for _ in range(ROUNDS):
                decision = decide(desk.journal, desk.out, lambda token: self._file(token) is not None)
                carry_out(decision, desk.journal, desk.out)
                if decision.make:
                    self._make(decision.make)
                elif not decision.drop:
                    break
            return finish(desk, finds_objects=self.finds_objects)
        finally:
            desk.crew.give_back(SETTLE)

    def _knows_all(self) -> bool:
        """With chosen files, also of what others have listed who are at work: before that nobody knows what all are together."""
        desk, knows = self.desk, self.desk.journal.knows
        if not all(map(knows, self.listing.tokens())):
            return False
        if self.every is None:
            return True
        others = {*desk.crew.living()} - {desk.crew.me}
        return all(map(knows, found.of_others(desk.out / WORK, others)))

    def _file(self, token: str) -> Listed | None:
        own = self.listing.get(token)
        return self.every().get(token) if own is None and self.every is not None else own

    def _is_settled(self) -> bool:
        """By a process that has replaced the journal."""
        return self.desk.shares.is_empty() and self._knows_all()

    def _make(self, wanted: Sequence[tuple[Sequence[str], str]]) -> None:
        """Cases that hang on files of several blocks, or that another file is to name."""
        units = [[file for token in tokens if (file := self._file(token)) is not None] for tokens, _ in wanted]
        named = {tokens[0]: name for tokens, name in wanted if name}
        Worker(self.means, self.desk, named).go(Block(f"{SETTLE}-{number}", files) for number, files in enumerate(units))

    def show(self) -> None:
        """The ledger of what is known so far, for people: the next call goes on by what was published."""
        if self.desk.crew.take(_LEDGER):
            self.desk.catch_up()
            export(self.desk.journal, self.desk.out)
            self.desk.crew.give_back(_LEDGER)


def finish(desk: Desk, *, finds_objects: bool) -> bool:
    """What lies beside the cases, from a journal in which all is decided; the journal last, as a run is complete by it.

    To be called with the lease :data:`SETTLE`; False where another process has taken that over, and settles.
    """
    out, journal = desk.out, desk.journal
    with desk.crew.turn(_LEDGER):  # or a shard that ends meanwhile would put its own, which knows less, in the place of this one
        if not desk.crew.holds(SETTLE):
            return False
        tell_conflicts(journal, out)
        export(journal, out)
        write_measurements(out, patients_of(journal))
        if finds_objects:
            gather_coco(out)
        warn_of_one_patient(journal.images_of_patients())
        if not desk.crew.holds(SETTLE):
            return False
        journal.save(out / JOURNAL)
        desk.take_over()
    return True

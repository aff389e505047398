"""One process's way through blocks of files: reading, network and writing overlap, and every file's end is published with its block.

Reader threads have processes decode, and normalise, ahead; this thread runs the network, on a GPU on several photographs of one size
together; writer threads make masks of what it found, have them assessed (inference/assessors.py), encode and save behind it. The windows
between them are short, so memory does not grow with the folder.

* A case folder appears by one rename, so it is whole or it is not there.
* A case whose folder is there and whose entry is not (killed in between) is recognised by its SHA-256 and entered.
* A file that was looked at, and has not changed since, is not opened again. What failed by chance (``failed``) is tried again by the
  next call.
* Files are decoded in processes apart with limits of memory and time (:mod:`pipeline.scans.workers`), so no file ends the run.

Which of two equal files the case is named by, and what files of several blocks are together, is settled when all are known
(inference/settle.py); until then the first one that this process meets gets the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from pipeline.errors import ScanError
from pipeline.inference.batching import Batching
from pipeline.inference.case_files import recorded_sha256, suffixed
from pipeline.inference.desk import Desk, Hand
from pipeline.inference.journal import Entry
from pipeline.inference.model_set import ModelSet, PreparedCase
from pipeline.inference.pieces import Piece, judged, volume_of
from pipeline.inference.profile import Profile
from pipeline.inference.reading import File, Fill, Read, read_file
from pipeline.inference.writing import Job, Writers
from pipeline.memory import Budget, Limits, available_memory
from pipeline.scans.identity import roles_that_counted
from pipeline.scans.listing import Block
from pipeline.scans.record import Opened, pixels_sha256
from pipeline.scans.workers import Pool
from pipeline.types import CaseKey, Scan

_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True)
class Means:
    """What a worker works with. ``workers``: files read, and results written, at once."""

    models: ModelSet
    fill: Fill
    workers: int
    limits: Limits
    profile: Profile
    probabilities: bool = False


class Worker:
    """Works on blocks of one OUT (``desk``). ``named``: cases that must have another name than their files say, by token; their files are
    not compared with others."""

    def __init__(self, means: Means, desk: Desk, named: dict[str, str] | None = None) -> None:
        self.means, self.desk, self.named = means, desk, named
        self.writers = Writers(desk.out, desk.staging, means.workers, self._enter, means.profile)
        self.batching = Batching(means.profile, means.probabilities, self.writers.submit, self._fail, self.writers.assess)
        self._due: list[Hand] = []  # all of their files were read, and some may be slices of volumes

    def go(self, blocks: Iterable[Block]) -> None:
        """Work on those of ``blocks`` that nobody else works on, until the desk says that it is enough."""
        with (
            ThreadPoolExecutor(self.means.workers, "ocuseg-read") as readers,
            Pool(self.desk.root, self.desk.names, self.means.limits) as pool,
            closing(self.desk.hands),
            closing(self.writers),  # the first to close: it enters what it waits for
        ):
            reading: deque[Future[Read]] = deque()
            budget = Budget(min(self.means.limits.total_bytes, available_memory()) // 2)

            def take(at_most: int) -> None:
                while len(reading) > at_most:
                    self._take(self._next(reading.popleft(), budget))

            try:
                for number, file in enumerate(self.desk.files(blocks, anew=self.named is not None)):
                    reading.append(
                        readers.submit(read_file, file, number, pool, self.means.models, self.means.fill, budget, self.means.profile)
                    )
                    take(self.means.workers)
                    if self._due:
                        take(0)  # volumes are read when no photograph holds memory
                        self._make_volumes(pool, readers)
                take(0)
                self._make_volumes(pool, readers)
                self.batching.run()
            finally:
                budget.close()
                for future in reading:
                    future.cancel()

    def _next(self, future: Future[Read], budget: Budget) -> Read:
        """A file that has been read; should it wait for memory that photographs hold which wait for each other, these wait no longer."""
        while self.batching.entries and not future.done():
            wait([future], timeout=_LOOK_AGAIN_S)
            if budget.is_waited_for:
                self.batching.run()
        return future.result()

    def _make_volumes(self, pool: Pool, readers: ThreadPoolExecutor) -> None:
        due, self._due = self._due, []
        if due:
            self.batching.run()
        for hand in due:
            for series in hand.series():
                self._read_series(series, pool, readers)
        # Slices of a series that makes no volume are photographs, which may wait for others of their size.

    def _read_series(self, pieces: Sequence[Piece], pool: Pool, readers: ThreadPoolExecutor) -> None:
        def opened(piece: Piece) -> Opened:
            with self.means.profile.stage("read and decode"):
                return pool.scan(piece.file.path)

        pixels = len(pieces) * max(piece.pixels for piece in pieces)
        if pixels <= self.means.limits.max_pixels:
            self._take_series(pieces, [*readers.map(opened, pieces)], judged(piece.file.token for piece in pieces))
            return
        why = ScanError("no_volume", f"a file of a series of {pixels:,} pixels, more than max_pixels: no volume was made of it")
        for piece in pieces:
            self._take_series([piece], [*readers.map(opened, [piece])], judged(piece.file.token for piece in pieces), why)

    def _take(self, read: Read) -> None:
        """Runs in this thread: enter what was refused or is known already, else the network, then hand over to a writer."""
        with ExitStack() as held:
            held.callback(read.release)
            self._finish(read, held)
        hand = self.desk.hands.of(read.file.token)
        if hand is not None and hand.is_read_with(read.file.token):
            self._due.append(hand)

    def _finish(self, read: Read, held: ExitStack) -> None:
        if read.ready is None:
            self._enter(read.entry())
            return
        scan = read.ready.scan
        entry = self._done(read.file, scan, read.seconds)
        if self.named is None:
            # Whether this one is a duplicate hangs on what becomes of the other.
            if any(entry.may_be(other) for other in self.batching.entries):
                self.batching.run()
            if any(entry.may_be(other) for other in self.writers.entries):
                self.writers.settle()
            other = self.desk.other(entry)
            if other is not None and other.kind != "conflict":
                self._enter(replace(entry, status="duplicate", code=other.kind, reason=other.same))
                return
        self.desk.roles.update(roles_that_counted(entry.case, read.file.path, self.desk.root, self.desk.names))
        if scan.piece is not None:
            self.desk.note_original(entry)
            self.desk.hands.put_aside(Piece(read.file, entry.series, new=True, pixels=scan.pixels.size))
            return
        self._predict(read.ready, entry, held=held)

    def _done(self, file: File, scan: Scan, seconds: float) -> Entry:
        instance = "" if scan.sop_instance_uid is None else self.desk.names.token("image", scan.sop_instance_uid)
        series = "" if scan.piece is None else scan.piece.series
        name = str(scan.case)
        entry = Entry(file.token, file.stamp, scan.sha256, instance, name, "done", "", "", seconds, pixels_sha256(scan), series)
        entry = replace(entry, patient_source=scan.patient_source, day=scan.day, key=name, own=scan.sha256)
        return replace(entry, place=file.key) if series else entry

    def _take_series(self, pieces: Sequence[Piece], opened: Sequence[Opened], of: str, why: ScanError | None = None) -> None:
        """The files of one series: a volume where they make one, else pictures that say why not (``why``, where it is known)."""
        found: list[tuple[Piece, Scan]] = []
        for piece, one in zip(pieces, opened, strict=True):
            if one.scan is not None:
                found.append((piece, self.means.fill(one.scan, piece.file.path)))
            elif one.error is not None:
                self._enter(piece.file.refused(one.error, one.sha256 or ""))
        if len(found) > 1:
            try:
                volume, order = volume_of([scan for _, scan in found])
                ready = self._ready(volume)
            except ScanError as error:
                why = error
            else:
                entries = [replace(self._done(found[index][0].file, found[index][1], 0.0), judged=of) for index in order]
                reasons = [f"slice {number} of {len(entries)} of a volume" for number in range(1, len(entries) + 1)]
                parts = [replace(e, status="part", code="slice", reason=r) for e, r in zip(entries, reasons, strict=True)][1:]
                self._predict(ready, replace(entries[0], sha256=volume.sha256), parts)
                return
        for piece, scan in found:
            if piece.new or self.named is not None:
                try:
                    ready = self._ready(scan)
                except ScanError as error:
                    self._enter(piece.file.refused(error, scan.sha256))
                else:
                    self._predict(ready.noted(str(why or "")), replace(self._done(piece.file, scan, 0.0), judged=of))

    def _ready(self, scan: Scan) -> PreparedCase:
        with self.means.profile.stage("normalise"):
            return self.means.models.ready(scan)

    def _predict(self, ready: PreparedCase, entry: Entry, parts: Sequence[Entry] = (), held: ExitStack | None = None) -> None:
        """The network, then over to a writer, or what is there already; a photograph may wait for others of its size.

        What ``held`` holds is let go of when the case is done.
        """
        name, is_there = self._folder_name(ready.scan.case, ready.scan.sha256, entry.token)
        entry = replace(entry, case=name, reason=ready.scan.told)
        parts = [replace(part, case=name) for part in parts]
        if is_there:
            self._enter(entry, *parts)
            return
        for predictor in ready.predictors:  # those of other kinds of scans are not built in vain; a fault of the bundle ends the run
            predictor.load()
        self.batching.add(Job(ready, entry, parts, ExitStack() if held is None else held.pop_all()))

    def _fail(self, job: Job, error: Exception) -> None:
        job.held.close()
        self._enter(*job.failed(error, "failed"))

    def _folder_name(self, case: CaseKey, sha256: str, token: str) -> tuple[str, bool]:
        """A name that no other content has, and whether this content's result is already there."""
        busy = {entry.case: entry.sha256 for entry in (*self.batching.entries, *self.writers.entries)}
        own = (self.named or {}).get(token)
        for name in (str(case), suffixed(case, sha256)) if own is None else (own,):
            written = recorded_sha256(self.desk.out / "cases" / name)
            held = busy.get(name) if written is None else written
            if held is None or held == sha256:
                return name, written is not None
        raise ScanError("malformed", "two cases have one name and the same beginning of their SHA-256")

    def _enter(self, *entries: Entry) -> None:
        self.desk.enter(entries)

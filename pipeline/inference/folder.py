"""A whole hospital folder through one bundle or several: reading, network and writing overlap, every file is accounted for.

Reader threads have processes decode, and normalise, ahead; this thread runs the network, on a GPU on several photographs of one size
together; writer threads make masks of what it found, encode and save behind it. The windows between them are short, so memory does not
grow with the folder. Each file's end is written to the journal before the
ledger knows of it. A process that is killed leaves finished cases and nothing else; started again, it does what is missing:

* a case folder appears by one rename, so it is whole or it is not there;
* a case whose folder is there and whose journal entry is not (killed in between) is recognised by its SHA-256 and entered;
* a file that was looked at, and has not changed since, is not opened again. What failed by chance (``failed``) is tried again;
* files are decoded in processes apart with limits of memory and time (:mod:`pipeline.scans.workers`), so no file ends the run.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.bundles.bundle import open_bundle
from pipeline.errors import ConfigError, OcusegError, ScanError
from pipeline.inference.batching import Batching
from pipeline.inference.case_files import recorded_sha256
from pipeline.inference.journal import Entry, Journal
from pipeline.inference.laterality import doubt_side
from pipeline.inference.measurement_table import write_measurements
from pipeline.inference.model_set import ModelSet, PreparedCase, finds_objects
from pipeline.inference.object_files import gather_coco
from pipeline.inference.out_folder import open_out, record_engine
from pipeline.inference.pieces import Piece, Pieces, volume_of
from pipeline.inference.predict import Predictor
from pipeline.inference.profile import Profile
from pipeline.inference.reading import File, Fill, Read, read_file
from pipeline.inference.visits import export
from pipeline.inference.writing import Job, Writers
from pipeline.memory import Budget, Limits, available_memory, usual_workers
from pipeline.scans.identity import Pseudonyms, roles_that_counted, tell_of_roles, warn_of_one_patient
from pipeline.scans.originals import Originals, Other
from pipeline.scans.place import Role
from pipeline.scans.record import PASSING, Opened, pixels_sha256, stamp_of, token_of
from pipeline.scans.stated import fill, scale_of
from pipeline.scans.walk import walk
from pipeline.scans.workers import Pool
from pipeline.training.platform import prepare_machine, usable_cores
from pipeline.types import CaseKey, ProgressCallback, Scan
from pipeline.types.stated import Stated

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.05


def predict_folder(
    bundles: Path | Sequence[Path],
    folder: Path,
    out: Path,
    *,
    device: str = "auto",
    engine: str = "torch",
    probabilities: bool = False,
    doubt: bool = False,
    workers: int | None = None,
    pseudonyms: Pseudonyms | None = None,
    stated: Stated | None = None,
    limits: Limits | None = None,
    progress: ProgressCallback | None = None,
    profile: Profile | None = None,
) -> dict[str, int]:
    """Segment every scan below ``folder``, or the one file that it is, into ``out``; begin, or go on where an earlier call ended.

    Parameters
    ----------
    bundles: a bundle, or several: those that fit a scan's kind make one case of it together.
    engine: what runs the network (inference/engines/); auto: what is fastest on the first image.
    probabilities: also keep each class's probabilities (float16, ``probabilities.npz``).
    doubt: also look at flips of each picture, and show where they disagree; no mask changes.
    workers: files read, and results written, at once; as many as cores and memory allow, where nothing is given.
    pseudonyms: makes the names of cases; the published key of :meth:`Pseudonyms.unkeyed` is used without it (public data only).
    stated: what the user says of scans whose files do not say it. limits: what one file may take (None: what fits this machine).
    progress: called with files finished, files in all, and a word on the current state. profile: is told where the time goes.

    Returns
    -------
    How many files ended as done, part (of a volume that is done), failed, duplicate, not_an_image, not_followed (links) and rejected,
    earlier calls included; and how many of those done were read with_warnings.

    Raises
    ------
    BundleError: the bundle is not usable, or not by ``engine``; its weights are looked at with the first scan that they are for.
    ConfigError: ``out`` is not (see :func:`open_out`), or ``engine``.
    """
    loaded = [open_bundle(path) for path in (bundles if isinstance(bundles, Sequence) else (bundles,))]
    on, names = prepare_machine(device), pseudonyms or Pseudonyms.unkeyed()
    stated, profile = stated or Stated(), profile or Profile()
    if probabilities and any(map(finds_objects, loaded)):
        raise ConfigError("--probabilities: a detection bundle has scores of objects and none of pixels; leave the option out")
    models = ModelSet([Predictor(bundle, on, engine, explains=True, doubts=doubt) for bundle in loaded], scale_of(stated))
    with open_out(out, folder, models, names, probabilities, stated), closing(Journal(out / "journal.sqlite", names)) as journal:
        try:
            total = sum(1 for _ in walk(folder)) if progress is not None else None
            for predictor in models.predictors:
                predictor.tell_engine(partial(record_engine, out, predictor.bundle.id))
            run = _Run(models, folder, out, names, journal, probabilities, partial(fill, stated, names), workers, limits, profile)
            run.go(lambda done, note: progress(done, total, note) if progress is not None else None)
        except BaseException:
            # Also after Ctrl-C what is in the journal is what the ledger says; on a full disk the first error is the one to tell.
            with suppress(OSError, OcusegError):
                export(journal, out)
            raise
        export(journal, out)
        write_measurements(out, sorted({entry.case for entry in journal.results()}))
        if models.finds_objects:
            gather_coco(out)
        warn_of_one_patient(Counter(entry.case.partition("_")[0] for entry in journal.results()))
        tell_of_roles(run.roles)
        return journal.counts()


class _Run:
    def __init__(
        self,
        models: ModelSet,
        folder: Path,
        out: Path,
        names: Pseudonyms,
        journal: Journal,
        probabilities: bool,
        filled: Fill,
        workers: int | None,
        limits: Limits | None,
        profile: Profile,
    ) -> None:
        self.models, self.out, self.names, self.journal, self.fill = models, out, names, journal, filled
        self.start, self.folder = folder, folder if folder.is_dir() else folder.parent
        self.workers = max(1, workers or usual_workers(usable_cores()))
        self.limits, self.profile = limits or Limits.chosen(workers=self.workers), profile
        self.writers = Writers(out, self.workers, self._enter, profile)
        self.batching = Batching(profile, probabilities, self.writers.submit, self._fail)
        self.originals, self.pieces, self.roles = Originals(), Pieces(), Counter[Role]()
        for entry in filter(self._stands, journal.results()):
            self._note_original(entry)
        self.finished = 0
        self.tell: Callable[[int, str], None] = lambda done, note: None

    def go(self, tell: Callable[[int, str], None]) -> None:
        self.tell = tell
        with (
            ThreadPoolExecutor(self.workers, "ocuseg-read") as readers,
            Pool(self.folder, self.names, self.limits) as pool,
            closing(self.originals),
            closing(self.pieces),
            closing(self.writers),  # the first to close: it enters what it waits for, and originals are told of that
        ):
            reading: deque[Future[Read]] = deque()
            budget = Budget(min(self.limits.total_bytes, available_memory()) // 2)
            try:
                for number, file in enumerate(self._files()):
                    reading.append(readers.submit(read_file, file, number, pool, self.models, self.fill, budget, self.profile))
                    # Results are taken in the order of the walk, so that of two equal files the first is always the original.
                    if len(reading) > self.workers:
                        self._take(self._next(reading.popleft(), budget))
                while reading:
                    self._take(self._next(reading.popleft(), budget))
                self.batching.run()  # volumes are read when no photograph holds memory
                for pieces, pixels in self.pieces.groups():
                    self._read_series(pieces, pixels, pool, readers)
                # Slices of a series that makes no volume are photographs. Those that Ctrl-C finds waiting are in no journal: the next
                # run makes them.
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

    def _read_series(self, pieces: Sequence[Piece], pixels: int, pool: Pool, readers: ThreadPoolExecutor) -> None:
        def opened(piece: Piece) -> Opened:
            with self.profile.stage("read and decode"):
                return pool.scan(piece.file.path)

        if pixels <= self.limits.max_pixels:
            self._take_series(pieces, [*readers.map(opened, pieces)])
            return
        why = ScanError("no_volume", f"a file of a series of {pixels:,} pixels, more than max_pixels: no volume was made of it")
        for piece in pieces:
            self._take_series([piece], [*readers.map(opened, [piece])], why)

    def _files(self) -> Iterator[File]:
        """Files that need work; those whose end is known are counted and passed over."""
        unlisted = self.journal.unlisted()

        def note_listed(folder: Path) -> None:
            if unlisted and (token := token_of(folder, self.folder, self.names)) in unlisted:
                self.journal.forget_folder(token)

        for path, problem in walk(self.start, on_folder=note_listed):
            token, stamp = token_of(path, self.folder, self.names), stamp_of(path, self.names)
            if problem is not None:
                self._enter(File(path, token, stamp).refused(problem))
                continue
            known = [entry for entry in self.journal.of_file(token) if entry.stamp == stamp and self._stands(entry)]
            if known:
                self._count(known[0].status)
                if known[0].status in ("done", "part"):
                    self.roles.update(roles_that_counted(known[0].case, path, self.folder, self.names))
                if known[0].series and known[0].status != "duplicate":
                    self.pieces.add(known[0].series, File(path, token, stamp), new=False)
            else:
                yield File(path, token, stamp)

    def _stands(self, entry: Entry) -> bool:
        """Whether an entry still holds: what failed or was not readable is tried again, and so are a result that somebody removed and
        what was a duplicate of either."""
        if entry.status in ("done", "part"):
            return (self.out / "cases" / entry.case).is_dir()
        if entry.status == "duplicate" and (entry.instance or not entry.series):
            # A volume is entered under its own hash, so that of its first slice nothing but the UID is found.
            other = self._other(entry)
            return other is not None and other.kind != "conflict"
        return entry.status != "failed" and entry.code not in PASSING

    def _take(self, read: Read) -> None:
        """Runs in this thread: enter what was refused or is known already, else the network, then hand over to a writer."""
        with ExitStack() as held:
            held.callback(read.release)
            self._finish(read, held)

    def _finish(self, read: Read, held: ExitStack) -> None:
        if read.ready is None:
            self._enter(read.entry())
            return
        scan = read.ready.scan
        entry = self._done(read.file, scan, read.seconds)
        # Whether this one is a duplicate hangs on what becomes of the other.
        if any(entry.may_be(other) for other in self.batching.entries):
            self.batching.run()
        if any(entry.may_be(other) for other in self.writers.entries):
            self.writers.settle()
        other = self._other(entry)
        if other is not None and other.kind != "conflict":
            self._enter(replace(entry, status="duplicate", code=other.kind, reason=other.same + doubt_side(self.out, other, entry.case)))
            return
        self.roles.update(roles_that_counted(entry.case, read.file.path, self.folder, self.names))
        note = f"{other.case} has the same SOP Instance UID and another picture; one of the two is named wrongly" if other else ""
        if scan.piece is not None:
            self._note_original(entry)
            self.pieces.add(entry.series, read.file, new=True, note=note, pixels=scan.pixels.size)
            return
        self._predict(read.ready.noted(note), entry, held=held)

    def _note_original(self, entry: Entry) -> None:
        self.originals.add(entry.token, entry.case, entry.sha256, entry.instance, entry.pixels)

    def _other(self, entry: Entry) -> Other | None:
        return self.originals.find(entry.token, entry.sha256, entry.instance, entry.pixels)

    def _done(self, file: File, scan: Scan, seconds: float) -> Entry:
        instance = "" if scan.sop_instance_uid is None else self.names.token("image", scan.sop_instance_uid)
        series = "" if scan.piece is None else scan.piece.series
        entry = Entry(file.token, file.stamp, scan.sha256, instance, str(scan.case), "done", "", "", seconds, pixels_sha256(scan), series)
        return replace(entry, patient_source=scan.patient_source, day=scan.day)

    def _take_series(self, pieces: Sequence[Piece], opened: Sequence[Opened], why: ScanError | None = None) -> None:
        """The files of one series: a volume where they make one, else pictures that say why not (``why``, where it is known)."""
        found: list[tuple[Piece, Scan]] = []
        for piece, one in zip(pieces, opened, strict=True):
            if one.scan is not None:
                found.append((piece, self.fill(one.scan, piece.file.path)))
            elif one.error is not None:
                self._enter(piece.file.refused(one.error, one.sha256 or ""))
        if len(found) > 1:
            try:
                volume, order = volume_of([scan for _, scan in found])
                ready = self._ready(volume)
            except ScanError as error:
                why = error
            else:
                entries = [self._done(found[index][0].file, found[index][1], 0.0) for index in order]
                reasons = [f"slice {number} of {len(entries)} of a volume" for number in range(1, len(entries) + 1)]
                parts = [replace(e, status="part", code="slice", reason=r) for e, r in zip(entries, reasons, strict=True)][1:]
                notes = "; ".join(dict.fromkeys(piece.note for piece, _ in found if piece.note))
                self._predict(ready.noted(notes), replace(entries[0], sha256=volume.sha256), parts)
                return
        for piece, scan in found:
            if piece.new:
                note = "; ".join(filter(None, (piece.note, str(why or ""))))
                try:
                    ready = self._ready(scan)
                except ScanError as error:
                    self._enter(piece.file.refused(error, scan.sha256))
                else:
                    self._predict(ready.noted(note), self._done(piece.file, scan, 0.0))

    def _ready(self, scan: Scan) -> PreparedCase:
        with self.profile.stage("normalise"):
            return self.models.ready(scan)

    def _predict(self, ready: PreparedCase, entry: Entry, parts: Sequence[Entry] = (), held: ExitStack | None = None) -> None:
        """The network, then over to a writer, or what is there already; a photograph may wait for others of its size.

        What ``held`` holds is let go of when the case is done.
        """
        name, is_there = self._folder_name(ready.scan.case, ready.scan.sha256)
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

    def _folder_name(self, case: CaseKey, sha256: str) -> tuple[str, bool]:
        """A name that no other content has, and whether this content's result is already there."""
        busy = {entry.case: entry.sha256 for entry in (*self.batching.entries, *self.writers.entries)}
        for key in (case, replace(case, image=f"{case.image[:51]}-{sha256[:12]}")):
            name = str(key)
            written = recorded_sha256(self.out / "cases" / name)
            held = busy.get(name) if written is None else written
            if held is None or held == sha256:
                return name, written is not None
        raise ScanError("malformed", "two cases have one name and the same beginning of their SHA-256")

    def _enter(self, *entries: Entry) -> None:
        if entries:
            self.journal.record(*entries)
        for entry in entries:
            if entry.status == "done" and not entry.series:  # a slice was noted when it was put aside
                self._note_original(entry)
            self._count(entry.status)

    def _count(self, status: str) -> None:
        self.finished += 1
        self.tell(self.finished, status)

"""A folder of scans without whose they are: ``OUT/<patient>/<visit>/<image>_<eye>.<ending>``, and a ledger that accounts for every file.

Folders and files get pseudonyms. The ledger holds tokens, codes, reasons and names of fields, never a value. Nothing in ``OUT`` leads back;
``ocuseg whois`` does, where the scans and the site key are. The same folder, key and options give the same files, so a second run
continues the first.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.atomic import atomic_path, remove_leftovers, write_text
from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.file import Job
from pipeline.deidentify.worker import clean_in, pool_of
from pipeline.errors import ConfigError, ScanError
from pipeline.lock import locked
from pipeline.memory import Limits
from pipeline.scans.record import PASSING, stamp_of, status_of, token_of
from pipeline.scans.walk import walk
from pipeline.scans.workers import Pool
from pipeline.types import ProgressCallback, no_progress

LEDGER, SETTINGS = "ledger.csv", "deidentified.json"
_CONFLICT = "conflict"
_AHEAD = 2
"""Cleaned files that wait for the slowest one, for each process."""


@dataclass(frozen=True)
class Line:
    """One file in the ledger. ``file`` and ``stamp``: tokens of its path and of its size and time · ``status``: written, duplicate,
    refused, not_an_image or not_followed · ``output``: below OUT · ``removed``, ``notes``: joined by "; "."""

    file: str
    stamp: str
    status: str
    code: str = ""
    reason: str = ""
    output: str = ""
    removed: str = ""
    notes: str = ""


def deidentify_folder(
    job: Job,
    out: Path,
    *,
    dry_run: bool = False,
    workers: int = 2,
    limits: Limits | None = None,
    on_file: Callable[[Path, Line], None] | None = None,
    progress: ProgressCallback = no_progress,
) -> Counter[str]:
    """Clean every file below ``job.root`` into ``out``; files that did not change since the last run are left as they are.

    Parameters
    ----------
    dry_run: write nothing, not even ``out``.
    workers: processes that read and clean; 0 does so in this one (no protection against a decoder that crashes or hangs).
    limits: what one file may take; by default what fits this machine. Of pixels, what ``job`` says counts.
    on_file: is given each file's path, for the screen, and its line.

    Returns
    -------
    Counts by status, and ``text``: files with text burned in.

    Raises
    ------
    ConfigError: ``out`` lies in ``job.root`` or holds something else, or was made with another key or other options.
    """
    _check_place(job.root, out)
    if dry_run:
        return _all(job, None, {}, (workers, limits), on_file, progress)[0]
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", ConfigError(f"another run is writing to {str(out)!r}; wait for it, or give another folder")):
        _check_settings(out, job)
        remove_leftovers(out)
        counts, lines = _all(job, out, _read_ledger(out), (workers, limits), on_file, progress)
        write_text(out / LEDGER, _as_csv(lines))
    return counts


def _all(
    job: Job,
    out: Path | None,
    before: dict[str, Line],
    workers: tuple[int, Limits | None],
    on_file: Callable[[Path, Line], None] | None,
    progress: ProgressCallback,
) -> tuple[Counter[str], list[Line]]:
    counts: Counter[str] = Counter()
    lines: list[Line] = []
    found = list(walk(job.root))
    known = {path: line for path, _ in found if (line := _known(path, job, out, before))}
    # What stays keeps its place, even where a newcomer with the same identifiers is met first: that one is the conflict.
    written = {line.output for line in known.values()}
    with closing(_cleaned(job, ((path, problem) for path, problem in found if path not in known), *workers)) as cleaned:
        for number, (path, _) in enumerate(found):
            progress(number + 1, len(found), "")
            line = known.get(path) or _line(next(cleaned), out, written)
            counts[line.status] += 1
            counts["text"] += "burned" in line.notes or line.code == "burned_in"
            lines.append(line)
            if on_file is not None:
                on_file(path, line)
    return counts, sorted(lines, key=lambda line: line.file)


@dataclass(frozen=True)
class _Done:
    """What became of one file, before it is known what others became; ``place`` below OUT."""

    file: str
    stamp: str
    cleaned: Cleaned | None = None
    place: str = ""
    error: ScanError | None = None


def _cleaned(job: Job, files: Iterable[tuple[Path, ScanError | None]], workers: int, limits: Limits | None) -> Generator[_Done, None, None]:
    """Each file, in their order."""
    if workers < 1:
        yield from (_clean(job, None, *file) for file in files)
        return
    waiting: deque[Callable[[], _Done]] = deque()
    with (
        ThreadPoolExecutor(workers, "ocuseg-clean") as threads,
        pool_of(job, limits or Limits.chosen(job.max_pixels, workers=workers)) as pool,
    ):
        try:
            for file in files:
                waiting.append(threads.submit(_clean, job, pool, *file).result)
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _clean(job: Job, pool: Pool | None, path: Path, problem: ScanError | None) -> _Done:
    file, stamp = token_of(path, job.root, job.names), stamp_of(path, job.names)
    try:
        if problem is not None:
            raise problem
        return _Done(file, stamp, *clean_in(pool, path, job))
    except ScanError as error:
        return _Done(file, stamp, error=error)


def _known(path: Path, job: Job, out: Path | None, before: dict[str, Line]) -> Line | None:
    """What an earlier run made of a file that did not change since, unless that may have passed or hung on another file."""
    line = before.get(token_of(path, job.root, job.names))
    if line is None or line.stamp != stamp_of(path, job.names) or line.code in PASSING or line.code == _CONFLICT:
        return None
    return line if not line.output or (out and (out / line.output).is_file()) else None


def _line(done: _Done, out: Path | None, written: set[str]) -> Line:
    """``written``: what this run has written or found in its place; added to."""
    cleaned = done.cleaned
    try:
        if cleaned is None:
            assert done.error is not None
            raise done.error
        status = _write(out, done.place, cleaned, written)
    except ScanError as error:
        status = status_of(error.code)
        return Line(done.file, done.stamp, "refused" if status == "rejected" else status, error.code, str(error))
    return Line(done.file, done.stamp, status, "", "", done.place, "; ".join(cleaned.removed), "; ".join(cleaned.notes))


def _write(out: Path | None, place: str, cleaned: Cleaned, written: set[str]) -> str:
    """Write one file, unless this run has written the same one; "written" or "duplicate"."""
    if place in written:
        if out is None or (out / place).read_bytes() == cleaned.content:
            return "duplicate"
        raise ScanError(_CONFLICT, "another file has the same identifiers and other content; give each its own, or leave one out")
    written.add(place)
    if out is not None:
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out / place) as staged:
            staged.write_bytes(cleaned.content)
    return "written"


def _check_place(root: Path, out: Path) -> None:
    real_root, real_out = root.resolve(), out.resolve()
    if real_out == real_root or real_root in real_out.parents or real_out in real_root.parents:
        raise ConfigError(
            "--out and the folder of scans lie in each other: choose a folder elsewhere, so that neither is taken for the other"
        )


def _check_settings(out: Path, job: Job) -> None:
    """Refuse a folder begun with another key or other options: one patient would have two names, or two ways of dates."""
    key = job.names.token("stamp", "deidentify")
    mine = {"profile": "basic", "options": sorted(job.rules.options), "burned_in": job.burned_in, "key": key}
    path = out / SETTINGS
    if not path.exists():
        if any(one.name != ".lock" and not one.name.startswith(".") for one in out.iterdir()):
            raise ConfigError(f"{str(out)!r} is not empty and holds no earlier run; give a new folder")
        write_text(path, json.dumps(mine, indent=2) + "\n")
        return
    if json.loads(path.read_text(encoding="utf-8")) != mine:
        raise ConfigError(f"{str(out)!r} was begun with another site key or other options; give the same ones, or a new folder")


def _read_ledger(out: Path) -> dict[str, Line]:
    with suppress(FileNotFoundError), (out / LEDGER).open(encoding="utf-8", newline="") as file:
        return {row["file"]: Line(**row) for row in csv.DictReader(file)}
    return {}


def _as_csv(lines: list[Line]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()

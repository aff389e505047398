"""What a file and a case cost, for the arithmetic of docs/scale.md: disk, inodes, ledger, seconds of a processor, report.

    .venv/bin/python workflows/scale_constants.py PHOTOGRAPHS [--model vessels] [--copies 4] [--write docs/scale.md]

Photographs of PHOTOGRAPHS and, so that fixed costs show, as many again `copies` times with another pixel each are indexed, predicted
and reported, each by the command itself in a process with one thread. What stays the same for the smaller and the larger folder
is a fixed cost; the difference is what a file or a case costs. The two databases, which grow by pages, are filled with 20,000 entries.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.cli.console import script
from pipeline.inference.journal import Entry, Journal
from pipeline.scans.catalogue import CatalogueWriter
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import FileRecord

ENDINGS = (".png", ".jpg", ".jpeg", ".tif")


@dataclass(frozen=True)
class Cost:
    """Of one folder of so many ``files``."""

    files: int
    index_cpu_s: float
    predict_cpu_s: float
    case_bytes: int
    case_inodes: int
    ledger_bytes: int
    report_cpu_s: float
    report_bytes: int
    report_inodes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--model", default="vessels")
    parser.add_argument("--most", type=int, default=4, help="photographs of the folder that are used")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    pictures = sorted(path for path in options.photographs.rglob("*") if path.suffix.lower() in ENDINGS)[: options.most]
    if not pictures:
        sys.exit(f"{options.photographs} holds no photograph")
    with tempfile.TemporaryDirectory() as folder:
        costs = [measured(Path(folder) / str(copies), pictures, copies, options.model) for copies in (1, options.copies)]
    lines = table(*costs)
    print("\n".join(lines))
    if options.write is not None:
        begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
        before, _, rest = options.write.read_text(encoding="utf-8").partition(begin)
        options.write.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{rest.partition(end)[2]}"]), encoding="utf-8")


def measured(folder: Path, pictures: Sequence[Path], copies: int, model: str) -> Cost:
    scans, out = folder / "scans", folder / "out"
    scans.mkdir(parents=True)
    for copy in range(copies):
        for number, picture in enumerate(pictures):
            image = Image.open(picture).convert("RGB")
            image.putpixel((copy, 0), (copy, 0, 0))
            (scans / f"p{copy}_{number}").mkdir()
            image.save(scans / f"p{copy}_{number}" / "OD.png")
    files = copies * len(pictures)
    index_s = cpu_of(["index", str(scans), "--out", str(folder / "catalogue.sqlite"), "--workers", "1"])
    predict_s = cpu_of(["predict", model, str(scans), "--out", str(out), "--workers", "1", "--device", "cpu"])
    cases = list((out / "cases").rglob("*"))
    size = sum(path.stat().st_size for path in cases if path.is_file())
    ledger = (out / "ledger.csv").stat().st_size
    before = set(out.rglob("*"))
    report_s = cpu_of(["report", str(out)])
    report = [path for path in out.rglob("*") if path not in before]
    return Cost(
        files, index_s, predict_s, size, len(cases), ledger, report_s,
        sum(path.stat().st_size for path in report if path.is_file()), len(report),
    )  # fmt: skip


def grown(write: Callable[[Path, int], None], files: int = 20_000) -> float:
    """Bytes a file of a database that ``write`` fills with so many."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "some", files // 2)
        write(Path(folder) / "all", files)
        small, large = ((Path(folder) / name).stat().st_size for name in ("some", "all"))
    return (large - small) / (files - files // 2)


def journal(path: Path, files: int) -> None:
    with closing(Journal(path, Pseudonyms.unkeyed(), copy=True)) as entries:
        for number in range(files):
            one = hashlib.sha256(str(number).encode()).hexdigest()
            case = f"{one[:16]}_R_{one[16:32]}_{one[32:48]}"
            entries.record(Entry(one[:32], one[:16], one, "", case, "done", "", "", 1.5, one, "", "folder", None, case, one))


def catalogue(path: Path, files: int) -> None:
    with closing(CatalogueWriter(path)) as writer:
        for number in range(files):
            one = hashlib.sha256(str(number).encode()).hexdigest()
            case = f"{one[:16]}_R_{one[16:32]}_{one[32:48]}"
            writer.add(
                FileRecord(
                    one[:32], one[:16], one, "read", case=case, modality="fundus", rows=999, columns=960, slices=1, laterality="R",
                    laterality_source="name", spacing_source="unknown", format="JPEG", pixels=one,
                )
            )  # fmt: skip


def cpu_of(arguments: Sequence[str]) -> float:
    """Seconds of a processor that a command and its processes took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(small: Cost, large: Cost) -> list[str]:
    more = large.files - small.files

    def each(name: str) -> float:
        return (getattr(large, name) - getattr(small, name)) / more

    rows = [
        ("index: processor seconds a file", each("index_cpu_s"), "s", 1e7 / 3600, "hours of one core"),
        ("index: catalogue bytes a file", grown(catalogue), "B", 1e7 / 1e9, "GB"),
        ("predict: processor seconds a photograph", each("predict_cpu_s"), "s", 1e7 / 86400, "days of one core"),
        ("predict: bytes a case", each("case_bytes"), "B", 1e7 / 1e12, "TB"),
        ("predict: inodes a case", each("case_inodes"), "", 1e7 / 1e6, "million"),
        ("predict: ledger bytes a file", each("ledger_bytes"), "B", 1e7 / 1e9, "GB"),
        ("predict: journal bytes a file", grown(journal), "B", 1e7 / 1e9, "GB"),
        ("report: processor seconds a case", each("report_cpu_s"), "s", 1e7 / 86400, "days of one core"),
        ("report: bytes a case", each("report_bytes"), "B", 1e7 / 1e12, "TB"),
        ("report: inodes a case", each("report_inodes"), "", 1e7 / 1e6, "million"),
    ]
    lines = ["| what | each | 10 million |", "|---|---|---|"]
    return [
        *lines,
        *(f"| {what} | {f'{value:,.3g} {unit}'.strip()} | {value * factor:,.3g} {total} |" for what, value, unit, factor, total in rows),
    ]


if __name__ == "__main__":
    script(main)

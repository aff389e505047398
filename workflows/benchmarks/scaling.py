"""How much faster are two workers than one? `ocuseg predict` of one folder by one process and by several that share it, in turns.

    .venv/bin/python workflows/benchmarks/scaling.py [--photographs 32] [--rounds 3] [--workers 2] [--no-pin] [--write FILE.md]

Each worker is `ocuseg predict MODEL SCANS --out OUT --workers 1` with one thread (OMP_NUM_THREADS=1), a decoder beside it and, unless
--no-pin, a core of its own for both: else one worker alone would use a part of the second core, too. Photographs are one of CHASE_DB1
(999 x 960) that comes with ocuseg, each with another first pixel. Every round predicts FEW and then all photographs by one worker and by
several, in an order that alternates: the first difference of the two is what a photograph takes when start-up is not counted. Say on what
machine and at what load it was run: a figure from a busy machine is none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pipeline.cli.console import script
from pipeline.resources import EXAMPLES
from pipeline.scans.raster import write_png

FEW = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vessels")
    parser.add_argument("--photographs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="give each worker a core of its own")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    options = parser.parse_args()
    if options.photographs <= FEW:
        parser.error(f"--photographs must be more than {FEW}")
    cores = sorted(os.sched_getaffinity(0))
    if options.pin and len(cores) < options.workers:
        parser.error(f"--workers {options.workers}: this process may use {len(cores)} cores; give fewer, or --no-pin")
    took: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for number in range(options.photographs):
            draw(home / "all", number)
            if number < FEW:
                draw(home / "few", number)
        for turn in range(options.rounds):
            for workers in (1, options.workers)[:: 1 if turn % 2 == 0 else -1]:
                for scans, count in ((home / "few", FEW), (home / "all", options.photographs)):
                    out = home / f"out-{turn}-{workers}-{count}"
                    seconds = predicted(options.model, scans, out, workers, cores if options.pin else None)
                    took.setdefault((workers, count), []).append(seconds)
                    done = len(list((out / "cases").iterdir()))
                    print(
                        f"round {turn + 1}: {workers} worker(s), {done} photographs: {seconds:.1f} s (load {os.getloadavg()[0]:.1f})",
                        flush=True,
                    )
                    if done != count:
                        sys.exit(f"{done} cases in place of {count}")
    lines = told(took, options.workers, options.photographs)
    print("\n".join(lines))
    if options.write is not None:
        options.write.write_text("\n".join([*lines, ""]), encoding="utf-8")


def draw(folder: Path, number: int) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(EXAMPLES / "photographs" / "chase_db1_12R.jpg")).copy()
    pixels[0, 0] = number
    (folder / f"P{number:04d}").mkdir(parents=True)
    write_png(folder / f"P{number:04d}" / "R.png", pixels)


def predicted(model: str, scans: Path, out: Path, workers: int, cores: list[int] | None) -> float:
    """Seconds until the last of so many processes has ended, which begin together."""
    command = [sys.executable, "-m", "pipeline", "predict", model, str(scans), "--out", str(out), "--device", "cpu", "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OCUSEG_SITE_KEY": str(scans.parent / "site.key")}
    began = time.monotonic()
    running = []
    try:
        for number in range(workers):
            own = [] if cores is None else ["taskset", "--cpu-list", str(cores[number])]
            running.append(
                subprocess.Popen([*own, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            )
        for process in running:
            _, said = process.communicate()
            if process.returncode != 0:
                sys.exit(said[-2000:])
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return time.monotonic() - began


def told(took: dict[tuple[int, int], list[float]], workers: int, photographs: int) -> list[str]:
    """A table of medians, and how many times as fast many workers are."""
    lines = ["| workers | start-up and all photographs, s | s a photograph without start-up |", "|---|---|---|"]
    whole, each = {}, {}
    for count in (1, workers):
        all_of, few = took[count, photographs], took[count, FEW]
        whole[count] = median(all_of)
        each[count] = median(a - b for a, b in zip(all_of, few, strict=True)) / (photographs - FEW)
        lines.append(f"| {count} | {whole[count]:.1f} ({min(all_of):.1f} to {max(all_of):.1f}) | {each[count]:.2f} |")
    faster = (
        f"{workers} workers are {whole[1] / whole[workers]:.2f} times as fast as one with start-up, {each[1] / each[workers]:.2f} without."
    )
    return [*lines, "", f"Medians of {len(took[1, FEW])} rounds, {photographs} photographs. {faster}"]


if __name__ == "__main__":
    script(main)

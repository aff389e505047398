"""Does the memory of `ocuseg predict` grow with the folder? Peak resident memory at 50 and at 500 phantom photographs.

    .venv/bin/python workflows/benchmarks/memory.py

Each folder is predicted by a process of its own (a little untrained U-Net, all cases fresh), whose peak the system reports.
What is measured includes Python, torch and the network; the ratio says whether anything is kept a case.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.config import parse_config
from pipeline.types import LabelClass, LabelMap

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "{name: memory, data: {card: phantom}, task: {name: semantic}, model: {name: unet, widths: [8, 16, 32], residual_units: 1}}"


def write_bundle(path: Path) -> None:
    from pipeline.bundles.bundle import build_task, save_bundle

    config, label_map = parse_config(CONFIG), LabelMap((LabelClass(1, "vessel", (0, 114, 178)),))
    save_bundle(
        path,
        task=build_task(config, 3, label_map),
        config=config,
        label_map=label_map,
        card_sha256="0" * 64,
        metrics={},
        thresholds={"vessel": 0.5},
        input_channels=3,
        modality="fundus",
    )


def write_scans(folder: Path, count: int, shape: tuple[int, int]) -> None:
    """``count`` photographs of different bytes; one drawing serves a hundred, told apart by a pixel that nobody sees."""
    from pipeline.phantoms.fundus import draw_fundus
    from pipeline.scans.raster import write_png

    image = draw_fundus(0, "R", shape).image
    for number in range(count):
        if number % 100 == 0:
            image = draw_fundus(number, "R", shape).image.copy()
        image[0, 0] = (number >> 8 & 255, number & 255, 7)
        path = folder / f"P{number:05d}" / "V1" / "photograph.png"
        path.parent.mkdir(parents=True)
        write_png(path, image)


def child(bundle: Path, scans: Path, out: Path) -> None:
    """Predict one folder and print what it took."""
    from pipeline.inference.folder import predict_folder

    began = time.perf_counter()
    counts = predict_folder(bundle, scans, out, device="cpu")
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(json.dumps({"done": counts["done"], "seconds": time.perf_counter() - began, "peak_mib": kibibytes / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=50, help="photographs in the small folder")
    parser.add_argument("--large", type=int, default=500, help="photographs in the large folder")
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--columns", type=int, default=600)
    parser.add_argument("--child", nargs=3, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_bundle(work / "bundle")
        peaks = []
        for count in (given.small, given.large):
            write_scans(work / f"scans{count}", count, (given.rows, given.columns))
            command = [sys.executable, __file__, "--child", *map(str, (work / "bundle", work / f"scans{count}", work / f"out{count}"))]
            answer = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
            if answer["done"] != count:
                raise SystemExit(f"only {answer['done']} of {count} photographs were segmented")
            peaks.append(answer["peak_mib"])
            print(
                f"{count:5d} photographs of {given.rows} x {given.columns}: peak {answer['peak_mib']:7.1f} MiB, {answer['seconds']:6.1f} s"
            )
        print(f"ratio {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()

"""How many frames a second ``ocuseg live`` shows, and what limits it: each frame of a video of a moving, blurred phantom eye is looked at.

    python workflows/benchmarks/live.py [BUNDLE ...] [--side 512] [--frames 60] [--engines torch,onnxruntime]

Without a bundle, a little W-Net of 94,024 parameters as configs/chase_vessels_wnet.yaml describes it, untrained: what it finds is of no
use, how long it takes is the same. Ways take turns, frame by frame, so that another program slows all of them down alike: ``as it is``;
``field in each frame`` seeks the field of view in each whole frame, as ``predict`` does; ``coarser`` shows the network half of the sides.
Milliseconds are medians; ``CPU`` is the processor time of a frame in all threads, which a busy machine changes less, and ``at most`` what
all cores together could give for it.

    python workflows/benchmarks/live.py vessels --dice

measures instead what a coarser look costs: Dice of vessels on four test photographs of CHASE_DB1 (``../shared/data``), made 512 rows high.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from photographs import CHASE

from pipeline.bundles.bundle import Bundle, build_task, load_bundle, save_bundle
from pipeline.cli.console import script
from pipeline.config import load_config
from pipeline.inference.predict import Predictor
from pipeline.live.detail import STEPS, Detail
from pipeline.live.look import Look, Shown
from pipeline.live.source import Frame, OpenCVSource, Picture
from pipeline.live.video import VideoFile
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.raster import read_image
from pipeline.training.platform import prepare_machine, usable_cores
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan


class Fixed(Detail):
    """A detail that does not change."""

    def __init__(self, detail: float) -> None:
        super().__init__(0)
        self._fixed = detail

    @property
    def now(self) -> float:
        return self._fixed


class Anew:
    """The field of view sought in each whole frame."""

    def __init__(self, look: Look) -> None:
        self.of = look.predictor.field_of_view


def little_wnet(folder: Path) -> Bundle:
    import torch  # after pipeline, which has its threads wait without spinning

    config = load_config(Path("chase_vessels_wnet"), ["task.flips=false"])
    vessel = LabelMap((LabelClass(1, "vessel", (86, 180, 233), "SCT:59820001"),))
    torch.manual_seed(0)
    save_bundle(
        folder,
        task=build_task(config, 3, vessel),
        config=config,
        label_map=vessel,
        card_sha256="0" * 64,
        metrics={},
        thresholds={"vessel": 0.5},
        input_channels=3,
        modality="fundus",
    )
    return load_bundle(folder)


def film(path: Path, side: int, frames: int) -> list[Picture]:
    """An eye that moves and blurs, written to ``path`` and read again: frames as a camera's codec leaves them."""
    eye = draw_fundus(3, "R", (side, side)).image
    with VideoFile(path, 25, clocked=False) as video:
        for number in range(frames):
            shift = np.array([[1, 0, 6 * np.sin(number / 9)], [0, 1, 5 * np.cos(number / 7)]], np.float32)
            frame = cv2.GaussianBlur(cv2.warpAffine(eye, shift, (side, side)), (0, 0), 0.3 + abs(np.sin(number / 12)))
            video.add(np.asarray(frame, np.uint8), 0.0)
    source, found = OpenCVSource(str(path)), []
    while (read := source.read()) is not None:
        found.append(read[0])
    return found


def measure(bundle: Bundle, frames: list[Picture], engines: list[str]) -> list[str]:
    ways: dict[str, Look] = {}
    for engine in engines:
        predictor = Predictor(load_bundle(bundle.path), prepare_machine("cpu"), engine)
        ways[f"{engine}, as it is"] = Look(predictor, Fixed(1.0), keep_up=True)
        ways[f"{engine}, field in each frame"] = every = Look(predictor, Fixed(1.0), keep_up=True)
        every.field = Anew(every)  # type: ignore[assignment]
        ways[f"{engine}, coarser"] = Look(predictor, Fixed(0.5), keep_up=True)
    wall, cpu, shown = defaultdict(list), defaultdict(list), defaultdict(list)
    for number, pixels in enumerate(frames):
        for name, look in ways.items():
            began, used = time.perf_counter(), time.process_time()
            one: Shown = look.at(Frame(number, pixels, began, number / 25))
            if number > 2:  # libraries prepare themselves in the first ones
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - used)
                shown[name].append(one.spent)
    rows = []
    for name in ways:
        stages = [1000 * median(getattr(one, stage) for one in shown[name]) for stage in ("prepare", "network", "draw")]
        used, took = median(cpu[name]), median(wall[name])
        found = getattr(ways[name].field, "found", len(frames))
        rows.append(
            f"| {bundle.config.name} | {name} | {1 / took:.1f} | {' + '.join(f'{ms:.0f}' for ms in stages)} ms | {1000 * used:.0f} ms "
            f"| {usable_cores() / used:.1f} | {found} of {len(frames)} |"
        )
    return rows


def dice_by_detail(bundle: Bundle, rows: int) -> list[str]:
    predictor = Predictor(bundle, prepare_machine("cpu"))
    found, used = defaultdict(list), defaultdict(list)
    for name in ("11L", "12R", "13L", "14R"):
        picture, label = read_image(CHASE / f"images/Image_{name}.jpg"), read_image(next((CHASE / "masks_1stHO").glob(f"*{name}*")))
        size = (round(picture.shape[1] * rows / picture.shape[0]), rows)
        label = np.asarray(cv2.resize((label > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)) >= 0.5
        pixels = np.ascontiguousarray(np.moveaxis(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), -1, 0))
        scan = Scan(pixels, Geometry(pixels.shape[1:]), "fundus", CaseKey(name, "U", "0", "0"), "0" * 64)
        for detail in STEPS:
            began = time.process_time()
            ready = predictor.ready_within(scan, predictor.field_of_view(pixels), detail)
            assert ready.reduced is not None
            layers = predictor.layers(predictor.finished(predictor.together([ready])[0], ready.reduced, ()))
            assert layers is not None
            used[detail].append(time.process_time() - began)
            found[detail].append(2 * np.count_nonzero(layers[0] & label) / (np.count_nonzero(layers[0]) + np.count_nonzero(label)))
    return [f"| {bundle.config.name} | {step:.0%} | {np.mean(found[step]):.3f} | {median(used[step]):.2f} s |" for step in STEPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--engines", default="torch,onnxruntime")
    parser.add_argument("--dice", action="store_true")
    given = parser.parse_args()
    import torch

    if given.dice:
        print("| bundle | detail | Dice | CPU |\n|---|---|---|---|")
        print("\n".join(row for path in given.bundles for row in dice_by_detail(load_bundle(path), given.side)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bundles = [load_bundle(path) for path in given.bundles] or [little_wnet(Path(folder) / "bundle")]
        frames = film(Path(folder) / "eye.mp4", given.side, given.frames)
        print(f"{usable_cores()} cores, {torch.get_num_threads()} threads, {given.frames} frames of {given.side} x {given.side}")
        print("| bundle | way | frames a second | preparing + network + drawing | CPU | at most | field of view found |")
        print("|---|---|---|---|---|---|---|")
        for bundle in bundles:
            print("\n".join(measure(bundle, frames, given.engines.split(","))), flush=True)


if __name__ == "__main__":
    script(main)

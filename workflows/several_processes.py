"""Whether several processes train like one, a killed one costs nothing, and each decodes its part: measured, on a CPU with gloo.

    .venv/bin/python workflows/several_processes.py --out DIR [--only unet volumes] [--no-kill] [--write docs/results/several_processes.md]

Of each network one process with batches of 4 and two processes with batches of 2 each train on drawn pictures (volumes: 2
and 1), by SGD, whose steps are proportional to gradients; detectors begin with ImageNet weights, as they are meant to. Then two
processes under `torchrun --max-restarts=1` train once undisturbed and once with a `kill -9` of one of them in the middle.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from safetensors.torch import load_file

from pipeline.cli.console import script
from pipeline.scans.nifti import write_nifti
from pipeline.training.checkpoint import newest
from pipeline.types import Geometry

ROWS, COLUMNS, SLICES = 64, 96, 6
CARD = """\
---
name: {name}
title: Bright spots on a grey ground
modality: {modality}
identifiers: public
licence: CC0
citation: none
source: drawn by workflows/several_processes.py
how_to_get: drawn by workflows/several_processes.py
classes:
  - {{name: spot, colour: [213, 94, 0]}}
images: {{file: "images/{{patient}}_{{eye:[LR]}}.{ending}"}}
labels:
  - {{kind: values, file: "labels/{{patient}}_{{eye}}.{ending}", values: {{0: background, 1: spot}}}}
---
"""
ENCODER = "backbone: efficientnet_lite0, weights: imagenet"
ANCHORS = "anchors: {sizes: [[16], [32], [64], [128], [256]]}"
RCNN = "fpn_channels: 16, representation: 32, anchors: {sizes: [[8], [16], [32], [64], [128]]}"
DETR = "width: 32, heads: 4, queries: 8, encoder_layers: 1, decoder_layers: 2, feedforward: 32, dropout: 0.0"
# Where a step draws numbers for all images of a process (dropout), two processes draw others than one.
NETWORKS = {
    "unet": ("semantic", "{name: unet, widths: [8, 16], norm: instance}"),
    "volumes": ("semantic", "{name: unet, dims: 3, widths: [8, 16], slice_halvings: 0, norm: instance}"),
    "retinanet": ("detection", f"{{name: retinanet, {ENCODER}, width: 16, head_layers: 1, {ANCHORS}}}"),
    "detr": ("detection", f"{{name: detr, {ENCODER}, {DETR}}}"),
    "yolov3": ("detection", f"{{name: yolov3, {ENCODER}, neck: 64}}"),
    "mask_rcnn": ("detection", f"{{name: mask_rcnn, {ENCODER}, {RCNN}, mask_width: 16, mask_layers: 1}}"),
    "faster_rcnn": ("detection", f"{{name: faster_rcnn, {ENCODER}, {RCNN}}}"),
    "fast_rcnn": ("detection", f"{{name: fast_rcnn, {ENCODER}, {RCNN.partition(', anchors')[0]}}}"),
    "rcnn": ("detection", f"{{name: rcnn, {ENCODER}}}"),
}


@dataclass(frozen=True)
class Trained:
    run: Path
    seconds: float
    decoded: list[Counter[str]]
    """Of each process, how often it decoded which case."""

    @property
    def weights(self) -> dict[str, Any]:
        return load_file(self.run / "bundle" / "weights.safetensors")

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True, help="also the run of which a process is killed")
    parser.add_argument("--write", type=Path, help="Markdown file for the tables")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    roots = {volumes: draw(options.out / ("volumes" if volumes else "pictures"), volumes) for volumes in (False, True)}
    lines = ["| network | weights: largest difference | as a part of how far training moved them | validation, one / two | decoded twice |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in options.only:
        volumes = name == "volumes"
        batch = 2 if volumes else 4
        config = run_file(options.out, name, roots[volumes])
        still = train(options.out / f"{name}-still", config, roots[volumes], 1, batch, ["train.learning_rate=1e-12"])
        one, two = (train(options.out / f"{name}-{n}", config, roots[volumes], n, batch // n) for n in (1, 2))
        lines.append(compared(name, still, one, two))
        print(lines[-1], flush=True)
    if options.kill:
        lines += ["", *restarted(options.out, roots[False])]
    print("\n".join(lines))
    if options.write is not None:
        written(options.write, lines)


def written(path: Path, lines: list[str]) -> None:
    """Replace what stands between the marks."""
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{rest.partition(end)[2]}"]), encoding="utf-8")


def draw(root: Path, volumes: bool) -> Path:
    """Eight patients' right and left eyes, and the card."""
    ending, modality = ("nii.gz", "oct") if volumes else ("png", "fundus")
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "card.md").write_text(CARD.format(name=root.name, modality=modality, ending=ending), encoding="utf-8")
    z, y, x = np.mgrid[: SLICES if volumes else 1, :ROWS, :COLUMNS]
    for patient in range(8):
        for eye in "LR":
            random = np.random.default_rng([patient, ord(eye)])
            spots = [(random.integers(14, ROWS - 14), random.integers(14, COLUMNS - 14), random.integers(6, 11)) for _ in range(2)]
            label = np.any([(y - row) ** 2 + (x - column) ** 2 + (2 * (z - SLICES // 2)) ** 2 < size**2 for row, column, size in spots], 0)
            image = (random.normal(90, 12, label.shape) + 80 * label).clip(0, 255).astype(np.uint8)
            for folder, array in (("images", image), ("labels", label.astype(np.uint8))):
                path = root / folder / f"P{patient}_{eye}.{ending}"
                if volumes:
                    write_nifti(path, array, Geometry(array.shape, (0.2, 0.01, 0.01), "tag"))
                else:
                    Image.fromarray(np.repeat(array[0][..., None], 3, 2) if folder == "images" else array[0]).save(path)
    return root


def run_file(folder: Path, name: str, root: Path) -> Path:
    task, model = NETWORKS[name]
    path = folder / f"{name}.yaml"
    volumes = name == "volumes"
    path.write_text(
        f"name: {name}\n"
        f"data: {{card: {json.dumps(str(root / 'card.md'))}, split: {{source: random, validation: 0.25, test: 0.125}}, "
        f"normalise: {{{'method: percentile, ' if volumes else ''}field_of_view: whole}}, crop: [48, 64], crops_per_image: 2"
        f"{', slices: 3' if volumes else ''}}}\n"
        f"task: {{name: {task}}}\nmodel: {model}\n"
        f"train: {{epochs: {6 if task == 'semantic' else 3}, precision: float32, optimizer: sgd, learning_rate: 0.02, "
        "checkpoint_minutes: 0}\n",
        encoding="utf-8",
    )
    return path


DECODING = """
import json, os, sys
from pipeline.datasets import reading
preprocess = reading.preprocess_case
def noted(card, case, *others):
    with open(os.environ["DECODED"] + os.environ.get("RANK", "0"), "a", encoding="utf-8") as file:
        file.write(f"{case.key}\\n")
    return preprocess(card, case, *others)
reading.preprocess_case = noted
from pipeline.cli import main
sys.argv[0] = "ocuseg"
main()
"""


def command(run: Path, config: Path, root: Path, processes: int, batch: int, changes: list[str]) -> list[str]:
    """``ocuseg train`` in so many processes, which note what they decode."""
    program = run.parent / "noting.py"
    program.write_text(DECODING, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--max-restarts=1"]
    sets = [f"--set={change}" for change in [f"train.batch_size={batch}", *changes]]
    own = [str(program), "train", str(config), "--root", str(root), "--run-dir", str(run), "--device", "cpu", *sets]
    return [sys.executable, *(torchrun if processes > 1 else []), *own]


def environment(run: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "DECODED": f"{run}.decoded-"}


def train(run: Path, config: Path, root: Path, processes: int, batch: int, changes: list[str] | None = None) -> Trained:
    began = time.monotonic()
    done = subprocess.run(
        command(run, config, root, processes, batch, changes or []), env=environment(run), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-3000:])
    return Trained(run, time.monotonic() - began, decoded(run))


def decoded(run: Path) -> list[Counter[str]]:
    return [Counter(path.read_text(encoding="utf-8").splitlines()) for path in sorted(run.parent.glob(f"{run.name}.decoded-*"))]


def largest(one: dict[str, Any], two: dict[str, Any]) -> float:
    """Of what is trained; statistics of batch normalisation are of another scale."""
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one if ".running_" not in name)


def compared(name: str, still: Trained, one: Trained, two: Trained) -> str:
    apart, moved = largest(one.weights, two.weights), largest(one.weights, still.weights)
    score = next(key for key in one.history[-1] if key in ("validation/dice", "validation/ap50"))
    twice = sum(count - 1 for count in sum(two.decoded, Counter()).values())
    parts = " + ".join(str(sum(counts.values())) for counts in two.decoded)
    scores = " / ".join(f"{run.history[-1][score]:.4f}" for run in (one, two))
    cases = sum(one.decoded[0].values())
    return f"| {name} | {apart:.1e} | {apart / moved:.1e} | {score.partition('/')[2]} {scores} | {twice} ({parts} of {cases}) |"


def restarted(out: Path, root: Path) -> list[str]:
    """A rank killed in the middle of a run of two: what the run ends with, beside one that was left alone."""
    config = run_file(out, "unet", root)
    longer = ["train.epochs=30"]
    whole = train(out / "whole", config, root, 2, 2, longer)
    run = out / "killed"
    job = subprocess.Popen(
        command(run, config, root, 2, 2, longer), env=environment(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while epochs(run) < 10:
            if job.poll() is not None:
                sys.exit("the run ended before it could be killed")
            time.sleep(0.01)
        at = epochs(run)
        (victim,) = [child for child in psutil.Process(job.pid).children(recursive=True) if child.environ().get("RANK") == "1"]
        victim.send_signal(signal.SIGKILL)
        began = time.monotonic()
        checkpoint = newest(run / "checkpoints")
        assert checkpoint is not None
        _, told = job.communicate(timeout=1800)
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()
    if job.returncode != 0:
        sys.exit(told[-3000:])
    killed = Trained(run, time.monotonic() - began, decoded(run))
    same = largest(whole.weights, killed.weights)
    lines = len(killed.history)
    return [
        f"Killed (`kill -9`) was rank 1 of 2 after epoch {at} of 30; torchrun began both again, which went on from checkpoint "
        f"`{checkpoint.name}` or a later one. {killed.seconds:.0f} s later the run was complete: {lines} lines of history, and largest "
        f"difference of any weight from the run that was left alone: {same:g}.",
    ]


def epochs(run: Path) -> int:
    history = run / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.exists() else 0


if __name__ == "__main__":
    script(main)

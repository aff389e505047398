"""Engines for prediction on a CPU: onnxruntime against torch, in turns on the same photographs, and whether their masks are the same.

    python workflows/benchmarks/engines.py BUNDLE [BUNDLE ...] [--photographs FOLDER] [--count 8]

Without ``--photographs``, those of CHASE_DB1 in ``../shared/data`` (or below OCUSEG_SHARED). One row a bundle of segmentation: seconds of
a photograph's forward passes (the network alone, the least of three rounds), their ratio, and how many pixels differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from photographs import CHASE

from pipeline.bundles.bundle import load_bundle
from pipeline.cli.console import script
from pipeline.errors import ConfigError
from pipeline.inference.engines.base import ENGINES
from pipeline.inference.predict import Predictor
from pipeline.scans.open import open_scan
from pipeline.training.platform import prepare_machine
from pipeline.types import Prediction

ROUNDS = 3


def measure(path: Path, photographs: list[Path]) -> str:
    bundle = load_bundle(path)
    predictor = Predictor(bundle, prepare_machine("cpu"))
    began = time.perf_counter()
    other = ENGINES["onnxruntime"].build(predictor.task, bundle.input_channels, "cpu")
    start_s = time.perf_counter() - began
    engines = {"torch": None, "onnxruntime": other}
    seconds = dict.fromkeys(engines, 0.0)
    differ = pixels = 0
    for photograph in photographs:
        ready = predictor.ready(open_scan(photograph))
        least = dict.fromkeys(engines, float("inf"))
        found: dict[str, Prediction] = {}
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                predictor.task.engine = engine
                began = time.perf_counter()
                found[name] = predictor.together([ready])[0]
                least[name] = min(least[name], time.perf_counter() - began)
        seconds = {name: seconds[name] + least[name] for name in engines}
        one, another = (predictor.layers(prediction) for prediction in found.values())
        assert one is not None
        assert another is not None
        differ += int(np.count_nonzero((one != another).any(axis=0)))
        pixels += one[0].size
    each = {name: spent / len(photographs) for name, spent in seconds.items()}
    return (
        f"| {bundle.config.name} | {each['torch']:.3f} s | {each['onnxruntime']:.3f} s | {each['torch'] / each['onnxruntime']:.2f} x "
        f"| {differ} of {pixels:,} | {start_s:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--photographs", type=Path, default=CHASE / "images")
    parser.add_argument("--count", type=int, default=8)
    given = parser.parse_args()
    photographs = [path for path in sorted(given.photographs.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif")]
    if not photographs:
        raise ConfigError(f"{str(given.photographs)!r} holds no photographs")
    print(f"{torch.get_num_threads()} threads, {min(given.count, len(photographs))} photographs")
    print("| bundle | torch | onnxruntime | torch / onnxruntime | pixels that differ | export and start of onnxruntime |")
    print("|---|---|---|---|---|---|")
    for bundle in given.bundles:
        print(measure(bundle, photographs[: given.count]), flush=True)


if __name__ == "__main__":
    script(main)

"""How many frames a second can a bundle predict? Measured on real scans, from decoded pixels to the result in the source frame."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.datasets.card import load_card, read_scan
from pipeline.inference.predict import Predictor
from pipeline.scans.identity import Pseudonyms
from pipeline.training.bundle import load_bundle
from pipeline.training.platform import prepare_machine

IMAGES, LONGEST_S = 12, 30.0


def frames_per_second(
    bundle_path: Path, card_name: str, root: Path, summary: Mapping[str, Any], device: str = "auto", key_path: Path | None = None
) -> dict[str, float]:
    """``{"images/s": ..., "parameters": ...}``: the reciprocal of the median time of one image (of a volume, a slice), reading its file
    not included.

    The first file warms up and does not count; at most IMAGES of the evaluated ones (``summary["scans"]``), at most LONGEST_S
    seconds. Normalisation, network, and the way back to the source frame are all counted, one image at a time.
    """
    bundle, card = load_bundle(bundle_path, device="cpu"), load_card(card_name)
    predictor = Predictor(bundle, prepare_machine(device))
    names = None if key_path is None else Pseudonyms.load_or_create(key_path)
    cases = [case for case in card.cases(root, pseudonyms=names) if str(case.key) in summary["scans"]]
    times: list[float] = []
    warm, spent = False, 0.0
    for case in itertools.islice(itertools.cycle(cases[:IMAGES]), IMAGES + 1):
        scan = read_scan(card, case)
        began = time.perf_counter()
        slices = sum(1 for _ in predictor.slices(predictor.ready(scan)))
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)
        seconds = time.perf_counter() - began
        if warm:
            times.append(seconds / slices)
            spent += seconds
        warm = True
        if spent > LONGEST_S:
            break
    return {"images/s": 1 / statistics.median(times), "parameters": float(sum(p.numel() for p in bundle.task.parameters()))}

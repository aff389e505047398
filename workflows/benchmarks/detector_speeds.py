"""Seconds a training step and images a second of each detector of a study file, one after the other on a machine at rest.

    .venv/bin/python workflows/benchmarks/detector_speeds.py [idrid_detectors] [--steps 8] [--root DIR]

`ocuseg compare` tells the same of its own runs, which share the machine with whatever happens in those minutes. Here the detectors take
turns, step by step, so that what comes and goes meets all of them alike; medians are told. A step includes loading from memory and the
optimiser; a prediction goes from decoded pixels to objects in the photograph's own frame. Weights are as the study file says, from
OCUSEG_WEIGHTS; untrained heads find as many objects as they may keep, which is what an unlucky image costs.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from photographs import SHARED

REPOSITORY = Path(__file__).resolve().parents[2]
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", type=Path, nargs="?", default=REPOSITORY / "configs" / "idrid_detectors.yaml", help="or a folder of run files"
    )
    parser.add_argument("--root", type=Path, default=SHARED / "data" / "idrid_codras_boxes")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="timed steps and predictions of each; two more go before")
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not there; give --root with the folder that data_cards/idrid_codras.md describes")
    os.environ.setdefault("OCUSEG_WEIGHTS", str(SHARED / "weights"))
    logging.disable(logging.WARNING)
    from pipeline.config import run_files
    from pipeline.training.platform import prepare_machine

    device = prepare_machine("cpu")
    sides = [Side(run, options) for run in run_files(options.study)]
    for number in range(WARM_UP + options.steps):
        for side in sides:
            side.step(timed=number >= WARM_UP)
    for number in range(WARM_UP + options.steps):
        for side in sides:
            side.predict(device, timed=number >= WARM_UP)
    print("| name | s / step | images / s | parameters |\n|---|---|---|---|")
    for side in sides:
        seconds, speed = statistics.median(side.training), 1 / statistics.median(side.predicting)
        print(f"| {side.config.name} | {seconds:.2f} | {speed:.1f} | {sum(p.numel() for p in side.task.parameters()) / 1e6:.2f} M |")


class Side:
    """One run, with the product's own parts."""

    def __init__(self, run: Path, options: Any) -> None:
        import torch

        from pipeline.bundles.bundle import build_task
        from pipeline.cards.card import load_card
        from pipeline.cards.find_cases import find_cases
        from pipeline.config import load_config
        from pipeline.datasets.loader import CaseStore, TrainingLoader
        from pipeline.training.optimise import make_optimizer
        from pipeline.training.platform import channels_last_suits

        config = load_config(run)
        self.card = load_card(config.data.card)
        self.cases = [case for case in find_cases(self.card, options.root) if case.part == "train"][: options.images]
        store = CaseStore(self.card, self.cases, config.data.normalise, need="objects", weak_masks=config.data.weak_masks)
        model = config.model.with_fitted_anchors(store.box_sizes(store.keys()))  # type: ignore[attr-defined]
        self.config, self.channels = config.model_copy(update={"model": model}), store.channels
        torch.manual_seed(config.seed)
        self.task = build_task(self.config, store.channels, self.card.label_map)
        if model.weights != "none":
            self.task.network.load_encoder(model.weights)
        if config.train.channels_last and channels_last_suits(self.task, "cpu"):
            self.task.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.task, config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = config.train.learning_rate / 25  # where a one-cycle schedule begins
        epochs = (TrainingLoader(store, store.keys(), config.data, config.train.batch_size, 0, epoch) for epoch in itertools.count())
        self.batches = itertools.chain.from_iterable(epochs)
        self.training: list[float] = []
        self.predicting: list[float] = []
        self.number = 0

    def step(self, *, timed: bool) -> None:
        import torch

        self.task.train()
        began = time.perf_counter()
        losses = self.task(next(self.batches))
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.config.train.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if timed:
            self.training.append(time.perf_counter() - began)

    def predict(self, device: str, *, timed: bool) -> None:
        from pipeline.bundles.bundle import Bundle
        from pipeline.cards.card import read_scan
        from pipeline.inference.predict import Predictor

        scan = read_scan(self.card, self.cases[self.number % len(self.cases)])
        self.number += 1
        card, config = self.card, self.config
        bundle = Bundle(Path(), "speed", config, card.label_map, {}, {}, card.modality, self.channels, None, "", build=lambda: self.task)
        predictor = Predictor(bundle, device)
        began = time.perf_counter()
        predictor.predict(scan)
        if timed:
            self.predicting.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()

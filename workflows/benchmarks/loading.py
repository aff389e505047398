"""Our loading path beside MONAI's, on the same files in one run.

    .venv/bin/python workflows/benchmarks/loading.py [--root ../shared/data/chase_db1]

Both make the same thing: batches of four 384 x 384 crops of CHASE_DB1's training photographs with their vessel masks, z-scored
inside the field of view (MONAI: over the non-zero pixels), flipped at random. MONAI runs as its own tutorials have it:
dictionary transforms from LoadImaged on, by DataLoader from the files, and by CacheDataset from memory. MONAI's pipeline leaves
out quarter turns, gain and bias, which ours does, so the comparison is on the cautious side. Epochs of the three alternate, and
the median is told, because other work on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photographs import CHASE

BATCH = 4
CROP = (384, 384)
CROPS_PER_IMAGE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=CHASE, help="folder of CHASE_DB1, as data_cards/chase_db1.md describes it")
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of each")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each")
    arguments = parser.parse_args()

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    runs = [_ours(arguments.root, arguments.workers), *_monai(arguments.root, arguments.workers)]
    for epoch in range(arguments.epochs):
        for run in runs:
            start = time.perf_counter()
            count = sum(_touched(batch) for batch in run.epoch(epoch))
            run.rates.append(count / (time.perf_counter() - start))
    ours = statistics.median(runs[0].rates)
    print(f"{'':32} {'crops / s':>10} {'ours is':>10} {'prepared in':>12}")
    for run in runs:
        rate = statistics.median(run.rates)
        print(f"{run.name:32} {rate:10.1f} {ours / rate:9.1f}x {run.prepared:10.1f} s")


@dataclass
class Run:
    name: str
    epoch: Callable[[int], Iterable[Any]]
    prepared: float
    rates: list[float] = field(default_factory=list)


def _touched(batch: Any) -> int:
    """Number of crops; reads one pixel of each, so that nothing can be put off."""
    images = batch.images if hasattr(batch, "images") else batch["image"]
    for image in images:
        image[0, 0, 0].item()
    return len(images)


def _ours(root: Path, workers: int) -> Run:
    from pipeline.cards.card import load_card
    from pipeline.cards.find_cases import find_cases
    from pipeline.config import DataConfig
    from pipeline.datasets.loader import CaseStore, TrainingLoader

    data = DataConfig(card="chase_db1", crop=CROP, crops_per_image=CROPS_PER_IMAGE, workers=workers)
    card = load_card(data.card)
    start = time.perf_counter()
    store = CaseStore(card, [case for case in find_cases(card, root) if case.part == "train"], data.normalise)
    prepared = time.perf_counter() - start
    return Run("ocuseg", lambda epoch: TrainingLoader(store, store.keys(), data, BATCH, 0, epoch), prepared)


def _monai(root: Path, workers: int) -> list[Run]:
    from monai.data import CacheDataset, DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        EnsureTyped,
        LoadImaged,
        NormalizeIntensityd,
        RandFlipd,
        RandSpatialCropSamplesd,
        ScaleIntensityd,
    )

    from pipeline.cards.card import load_card
    from pipeline.cards.find_cases import find_cases

    files = [
        {"image": str(case.image), "label": str(case.labels[0][1])}
        for case in find_cases(load_card("chase_db1"), root)
        if case.part == "train"
    ]
    both = ["image", "label"]
    transforms = Compose(
        [
            LoadImaged(keys=both),
            EnsureChannelFirstd(keys=["image"], channel_dim=-1),
            EnsureChannelFirstd(keys=["label"], channel_dim="no_channel"),
            NormalizeIntensityd(keys=["image"], nonzero=True, channel_wise=True),
            ScaleIntensityd(keys=["label"]),
            EnsureTyped(keys=both),
            # One decoding serves all crops of an image, as ours does.
            RandSpatialCropSamplesd(keys=both, roi_size=CROP, num_samples=CROPS_PER_IMAGE, random_size=False),
            RandFlipd(keys=both, prob=0.5, spatial_axis=0),
            RandFlipd(keys=both, prob=0.5, spatial_axis=1),
        ]
    )
    # RandSpatialCropSamplesd gives CROPS_PER_IMAGE crops an image, and BATCH of them make a batch.
    options: dict[str, Any] = {"batch_size": BATCH // CROPS_PER_IMAGE, "shuffle": True, "num_workers": workers}
    from_files = DataLoader(Dataset(files, transforms), **options)
    start = time.perf_counter()
    cached = CacheDataset(files, transforms, cache_rate=1.0, num_workers=1, progress=False)
    prepared = time.perf_counter() - start
    from_memory = DataLoader(cached, **options)
    return [
        Run("MONAI LoadImaged + DataLoader", lambda epoch: from_files, 0.0),
        Run("MONAI CacheDataset + DataLoader", lambda epoch: from_memory, prepared),
    ]


if __name__ == "__main__":
    main()

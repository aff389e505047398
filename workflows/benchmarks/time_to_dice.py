"""How fast is a good Dice reached? ocuseg against the way MONAI's tutorials train, one after the other in one run.

    .venv/bin/python workflows/benchmarks/time_to_dice.py [--minutes 5] [--root ../shared/data/chase_db1]

The peer is the plain recipe of MONAI's 2-D segmentation tutorials on the same images, split, batch and crop size: LoadImaged,
NormalizeIntensityd over the whole picture, CacheDataset, RandSpatialCropd, RandFlipd and RandRotate90d, MONAI's UNet
(16, 32, 64, 128, 256) with two residual units, DiceCELoss, Adam at 1e-3, and sliding-window inference. Both get the same wall time for
training and its validations together (start-up, decoding and the final threshold are not counted), both curves are at
threshold 0.5, both final thresholds are chosen on the same validation images, and both are scored by the same function: mean Dice at
native size inside the field of view.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from photographs import CHASE

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "chase_vessels_little.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=CHASE)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time for each")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not there; give --root with a CHASE_DB1 folder")
    if options.peer:
        train_peer(options.root, options.minutes, options.peer)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = run_ours(options.root, options.minutes, folder)
        peer_file = folder / "peer.json"
        arguments = ["--root", str(options.root), "--minutes", str(options.minutes), "--peer", str(peer_file)]
        subprocess.run([sys.executable, __file__, *arguments], check=True)
        peer = json.loads(peer_file.read_text())
    report(ours, peer, options.minutes)


def run_ours(root: Path, minutes: float, folder: Path) -> dict[str, object]:
    """Train by `chase_vessels_little`, shortened to ``minutes``; curve and test Dice."""
    from pipeline.config import load_config
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.training.run import train

    config = load_config(CONFIG, [f"train.minutes={minutes}", "train.validate_every=4"])
    result = train(config, root, folder / "runs" / "ours")
    summary = evaluate(result.bundle, config.data.card, root, part="test", out=folder / "evaluation")
    history = [json.loads(line) for line in (result.run_dir / "history.jsonl").read_text().splitlines()]
    curve, elapsed = [], 0.0
    for row in history:
        elapsed += row["train/seconds"] + row.get("validation/seconds", 0.0)
        if "validation/dice" in row:
            curve.append((elapsed / 60, row["validation/dice"]))
    return {"curve": curve, "test": summary["classes"]["vessel"]["mean_per_image"]["dice"]["value"]}


def train_peer(root: Path, minutes: float, out: Path) -> None:
    """The tutorial recipe; writes its curve and test Dice as JSON."""
    import numpy as np
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        RandFlipd,
        RandRotate90d,
        RandSpatialCropd,
    )
    from monai.utils import set_determinism

    from pipeline.cards.card import load_card
    from pipeline.cards.find_cases import find_cases
    from pipeline.config import load_config
    from pipeline.datasets.splits import make_split
    from pipeline.metrics.overlap import dice

    set_determinism(0)
    config = load_config(CONFIG)
    card = load_card(config.data.card)
    cases = find_cases(card, root)
    split = make_split(card, cases, config.data.split, config.seed)
    files = {c.key: {"image": str(c.image), "label": str(c.labels[0][1]), "valid": str(c.field_of_view)} for c in cases}
    keys = ["image", "label", "valid"]
    load = [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        AsDiscreted(["label", "valid"], threshold=0.5),
        NormalizeIntensityd("image", channel_wise=True),
    ]
    crop = config.data.crop or (384, 384)
    change = [RandSpatialCropd(keys, crop, random_size=False), RandFlipd(keys, 0.5, 0), RandFlipd(keys, 0.5, 1), RandRotate90d(keys, 0.5)]
    training = CacheDataset([files[k] for k in split.train], Compose([*load, *change]), progress=False)
    parts = {part: CacheDataset([files[k] for k in getattr(split, part)], Compose(load), progress=False) for part in ("validation", "test")}
    loader = DataLoader(training, batch_size=config.train.batch_size, shuffle=True, num_workers=0)
    net = UNet(2, 3, 1, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    loss_function = DiceCELoss(sigmoid=True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def probabilities(part: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        net.eval()
        rows = []
        with torch.no_grad():
            for item in parts[part]:
                image = item["image"].as_tensor()[None]
                p = sliding_window_inference(image, crop, 4, net).sigmoid()[0, 0].numpy()
                rows.append((p, item["label"].numpy()[0] > 0, item["valid"].numpy()[0] > 0))
        net.train()
        return rows

    def mean_dice(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]], threshold: float) -> float:
        return float(np.mean([dice(p > threshold, t, v) for p, t, v in rows]))

    def best(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
        return max((i / 20 for i in range(4, 17)), key=lambda threshold: mean_dice(rows, threshold))

    curve, began, looked, now = [], time.monotonic(), 0.0, 0.0
    while now < minutes * 60:
        for batch in loader:
            loss = loss_function(net(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now = time.monotonic() - began
        if now - looked > minutes * 6 or now >= minutes * 60:  # ten times in all
            score = mean_dice(probabilities("validation"), 0.5)
            looked = now = time.monotonic() - began
            curve.append((now / 60, score))
    threshold = best(probabilities("validation"))
    out.write_text(json.dumps({"curve": curve, "test": mean_dice(probabilities("test"), threshold)}))


def report(ours: dict[str, object], peer: dict[str, object], minutes: float) -> None:
    """Print both curves, the test Dice, and how much sooner ours reaches the peer's best."""
    for name, result in (("ocuseg", ours), ("MONAI tutorial recipe", peer)):
        curve = "  ".join(f"{m:.1f} min {d:.3f}" for m, d in result["curve"])  # type: ignore[attr-defined]
        print(f"{name}: test Dice {result['test']:.3f} after {minutes:g} min; validation: {curve}")
    goal = max(d for _, d in peer["curve"])  # type: ignore[attr-defined]
    reached = {name: next((m for m, d in result["curve"] if d >= goal), None) for name, result in (("ours", ours), ("peer", peer))}  # type: ignore[attr-defined]
    if reached["ours"] is None:
        print(f"validation Dice {goal:.3f}: reached by the peer after {reached['peer']:.1f} min, not by ocuseg")
    else:
        ratio = reached["peer"] / reached["ours"]
        print(
            f"validation Dice {goal:.3f}: ocuseg after {reached['ours']:.1f} min, peer after {reached['peer']:.1f} min: ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()

"""Train a network that comes with ocuseg again from its data, and compare it with the one that is shipped.

    python workflows/shipped_models.py vessels --chase CHASE --hrf HRF [--drive DRIVE] --weights-dir FOLDER

CHASE, HRF and DRIVE are folders as the cards of these names in data_cards/ describe them. CHASE_DB1 and HRF are copied side by side to
``OUT/data``, where the card chase_hrf finds both; it keeps their official test parts out of training. DRIVE, which may not be passed on,
only measures. An interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundles.bundle import load_bundle, save_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.shipped_models import PREFIX, find_bundle
from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import progress, script
from pipeline.config import load_config
from pipeline.evaluation.evaluate import evaluate
from pipeline.inference.predict import Predictor
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.training.run import train
from pipeline.types import Geometry, Prediction, Target

STEPS = {"vessels": ("shipped_vessels_first", "shipped_vessels_late")}
"""Run files in configs/ by the shipped model's name: the second goes on from the weights of the first, and both are averaged."""
DIAMETER = {"vessels": 1152}
"""Width in pixels that a field of view is brought to: larger than in training, because validation was better so (0.813 against 0.811)."""
WHAT = {
    "vessels": "Vessels in fundus photographs of any camera; the scale comes from the field of view. "
    "U-Net on MobileNetV2, 0.62 M parameters."
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=STEPS, help="name of the shipped model")
    parser.add_argument("--chase", type=Path, required=True, help="CHASE_DB1, as data_cards/chase_db1.md says")
    parser.add_argument("--hrf", type=Path, required=True, help="HRF, as data_cards/hrf.md says")
    parser.add_argument("--drive", type=Path, help="DRIVE, as data_cards/drive.md says: measured on, never trained on")
    parser.add_argument("--out", type=Path, default=Path("runs") / "shipped", help="folder for the training data, the runs and the scores")
    parser.add_argument("--weights-dir", type=Path, help="folder with MobileNetV2's ImageNet weights (default: OCUSEG_WEIGHTS)")
    options = parser.parse_args()
    if options.weights_dir is not None:
        os.environ["OCUSEG_WEIGHTS"] = str(options.weights_dir)
    sets = {"chase_db1": options.chase, "hrf": options.hrf} | ({} if options.drive is None else {"drive": options.drive})
    for root in sets.values():
        if not root.is_dir():
            sys.exit(f"{root} is not a folder; see --help")
    data = options.out / "data"
    for name in ("chase_db1", "hrf"):
        copy_set(name, sets[name], data / name)
    bundle = average(options.model, train_steps(STEPS[options.model], data, options.out), data, options.out / "bundle")
    shipped = find_bundle(f"{PREFIX}{options.model}")
    rows = [(name, scores(bundle, name, root, options.out), scores(shipped, name, root, options.out)) for name, root in sets.items()]
    print("\n".join(told(load_bundle(bundle).id, load_bundle(shipped).id, rows)))


def copy_set(card_name: str, root: Path, to: Path) -> None:
    """All images of a card and the first reader's masks, as ``to``/images and ``to``/masks, each mask under its image's name."""
    for folder in ("images", "masks"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    for case in find_cases(load_card(card_name), root):
        mask = case.labels[0][1]
        assert mask is not None
        shutil.copyfile(case.image, to / "images" / case.image.name)
        shutil.copyfile(mask, to / "masks" / f"{case.image.stem}{mask.suffix}")


def train_steps(steps: Sequence[str], root: Path, out: Path) -> list[Path]:
    """Each step from the bundle of the one before; their bundles."""
    bundles: list[Path] = []
    for name in steps:
        run_dir = out / name
        if not (run_dir / "result.json").is_file():
            config = load_config(Path(name), [f"model.weights={bundle}" for bundle in bundles[-1:]])
            with progress(name) as advance:
                result = train(config, root, run_dir, resume=(run_dir / "config.yaml").is_file(), progress=advance)
            print("\n".join(result.lines()))
        bundles.append(run_dir / "bundle")
    return bundles


def average(model: str, steps: Sequence[Path], root: Path, to: Path) -> Path:
    """The mean of the steps' weights at the model's diameter, with a threshold of its own from the validation cases.

    Weights of one training that goes on lie in one valley, where their mean generalises better than either (Izmailov et al. 2018,
    arXiv:1803.05407).
    """
    first, *others = (load_bundle(step) for step in steps)
    data = first.config.data.model_copy(
        update={"normalise": first.config.data.normalise.model_copy(update={"working_diameter_px": DIAMETER[model]})}
    )
    task = first.config.task.model_copy(update={"flips": False})  # type: ignore[attr-defined]
    config = first.config.model_copy(update={"name": model, "description": WHAT[model], "data": data, "task": task})
    mean = first.task
    states = [bundle.task.state_dict() for bundle in (first, *others)]
    means = {key: torch.stack([state[key] for state in states]).mean(dim=0) for key, own in states[0].items() if own.is_floating_point()}
    mean.load_state_dict(states[0] | means)
    mean.config = task
    card, split = load_card(data.card), trained_on(first).split
    assert split is not None
    predictor = Predictor(replace(first, config=config, task=mean))
    labelled = [validated(predictor, card, case) for case in find_cases(card, root) if case.key in split.validation]
    mean.thresholds = mean.tune(lambda: labelled)
    scores = [mean.score(prediction, target, Geometry(tuple(valid.shape)), valid) for prediction, target, valid in labelled]
    save_bundle(
        to,
        task=mean,
        config=config,
        label_map=first.label_map,
        card_sha256=card.sha256,
        metrics={f"validation/{name}": value for name, value in mean.summarise(scores).items()},
        thresholds=mean.thresholds,
        input_channels=first.input_channels,
        modality=first.modality,
        spacing_mm=first.spacing_mm,
        trained_on={name: (steps[0] / name).read_text(encoding="utf-8") for name in ("split.json", "manifest.json")},
    )
    return to


def validated(predictor: Predictor, card: DataCard, case: CardCase) -> tuple[Prediction, Target, torch.Tensor]:
    """What the network finds in a validation case, its labels, and the field of view that was found, all in the source frame."""
    scan = read_scan(card, case)
    mask = read_truth(card, case, scan=scan).mask
    assert mask is not None
    target = Target(mask=torch.from_numpy(np.asarray(mask, dtype=np.int64)))
    return predictor.predict(scan), target, torch.from_numpy(detect_field_of_view(scan.pixels))


def scores(bundle: Path, card_name: str, root: Path, out: Path) -> Mapping[str, Any]:
    """Dice of the vessels on the official test part: mean over images with its interval, inside the field of view."""
    identity = load_bundle(bundle).id
    with progress(f"{identity} on {card_name}") as advance:
        summary = evaluate(bundle, card_name, root, out=out / "scores" / f"{identity}_{card_name}", progress=advance)
    score: Mapping[str, Any] = summary["classes"]["vessel"]["mean_per_image"]["dice"]
    return score


def told(own: str, shipped: str, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """A table: one line a data set, Dice of the bundle ``own`` and of the one ``shipped`` with 95 % intervals, and their difference."""
    lines = [f"| test part of | trained here ({own}) | shipped ({shipped}) | difference |", "|---|---|---|---|"]
    for name, mine, theirs in rows:
        shown = (f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in (mine, theirs))
        lines.append(f"| {name} | {' | '.join(shown)} | {mine['value'] - theirs['value']:+.3f} |")
    return lines


if __name__ == "__main__":
    script(main)

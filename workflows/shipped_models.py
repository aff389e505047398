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
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cli.console import progress, script
from pipeline.config import load_config
from pipeline.evaluation.evaluate import evaluate
from pipeline.training.run import train

SHIPPED = Path(__file__).resolve().parents[1] / "pipeline" / "bundles" / "shipped"
STEPS = {"vessels": ("shipped_vessels_first", "shipped_vessels")}
"""Run files in configs/ by the shipped model's name; each goes on from the weights of the one before."""


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
    bundle = train_steps(STEPS[options.model], data, options.out)
    rows = [
        (name, scores(bundle, name, root, options.out), scores(SHIPPED / options.model, name, root, options.out))
        for name, root in sets.items()
    ]
    print("\n".join(told(load_bundle(bundle).id, load_bundle(SHIPPED / options.model).id, rows)))


def copy_set(card_name: str, root: Path, to: Path) -> None:
    """All images of a card and the first reader's masks, as ``to``/images and ``to``/masks, each mask under its image's name."""
    for folder in ("images", "masks"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    for case in find_cases(load_card(card_name), root):
        mask = case.labels[0][1]
        assert mask is not None
        shutil.copyfile(case.image, to / "images" / case.image.name)
        shutil.copyfile(mask, to / "masks" / f"{case.image.stem}{mask.suffix}")


def train_steps(steps: Sequence[str], root: Path, out: Path) -> Path:
    """Each step from the bundle of the one before; the last one's bundle."""
    bundle: Path | None = None
    for name in steps:
        run_dir = out / name
        if not (run_dir / "result.json").is_file():
            config = load_config(Path(name), [] if bundle is None else [f"model.weights={bundle}"])
            with progress(name) as advance:
                result = train(config, root, run_dir, resume=(run_dir / "config.yaml").is_file(), progress=advance)
            print("\n".join(result.lines()))
        bundle = run_dir / "bundle"
    assert bundle is not None
    return bundle


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

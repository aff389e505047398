"""Train a network that comes with ocuseg again from its data, and compare it with the one that is shipped.

    python workflows/shipped_models.py vessels --chase CHASE --hrf HRF [--drive DRIVE] --weights-dir FOLDER
    python workflows/shipped_models.py disc --idrid IDRID [--drishti DRISHTI] --weights-dir FOLDER

The folders are as the cards of these names in data_cards/ describe them. CHASE_DB1 and HRF are copied side by side to ``OUT/data``, where
the card chase_hrf finds both; it keeps their official test parts out of training. DRIVE and Drishti-GS1, which may not be passed on, only
measure. The bundle is ``OUT/MODEL``; its scores, in the form of scores.json (pipeline/bundles/shipped/README.md), are
``OUT/scores/MODEL.json``. An interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline.bundles.bundle import Bundle, load_bundle, save_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.shipped_models import PREFIX, find_bundle
from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import progress, script
from pipeline.cli.runs import use_weights
from pipeline.config import RunConfig, load_config
from pipeline.evaluation.evaluate import evaluate
from pipeline.inference.predict import Predictor
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.training.run import train
from pipeline.types import Geometry, Prediction, Target

STEPS = {"vessels": ("shipped_vessels_first", "shipped_vessels_late"), "disc": ("shipped_disc",)}
"""Run files in configs/ by the shipped model's name: the second goes on from the weights of the first, and both are averaged."""
VESSEL_DIAMETER = 1152
"""Width in pixels that a field of view is brought to: larger than in training, because validation was better so (0.813 against 0.811)."""
WHAT = {
    "vessels": "Vessels in fundus photographs of any camera; the scale comes from the field of view. "
    "U-Net on MobileNetV2, 0.62 M parameters.",
    "disc": "Optic disc in fundus photographs of any camera; the scale comes from the field of view. "
    "U-Net on MobileNetV2, 0.62 M parameters.",
}


@dataclass(frozen=True)
class Measured:
    """What a model is measured on: the part of a card's set, and its class by the card's name for it; ``on`` in scores.json."""

    on: str
    card: str
    root: Path
    own: str
    theirs: str
    part: Literal["test", "all"] = "test"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    vessels, disc = (models.add_parser(name, help=WHAT[name]) for name in ("vessels", "disc"))
    vessels.add_argument("--chase", type=folder, required=True, help="CHASE_DB1, as data_cards/chase_db1.md says")
    vessels.add_argument("--hrf", type=folder, required=True, help="HRF, as data_cards/hrf.md says")
    vessels.add_argument("--drive", type=folder, help="DRIVE, as data_cards/drive.md says: measured on, never trained on")
    disc.add_argument("--idrid", type=folder, required=True, help="IDRiD with boxes, as data_cards/idrid_codras.md says")
    disc.add_argument("--drishti", type=folder, help="Drishti-GS1, as data_cards/drishti_gs.md says: measured on, never trained on")
    for model in (vessels, disc):
        model.add_argument("--out", type=Path, default=Path("runs") / "shipped", help="folder for the training data, runs and scores")
        model.add_argument("--weights-dir", type=folder, help="folder with MobileNetV2's ImageNet weights (default: OCUSEG_WEIGHTS)")
    options = parser.parse_args()
    use_weights(options.weights_dir)
    bundle, measured = make_vessels(options) if options.model == "vessels" else make_disc(options)
    shipped = find_bundle(f"{PREFIX}{options.model}")
    rows = [(one, scores(bundle, one, options.out), scores(shipped, one, options.out)) for one in measured]
    (options.out / "scores" / f"{options.model}.json").write_text(listed([(one, own) for one, own, _ in rows]), encoding="utf-8")
    print(
        "\n".join(told(load_bundle(bundle).id, load_bundle(shipped).id, [(one.card, own["dice"], old["dice"]) for one, own, old in rows]))
    )


def folder(text: str) -> Path:
    """An argument that is a folder."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def make_vessels(options: argparse.Namespace) -> tuple[Path, list[Measured]]:
    """The bundle, and what it is measured on."""
    sets = {"chase_db1": options.chase, "hrf": options.hrf} | ({} if options.drive is None else {"drive": options.drive})
    data = options.out / "data"
    for name in ("chase_db1", "hrf"):
        copy_set(name, sets[name], data / name)
    bundle = average(options.model, train_steps(STEPS[options.model], data, options.out), data, options.out / options.model)
    on = {"chase_db1": "CHASE_DB1 test", "hrf": "HRF test", "drive": "DRIVE test, never seen"}
    return bundle, [Measured(on[name], name, root, "vessel", "vessel") for name, root in sets.items()]


def make_disc(options: argparse.Namespace) -> tuple[Path, list[Measured]]:
    """The bundle, and what it is measured on; IDRiD's boxes do not say where a disc ends, so that there is nothing to measure on them."""
    (step,) = train_steps(STEPS[options.model], options.idrid, options.out)
    trained = load_bundle(step)
    config = trained.config.model_copy(update={"name": options.model, "description": WHAT[options.model]})
    metrics = json.loads((step / "bundle.json").read_text(encoding="utf-8"))["metrics"]
    save(options.out / options.model, trained, config, metrics, step)
    if options.drishti is None:
        return options.out / options.model, []
    return options.out / options.model, [Measured("Drishti-GS1, never seen", "drishti_gs", options.drishti, "optic_disc", "disc", "all")]


def save(to: Path, trained: Bundle, config: RunConfig, metrics: Mapping[str, float | None], step: Path) -> None:
    """The bundle with another config and other metrics, and the record of what has trained it in ``step``."""
    save_bundle(
        to,
        task=trained.task,
        config=config,
        label_map=trained.label_map,
        card_sha256=trained.card_sha256,
        metrics=metrics,
        thresholds=trained.thresholds,
        input_channels=trained.input_channels,
        modality=trained.modality,
        spacing_mm=trained.spacing_mm,
        trained_on={name: (step / name).read_text(encoding="utf-8") for name in ("split.json", "manifest.json")},
    )


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
        update={"normalise": first.config.data.normalise.model_copy(update={"working_diameter_px": VESSEL_DIAMETER})}
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
    summary = {f"validation/{name}": value for name, value in mean.summarise(scores).items()}
    save(to, replace(first, task=mean, card_sha256=card.sha256, thresholds=mean.thresholds), config, summary, steps[0])
    return to


def validated(predictor: Predictor, card: DataCard, case: CardCase) -> tuple[Prediction, Target, torch.Tensor]:
    """What the network finds in a validation case, its labels, and the field of view that was found, all in the source frame."""
    scan = read_scan(card, case)
    mask = read_truth(card, case, scan=scan).mask
    assert mask is not None
    target = Target(mask=torch.from_numpy(np.asarray(mask, dtype=np.int64)))
    return predictor.predict(scan), target, torch.from_numpy(detect_field_of_view(scan.pixels))


def scores(bundle: Path, on: Measured, out: Path) -> Mapping[str, Any]:
    """Means over images with their intervals, inside the field of view, by the measure's name."""
    identity = load_bundle(bundle).id
    with progress(f"{identity} on {on.card}") as advance:
        own = out / "scores" / f"{identity}_{on.card}"
        summary = evaluate(bundle, on.card, on.root, part=on.part, classes={on.own: on.theirs}, out=own, progress=advance)
    means: Mapping[str, Any] = summary["classes"][on.own]["mean_per_image"]
    return means


def listed(rows: Sequence[tuple[Measured, Mapping[str, Any]]]) -> str:
    """The text of a scores.json (pipeline/bundles/shipped/README.md)."""
    lines = []
    for on, means in rows:
        dice = {key: round(means["dice"][key], 4) for key in ("value", "low", "high")}
        beside = {name: round(means[name]["value"], 4) for name in ("pixel_accuracy", "sensitivity", "specificity")}
        lines.append(json.dumps({"on": on.on, "score": f"Dice {on.own}", **dice, "beside": beside}))
    return "[" + ",\n ".join(lines) + "]\n"


def told(own: str, shipped: str, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """A table: one line a data set, Dice of the bundle ``own`` and of the one ``shipped`` with 95 % intervals, and their difference."""
    lines = [f"| on | trained here ({own}) | shipped ({shipped}) | difference |", "|---|---|---|---|"]
    for name, mine, theirs in rows:
        shown = (f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in (mine, theirs))
        lines.append(f"| {name} | {' | '.join(shown)} | {mine['value'] - theirs['value']:+.3f} |")
    return lines


if __name__ == "__main__":
    script(main)

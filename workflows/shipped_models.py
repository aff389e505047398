"""Train a network that comes with ocuseg again from its data, and compare it with the one that is shipped.

    python workflows/shipped_models.py vessels --chase CHASE --hrf HRF [--drive DRIVE] --weights-dir FOLDER
    python workflows/shipped_models.py vessels_little --chase CHASE --hrf HRF [--drive DRIVE]    (its encoder begins as that of `vessels`)
    python workflows/shipped_models.py disc --idrid IDRID [--drishti DRISHTI] --weights-dir FOLDER
    python workflows/shipped_models.py lesions --idrid IDRID --weights-dir FOLDER
    python workflows/shipped_models.py oct_layers [--vol SPECTRALIS]
    python workflows/shipped_models.py eye_side --eyes EYES [--both-eyes DR_BOTH_EYES]
    python workflows/shipped_models.py picture_kind --kinds KINDS [--other-kinds OTHER_KINDS]
    python workflows/shipped_models.py quality --qualities QUALITIES

The folders are as the cards of these names in data_cards/ describe them. CHASE_DB1 and HRF are copied side by side to ``OUT/data``, where
the card chase_hrf finds both; it keeps their official test parts out of training. DRIVE and Drishti-GS1, which may not be passed on, and
the lines that a Spectralis drew into its own scans only measure. Layers of OCT are learnt from phantoms, drawn to ``OUT/phantoms``.
The bundle is ``OUT/MODEL``; its scores, in the form of scores.json (pipeline/bundles/shipped/README.md), are ``OUT/scores/MODEL.json``. An
interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.bundles.bundle import Bundle, load_bundle, save_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.shipped_models import PREFIX, find_bundle
from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import progress, script
from pipeline.cli.runs import use_weights
from pipeline.config import RunConfig, load_config
from pipeline.errors import BundleError, ScanError
from pipeline.evaluation.device_lines import read_beside_device
from pipeline.evaluation.evaluate import evaluate
from pipeline.inference.predict import Predictor
from pipeline.phantoms.oct_set import write_oct_set
from pipeline.scans.array import scan_of_array
from pipeline.scans.display import plane_in_colour
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter
from pipeline.training.run import train
from pipeline.types import Geometry, Prediction, Scan, Target

VESSEL_DIAMETER = 1152
"""Width in pixels that a field of view is brought to: larger than in training, because validation was better so (0.813 against 0.811)."""
PHANTOM_PATIENTS = 36
SMALL_DIAMETERS = (400, 540, 700)
"""Of fields of view in pixels: as of cameras whose pictures are smaller than those of CHASE_DB1 (920) and HRF (1632 at half size)."""
DRAWN = 0.25
UPSCALING_LOGITS = (0.0, 0.3, 0.6, 0.9, 1.2)
Mask = npt.NDArray[np.bool_]
SETS = {
    "chase": "CHASE_DB1, as data_cards/chase_db1.md says",
    "hrf": "HRF, as data_cards/hrf.md says",
    "idrid": "IDRiD with boxes, as data_cards/idrid_codras.md says",
    "drive": "DRIVE, as data_cards/drive.md says: measured on, never trained on",
    "drishti": "Drishti-GS1, as data_cards/drishti_gs.md says: measured on, never trained on",
    "eyes": "photographs, laid out by `workflows/picture_sets.py eye_side`",
    "both-eyes": "both eyes of patients with diabetes, as data_cards/dr_both_eyes.md says: measured on, never trained on",
    "kinds": "pictures, laid out by `workflows/picture_sets.py picture_kind`",
    "other-kinds": "pictures from sources that are not among KINDS, laid out by the same with --drawn 0",
    "qualities": "spoilt photographs, laid out by `workflows/picture_sets.py quality`",
    "vol": "exports (.vol) of a Spectralis with its lines: measured on, never trained on",
}
"""Options for folders, and what they hold."""

OF_PICTURES = {"accuracy_answered": "accuracy of those answered", "abstained": "not answered", "quadratic_kappa": "quadratic kappa"}
BESIDE = ("pixel_accuracy", "sensitivity", "specificity")
Scores = dict[tuple[str, str], Mapping[str, Any]]
"""By what a bundle was measured on and the score's name: ``value``, and ``low`` and ``high`` of 95 % over patients, or None; with a Dice
``beside``, the means of BESIDE."""
Measurement = Callable[[Path, Path], Scores]
"""Scores of the bundle at a path; the second path is a folder for what evaluation writes."""


@dataclass(frozen=True)
class Model:
    """What it says of itself, how its bundle is made, and the data that this needs and that it is measured on beside these."""

    description: str
    make: Callable[[Model, argparse.Namespace, Path], Sequence[Measurement]]
    needs: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    for name, model in MODELS.items():
        command = commands.add_parser(name, help=model.description)
        for data in (*model.needs, *model.measured):
            command.add_argument(f"--{data}", type=folder, required=data in model.needs, help=SETS[data])
        command.add_argument("--out", type=Path, default=Path("runs") / "shipped", help="folder for the training data, runs and scores")
        command.add_argument("--weights-dir", type=folder, help="folder with MobileNetV2's ImageNet weights (default: OCUSEG_WEIGHTS)")
    options = parser.parse_args()
    use_weights(options.weights_dir)
    bundle = options.out / options.model
    measurements = MODELS[options.model].make(MODELS[options.model], options, bundle)
    rows = measure(bundle, measurements, options.out)
    (options.out / "scores" / f"{options.model}.json").write_text(listed(rows), encoding="utf-8")
    print("\n".join(told(load_bundle(bundle).id, rows, *shipped_scores(options.model, measurements, options.out))))


def folder(text: str) -> Path:
    """An argument that is a folder."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def measure(bundle: Path, measurements: Sequence[Measurement], out: Path) -> Scores:
    """All scores of a bundle."""
    rows: Scores = {}
    for one in measurements:
        rows |= one(bundle, out)
    return rows


def shipped_scores(model: str, measurements: Sequence[Measurement], out: Path) -> tuple[str, Scores]:
    """The id of the shipped bundle and its scores; "none" where the model is not shipped yet."""
    try:
        shipped = find_bundle(f"{PREFIX}{model}")
    except BundleError:
        return "none", {}
    return load_bundle(shipped).id, measure(shipped, measurements, out)


def make_vessels(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    return two_steps(model, options, to, ("shipped_vessels_first", "shipped_vessels_late"), VESSEL_DIAMETER)


def make_vessels_little(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    """At the scale of training: a larger one would not be twice as fast as `vessels`."""
    return two_steps(model, options, to, ("shipped_vessels_little", "shipped_vessels_little_late"), None)


def two_steps(model: Model, options: argparse.Namespace, to: Path, configs: tuple[str, str], diameter: int | None) -> Sequence[Measurement]:
    """The second training goes on from the first one's network; what is kept is the mean of both."""
    data = chase_and_hrf(options)
    first = train_step(configs[0], data, options.out)
    average(model, (first, train_step(configs[1], data, options.out, first)), data, to, diameter)
    fit_upscaling(to, data)
    return vessel_measurements(options)


def vessel_measurements(options: argparse.Namespace) -> Sequence[Measurement]:
    sets = {"CHASE_DB1 test": ("chase_db1", options.chase), "HRF test": ("hrf", options.hrf)}
    seen = [on_labels(title, card, root) for title, (card, root) in sets.items()]
    return seen if options.drive is None else [*seen, on_labels("DRIVE test, never seen", "drive", options.drive)]


def make_disc(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    """IDRiD's boxes do not say where a disc ends, so that there is nothing to measure on them."""
    keep(model, train_step("shipped_disc", options.idrid, options.out), to)
    if options.drishti is None:
        return []
    return [on_labels("Drishti-GS1, never seen", "drishti_gs", options.drishti, classes={"optic_disc": "disc"}, part="all")]


def make_lesions(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    """Weights are kept as half-precision numbers, which read back as what they are rounded to."""
    keep(model, train_step("shipped_lesions", options.idrid, options.out), to, half=True)
    return [on_labels("IDRiD test", "idrid_lesions", options.idrid)]


def make_oct_layers(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    phantoms = options.out / "phantoms"
    if not phantoms.is_dir():
        with progress("phantoms") as advance:
            write_oct_set(phantoms, PHANTOM_PATIENTS, 1, progress=advance)
    keep(model, train_step("shipped_oct_layers", phantoms / "card", options.out), to)
    on_phantoms = on_labels("phantoms, test part", "phantom_oct_layers", phantoms / "card")
    return [on_phantoms] if options.vol is None else [on_phantoms, on_device_lines(options.vol)]


def make_eye_side(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    keep(model, train_step("eye_side", options.eyes, options.out), to, half=True)
    own = on_labels("test part", "eye_side", options.eyes)
    if options.both_eyes is None:
        return [own]
    return [own, on_labels("dr_both_eyes, never seen", "dr_both_eyes_side", options.both_eyes, part="all")]


def make_picture_kind(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    keep(model, train_step("picture_kind", options.kinds, options.out), to, half=True)
    own = on_labels("test part", "picture_kind", options.kinds)
    return [own] if options.other_kinds is None else [own, on_labels("other sources", "picture_kind", options.other_kinds, part="all")]


def make_quality(model: Model, options: argparse.Namespace, to: Path) -> Sequence[Measurement]:
    keep(model, train_step("quality", options.qualities, options.out), to, half=True)
    return [on_labels("test part", "quality", options.qualities)]


def chase_and_hrf(options: argparse.Namespace) -> Path:
    """A folder with both sets, as the card chase_hrf wants them."""
    data: Path = options.out / "data"
    for card, root in (("chase_db1", options.chase), ("hrf", options.hrf)):
        copy_set(card, root, data / card)
    return data


def keep(model: Model, step: Path, to: Path, *, half: bool = False) -> None:
    """The bundle of a training as what is shipped: under the model's name, with its description."""
    trained = load_bundle(step)
    if half:
        trained.task.half()
    config = trained.config.model_copy(update={"name": to.name, "description": model.description})
    metrics = json.loads((step / "bundle.json").read_text(encoding="utf-8"))["metrics"]
    save(to, trained, config, metrics, step)


def save(to: Path, trained: Bundle, config: RunConfig, metrics: Mapping[str, float], step: Path) -> None:
    """The bundle with another config and other metrics, and the record of what has trained it in ``step``."""
    records = (name for name in ("split.json", "manifest.json", "inherited.json") if (step / name).is_file())
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
        trained_on={name: (step / name).read_text(encoding="utf-8") for name in records},
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


def train_step(name: str, root: Path, out: Path, weights: Path | None = None) -> Path:
    """One training by a run file in configs/, from the bundle ``weights`` where one is given; its bundle."""
    run_dir = out / name
    if not (run_dir / "result.json").is_file():
        config = load_config(Path(name), [] if weights is None else [f"model.weights={weights}"])
        with progress(name) as advance:
            result = train(config, root, run_dir, resume=(run_dir / "config.yaml").is_file(), progress=advance)
        print("\n".join(result.lines()))
    return run_dir / "bundle"


def average(model: Model, steps: Sequence[Path], root: Path, to: Path, diameter: int | None) -> None:
    """The mean of the steps' weights at a diameter (None: as they were trained), with a threshold of its own from the validation cases.

    Weights of one training that goes on lie in one valley, where their mean generalises better than either (Izmailov et al. 2018,
    arXiv:1803.05407).
    """
    first, *others = (load_bundle(step) for step in steps)
    normalise = first.config.data.normalise
    if diameter is not None:
        normalise = normalise.model_copy(update={"working_diameter_px": diameter})
    data = first.config.data.model_copy(update={"normalise": normalise})
    task = first.config.task.model_copy(update={"flips": False})  # type: ignore[attr-defined]
    config = first.config.model_copy(update={"name": to.name, "description": model.description, "data": data, "task": task})
    mean = first.task
    states = [bundle.task.state_dict() for bundle in (first, *others)]
    means = {key: torch.stack([state[key] for state in states]).mean(dim=0) for key, own in states[0].items() if own.is_floating_point()}
    mean.load_state_dict(states[0] | means)
    mean.config = task
    card, split = load_card(data.card), trained_on(first).split
    assert split is not None
    predictor = Predictor(replace(first, config=config, build=lambda: mean))
    labelled = [validated(predictor, card, case) for case in find_cases(card, root) if case.key in split.validation]
    mean.thresholds = mean.tune(lambda: labelled)
    scores = [mean.score(prediction, target, Geometry(tuple(valid.shape)), valid) for prediction, target, valid in labelled]
    summary = {f"validation/{name}": value for name, value in mean.summarise(scores).items()}
    save(to, replace(first, build=lambda: mean, card_sha256=card.sha256, thresholds=mean.thresholds), config, summary, steps[0])


def validated(predictor: Predictor, card: DataCard, case: CardCase) -> tuple[Prediction, Target, torch.Tensor]:
    """What the network finds in a validation case, its labels, and the field of view that was found, all in the source frame."""
    scan = read_scan(card, case)
    mask = read_truth(card, case, scan=scan).mask
    assert mask is not None
    target = Target(mask=torch.from_numpy(np.asarray(mask, dtype=np.int64)))
    return predictor.predict(scan), target, torch.from_numpy(detect_field_of_view(scan.pixels))


def fit_upscaling(to: Path, root: Path) -> None:
    """Choose ``task.upscaling_logit`` of the bundle ``to`` by its validation photographs, shrunk to the size of other cameras.

    Supposed is that a reader of the small picture would have marked each pixel of which a vessel covers DRAWN or more.
    """
    bundle, card = load_bundle(to), load_card("chase_hrf")
    split = trained_on(bundle).split
    assert split is not None
    small = [shrunk(card, case, size) for case in find_cases(card, root) if case.key in split.validation for size in SMALL_DIAMETERS]
    scores = {logit: mean_dice(bundle, logit, small) for logit in UPSCALING_LOGITS}
    best = max(scores, key=scores.__getitem__)
    print(f"upscaling_logit {best}: Dice {scores[best]:.4f} of shrunk photographs, {scores[0.0]:.4f} without")
    metrics = json.loads((to / "bundle.json").read_text(encoding="utf-8"))["metrics"]
    save(to, bundle, bundle.config.model_copy(update={"task": with_upscaling(bundle, best)}), metrics, to)


def mean_dice(bundle: Bundle, logit: float, labelled: Sequence[tuple[Scan, Mask, Mask]]) -> float:
    """Over pictures with their vessels and fields of view."""
    bundle.task.config = with_upscaling(bundle, logit)
    predictor = Predictor(bundle)
    found = [predictor.layers(predictor.predict(scan)) for scan, _, _ in labelled]
    pairs = [(own[0] & valid, vessels & valid) for own, (_, vessels, valid) in zip(found, labelled, strict=True) if own is not None]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def with_upscaling(bundle: Bundle, logit: float) -> Any:
    return bundle.config.task.model_copy(update={"upscaling_logit": logit})  # type: ignore[attr-defined]


def shrunk(card: DataCard, case: CardCase, diameter: int) -> tuple[Scan, Mask, Mask]:
    """A photograph whose field is so many pixels wide, its vessels, and its field of view."""
    scan = read_scan(card, case)
    mask = read_truth(card, case, scan=scan).mask
    assert mask is not None
    factor = diameter / field_diameter(detect_field_of_view(scan.pixels))
    size = round(factor * mask.shape[1]), round(factor * mask.shape[0])
    covered = Image.fromarray((np.asarray(mask) == 1).astype(np.float32)).resize(size, Image.Resampling.BOX)
    picture = np.asarray(Image.fromarray(plane_in_colour(scan, 0)).resize(size, Image.Resampling.BOX))
    small = scan_of_array(picture, "fundus", None)
    return small, np.asarray(covered) >= DRAWN, detect_field_of_view(small.pixels)


def on_labels(
    title: str, card: str, root: Path, *, classes: Mapping[str, str] | None = None, part: Literal["test", "all"] = "test"
) -> Measurement:
    """Scores on a card's labels, inside the field of view; ``classes``: those of the bundle by the card's names, where they differ."""

    def measured(bundle: Path, out: Path) -> Scores:
        identity = load_bundle(bundle).id
        with progress(f"{identity} on {title}") as advance:
            summary = evaluate(bundle, card, root, part=part, classes=classes, out=out / "scores" / f"{identity}_{card}", progress=advance)
        return {(title, name): score for name, score in scores(summary).items()}

    return measured


def scores(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a model is told by: AP of objects, scores of whole pictures, else Dice of pixels, and errors of surfaces."""
    if (grades := summary.get("grades")) is not None:
        return {title: score_of(grades["scores"][name]) for name, title in OF_PICTURES.items() if name in grades["scores"]}
    if (boxes := summary.get("detection", {}).get("box")) is not None:
        return {f"AP@.50 {name}": score_of(own, "ap50", "ap50_low", "ap50_high") for name, own in boxes["classes"].items()}
    found: dict[str, Mapping[str, Any]] = {}
    for name, own in summary["classes"].items():
        means = own["mean_per_image"]
        found[f"Dice {name}"] = {**score_of(means["dice"]), "beside": {other: means[other]["value"] for other in BESIDE}}
    surfaces = summary.get("surfaces", {"surfaces": {}})
    return found | {f"{surfaces['unit']} off {name}": score_of(own["mean_abs"]) for name, own in surfaces["surfaces"].items()}


def score_of(own: Mapping[str, Any], value: str = "value", low: str = "low", high: str = "high") -> Mapping[str, Any]:
    return {"value": own[value], "low": own.get(low), "high": own.get(high)}


def on_device_lines(vol: Path) -> Measurement:
    """Mean distance from the lines that a Spectralis drew into its own scans; files that cannot be read are named and left out."""

    def measured(bundle: Path, out: Path) -> Scores:
        predictor, rows = Predictor(load_bundle(bundle)), Scores()
        for path in sorted(vol.glob("*.vol")):
            try:
                reading = read_beside_device(predictor, path)
            except ScanError as error:
                print(f"{path.name}: left out, {error}")
                continue
            for error in reading.errors:
                rows[f"Spectralis {path.stem}", f"{error.unit} off the device's {error.name}"] = score_of({"value": error.mean_abs})
        return rows

    return measured


def listed(rows: Scores) -> str:
    """The text of a scores.json (pipeline/bundles/shipped/README.md)."""
    lines = [json.dumps({"on": on, "score": score, **rounded(row)}) for (on, score), row in rows.items()]
    return "[" + ",\n ".join(lines) + "]\n"


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Six places of each number (rounding twice may show another third place), those of ``beside`` too."""
    return {name: rounded(value) if isinstance(value, Mapping) else value and round(value, 6) for name, value in row.items()}


def told(own: str, mine: Scores, shipped: str, theirs: Scores) -> list[str]:
    """A table: one line a score of the bundle ``own`` and of the one ``shipped`` with 95 % intervals, and their difference."""
    lines = [f"| on | score | trained here ({own}) | shipped ({shipped}) | difference |", "|---|---|---|---|---|"]
    for (on, name), score in mine.items():
        other = theirs.get((on, name))
        pair = (score["value"], None if other is None else other["value"])
        difference = "" if pair[0] is None or pair[1] is None else f"{pair[0] - pair[1]:+.3f}"
        lines.append(f"| {on} | {name} | {shown(score)} | {shown(other)} | {difference} |")
    return lines


def shown(score: Mapping[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return ""
    ends = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    return f"{score['value']:.3f}{ends}"


MODELS = {
    "vessels": Model(
        "Vessels in fundus photographs of any camera; the scale comes from the field of view. U-Net on MobileNetV2, 0.62 M parameters.",
        make_vessels,
        needs=("chase", "hrf"),
        measured=("drive",),
    ),
    "vessels_little": Model(
        "Vessels as `vessels` finds them, twice as fast: U-Net on the first seven blocks of MobileNetV2, 74,561 parameters.",
        make_vessels_little,
        needs=("chase", "hrf"),
        measured=("drive",),
    ),
    "disc": Model(
        "Optic disc in fundus photographs of any camera; the scale comes from the field of view. U-Net on MobileNetV2, 0.62 M parameters.",
        make_disc,
        needs=("idrid",),
        measured=("drishti",),
    ),
    "lesions": Model(
        "Hard exudates and haemorrhages in fundus photographs, as boxes; weak: see its card. Faster R-CNN on MobileNetV2.",
        make_lesions,
        needs=("idrid",),
    ),
    "oct_layers": Model(
        "Retinal layers and fluid in OCT B-scans, learnt from artificial scans alone. U-Net, 0.67 M parameters.",
        make_oct_layers,
        measured=("vol",),
    ),
    "eye_side": Model(
        "Right or left eye, found in the fundus photograph itself, or no answer. EfficientNet-Lite0 up to its stride of 16.",
        make_eye_side,
        needs=("eyes",),
        measured=("both-eyes",),
    ),
    "picture_kind": Model(
        "Fundus photograph, OCT, OCT angiography, or a picture of something else. EfficientNet-Lite0 up to its stride of 16.",
        make_picture_kind,
        needs=("kinds",),
        measured=("other-kinds",),
    ),
    "quality": Model(
        "How well a fundus photograph is seen: poor, usable, good; learnt from drawn faults. EfficientNet-Lite0 up to its stride of 16.",
        make_quality,
        needs=("qualities",),
    ),
}


if __name__ == "__main__":
    script(main)

"""Teaches a bundle its own doubt, and measures on cameras it has never seen whether a predicted Dice below 0.70 comes true.

    .venv/bin/python workflows/predicted_dice.py pipeline/bundles/shipped/vessels --class vessel \\
        --fit chase_db1=CHASE:train:5 hrf=HRF:train:4 --look chase_db1=CHASE hrf=HRF --test drive=DRIVE:all:20 --write
    .venv/bin/python workflows/predicted_dice.py pipeline/bundles/shipped/disc --class optic_disc --weak 0.95 --amounts 0.4 0.6 0.75 0.85 \\
        --test idrid_codras=IDRID:validation:18

Each photograph is seen as it is and spoilt in four ways by known amounts (phantoms/degrade.py). On the ``--fit`` ones, which the bundle's
licence lets it know, a temperature is chosen (unspoilt ones of its validation part), and how a true Dice follows from the expected one;
without any it is the expected one. On the ``--test`` ones nothing is chosen. ``--look`` names the sets whose training and validation
parts say what is usual. ``--write`` puts what was learnt into the bundle's doubt.json: its weights, thresholds, masks and id stay. What a
photograph gave is kept in ``--cache``, so that a second run takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.sealed import add_doubt
from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import script
from pipeline.datasets.normalise import NormaliseConfig, choose_field_of_view
from pipeline.doubt.evidence import features, predicted_dice
from pipeline.doubt.look import SIDE, Floats, coarser, learn_look, look
from pipeline.doubt.model import DiceModel, DoubtModel
from pipeline.doubt.uncertainty import ClassChances
from pipeline.inference.predict import Predictor
from pipeline.metrics.calibration import PixelReliability
from pipeline.metrics.coverage import LOW, CoverageRisk, finds_low
from pipeline.metrics.interval import patient_weights, percentile_interval
from pipeline.phantoms.degrade import DEGRADATIONS
from pipeline.scans.array import scan_of_array

KINDS = list(DEGRADATIONS)
MILD = {"blur": 0.15, "haze": 0.3, "exposure": 0.3}
"""By how much a training photograph may be spoilt and still be taken for a usual one."""

HEAD = """| photographs | number | Dice below 0.70 | AUROC for that | mean error | coverage-risk area (best, random) |
|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Source:
    """``CARD=FOLDER[:PART[:NUMBER[:CLASS]]]``: evenly chosen photographs of a part; CLASS is the card's name of the bundle's class."""

    card: DataCard
    root: Path
    part: str = "all"
    number: int = 0
    cls: str = ""

    @classmethod
    def of(cls, text: str) -> Source:
        name, _, rest = text.partition("=")
        root, *more = rest.split(":")
        return cls(load_card(name), Path(root), more[0] if more else "all", int(more[1]) if len(more) > 1 else 0, "".join(more[2:]))

    def cases(self) -> list[CardCase]:
        known = [case for case in find_cases(self.card, self.root) if self.part in ("all", case.part)]
        return known[:: max(1, len(known) // self.number)][: self.number] if self.number else known


@dataclass(frozen=True, eq=False)
class Sample:
    """One photograph as it was shown: how it was spoilt, the mask's Dice, and pixels by their probability: in the mask, beside it and along
    its border, and those of the class and the others (each of metrics/calibration.py's CODES)."""

    patient: str
    case: str
    kind: str
    amount: float
    dice: float
    inside: Floats
    outside: Floats
    border: Floats
    true: Floats
    false: Floats

    @property
    def area(self) -> int:
        """Pixels of the field of view."""
        return int(self.true.sum() + self.false.sum())

    def chances(self, temperature: float) -> ClassChances:
        own = ClassChances(temperature)
        own.inside, own.outside, own.border = self.inside, self.outside, self.border
        return own


def plan(number: int, lows: Sequence[float]) -> list[tuple[str, float]]:
    """How the photograph of a number is shown: as it is, then spoilt ever more, each time in another way."""
    random = np.random.default_rng(number)
    spoilt = [(KINDS[(number + place + number // 5) % 5], float(random.uniform(low, min(1, low + 0.25)))) for place, low in enumerate(lows)]
    return [("none", 0.0), *spoilt]


def samples(predictor: Predictor, source: Source, options: argparse.Namespace) -> Iterator[Sample]:
    for number, case in enumerate(source.cases()):
        for kind, amount in plan(number, options.amounts):
            kept = options.cache / f"{predictor.bundle.id}_{case.key}_{kind}_{amount:.3f}.npz"
            if not kept.exists():
                made = seen(predictor, source, case, (number, kind, amount), options)
                np.savez_compressed(kept, **made)
            with np.load(kept) as file:
                tables = {name: file[name] for name in ("inside", "outside", "border", "true", "false")}
                yield Sample(case.key.patient, str(case.key), kind, amount, float(file["dice"]), **tables)


def seen(
    predictor: Predictor, source: Source, case: CardCase, spoilt: tuple[int, str, float], options: argparse.Namespace
) -> dict[str, Any]:
    """What :class:`Sample` keeps of one photograph; ``spoilt``: its number, the kind and the amount."""
    number, kind, amount = spoilt
    scan = read_scan(source.card, case)
    truth = read_truth(source.card, case, objects=False, scan=scan, weak_masks=options.weak or "none")
    assert truth.mask is not None
    theirs = source.card.label_map
    true = theirs.layers(truth.mask)[theirs.names.index(source.cls or options.cls)]
    field = choose_field_of_view(scan.pixels, NormaliseConfig(), scan.modality, None)
    picture = np.moveaxis(scan.pixels, 0, -1)
    shown = DEGRADATIONS[kind](picture, amount, np.random.default_rng([number, 7])) if amount else picture
    prediction = predictor.predict(scan_of_array(shown))
    layers = predictor.layers(prediction)
    assert prediction.probabilities is not None
    assert layers is not None
    place = predictor.bundle.label_map.names.index(options.cls)
    chance, mask = prediction.probabilities[place], layers[place]
    return tables(chance, mask, true, field)


def tables(
    chance: npt.NDArray[np.floating[Any]], mask: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], field: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    own, pixels = ClassChances(), PixelReliability()
    own.add(chance, mask)
    pixels.add(chance, true, field)
    both = int((mask & true & field).sum())
    dice = 2 * both / max(1, int((mask & field).sum()) + int((true & field).sum()))
    return {"inside": own.inside, "outside": own.outside, "border": own.border, "true": pixels.true, "false": pixels.false, "dice": dice}


def temperature_of(fitted: Sequence[Sample], chosen: set[str]) -> float:
    """Of unspoilt photographs of the validation part, or of all where none of them is among these."""
    clean = [one for one in fitted if one.kind == "none"]
    pixels = PixelReliability()
    for one in [one for one in clean if one.case in chosen] or clean:
        pixels.true += one.true
        pixels.false += one.false
    return round(pixels.temperature(), 4)


def learn_dice(fitted: Sequence[Sample], temperature: float) -> DiceModel:
    """Fractional logistic regression of the true Dice on the features, whose weights may not be negative: more certainty never lowers it.

    Papke and Wooldridge, Journal of Applied Econometrics 11(6):619-632, 1996.
    """
    from scipy.optimize import minimize

    clean = [one.inside.sum() / one.area for one in fitted if one.kind == "none"]
    usual = round(float(np.exp(np.mean(np.log(clean)))), 5)
    fitted = [one for one in fitted if one.inside.any()]  # where nothing is found there is nothing to learn
    rows = [features(one.chances(temperature), one.area, usual) for one in fitted]
    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    true = np.array([one.dice for one in fitted])

    def loss(numbers: Floats) -> float:
        total = numbers[0] + table @ numbers[1:]
        return float(np.mean(np.logaddexp(0, total) - true * total)) + 1e-4 * float(numbers[1:] @ numbers[1:])

    found = minimize(loss, np.array([0.0, *[0.5] * len(names)]), bounds=[(None, None), *[(0, None)] * len(names)]).x
    weights = {name: round(float(weight), 4) for name, weight in zip(names, found[1:], strict=True)}
    return DiceModel(usual=usual, bias=round(float(found[0]), 4), weights=weights)


def looks(sources: Sequence[Source], split: Any) -> tuple[list[Floats], list[Floats]]:
    """Of the training and the validation photographs of the bundle, each as it is and mildly spoilt."""
    parts: tuple[list[Floats], list[Floats]] = [], []
    for source in sources:
        for case in source.cases():
            for place, keys in enumerate((split.train, split.validation)):
                if any(_same(case, str(key)) for key in keys):
                    parts[place].extend(looks_of(source, case))
    return parts


def _same(case: CardCase, key: str) -> bool:
    """Whether a case of one card is that of the card on which the bundle was trained, which may lie in folders of their own."""
    return str(case.key) == key or case.key.image == key.rpartition("_")[2]


def looks_of(source: Source, case: CardCase) -> Iterator[Floats]:
    whole = read_scan(source.card, case).pixels
    yield look(whole, choose_field_of_view(whole, NormaliseConfig(), "fundus", None))
    random, coarse = np.random.default_rng(len(str(case.key))), np.moveaxis(coarser(whole, max(whole.shape) // (2 * SIDE)), 0, -1)
    for _ in range(2):
        picture = coarse.astype(np.uint8)
        for kind, most in MILD.items():
            picture = DEGRADATIONS[kind](picture, float(random.uniform(0, most)), random)
        pixels = np.ascontiguousarray(np.moveaxis(picture, -1, 0))
        yield look(pixels, choose_field_of_view(pixels, NormaliseConfig(), "fundus", None))


def told(name: str, found: Sequence[Sample], model: DoubtModel, cls: str) -> list[str]:
    """Rows of the table: all photographs of a set, those as they are, and those that were spoilt."""
    lines = []
    for what in ("all", "as they are", "spoilt"):
        own = [one for one in found if what == "all" or (one.kind == "none") == (what == "as they are")]
        predicted, true = predictions(own, model, cls), np.array([one.dice for one in own])
        weights = patient_weights([one.patient for one in own], 2000)
        area = float(finds_low(predicted, true)[0])
        interval = None if weights is None or np.isnan(area) else percentile_interval(finds_low(predicted, true, weights=weights))
        text = "undefined" if np.isnan(area) else f"{area:.3f}"
        text += "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        curve = CoverageRisk.of(1 - predicted, true)
        error = float(np.abs(predicted - true).mean())
        counts = f"{len(own)} | {int((true < LOW).sum())}"
        lines.append(f"| {name}, {what} | {counts} | {text} | {error:.3f} | {curve.area:.3f} ({curve.best:.3f}, {curve.random:.3f}) |")
    return lines


def predictions(found: Sequence[Sample], model: DoubtModel, cls: str) -> Floats:
    chances = [one.chances(model.temperatures.get(cls, 1.0)) for one in found]
    pairs = zip(chances, found, strict=True)
    return np.array([predicted_dice(own, one.area, model.dice.get(cls)) or 0.0 if own.pixels else 0.0 for own, one in pairs])


def draw(groups: dict[str, Sequence[Sample]], model: DoubtModel, cls: str) -> npt.NDArray[np.uint8]:
    """True against predicted Dice, a colour a set."""
    from pipeline.drawing.curves import figure_of, picture_of

    figure, axes = figure_of(title=f"Dice of {cls}", xlabel="predicted", ylabel="true", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for name, found in groups.items():
        axes.plot(predictions(found, model, cls), [one.dice for one in found], "o", alpha=0.7, markersize=4, label=name)
    axes.axhline(LOW, linestyle=":", color="black", linewidth=1)
    axes.plot([0, 1], [0, 1], linestyle="--", color="black", linewidth=1)
    axes.legend(loc="best", fontsize="small")
    return picture_of(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--class", dest="cls", required=True, help="the bundle's class")
    parser.add_argument("--fit", nargs="+", type=Source.of, default=[], metavar="CARD=FOLDER:PART:NUMBER")
    parser.add_argument("--test", nargs="+", type=Source.of, default=[], metavar="CARD=FOLDER:PART:NUMBER:CLASS")
    parser.add_argument("--look", nargs="+", type=Source.of, default=[], metavar="CARD=FOLDER")
    parser.add_argument("--amounts", nargs=4, type=float, default=[0.05, 0.3, 0.5, 0.7], help="least amounts by which pictures are spoilt")
    parser.add_argument("--weak", type=float, help="part of a box that its ellipse fills, where labels are boxes")
    parser.add_argument("--cache", type=Path, default=Path("predicted_dice"))
    parser.add_argument("--picture", type=Path, help="where to draw true against predicted Dice")
    parser.add_argument("--write", action="store_true", help="put what was learnt into the bundle")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(load_bundle(options.bundle))
    split = trained_on(predictor.bundle).split
    if split is None:
        sys.exit("the bundle does not say what it was trained and validated on; train it again")
    fitted = [one for source in options.fit for one in samples(predictor, source, options)]
    learnt: dict[str, Any] = {}
    if fitted:
        temperature = temperature_of(fitted, {str(key) for key in split.validation})
        learnt = {"temperatures": {options.cls: temperature}, "dice": {options.cls: learn_dice(fitted, temperature)}}
        print(f"temperature {temperature}, Dice from {learnt['dice'][options.cls].to_json()}")
    if options.look:
        learnt["look"] = learn_look(*looks(options.look, split))
    model = DoubtModel(**learnt)
    print(HEAD)
    if fitted:
        print("\n".join(told("learnt on", fitted, model, options.cls)))
    groups = {source.card.name: list(samples(predictor, source, options)) for source in options.test}
    for name, found in groups.items():
        print("\n".join(told(name, found, model, options.cls)))
    if options.picture and groups:
        from pipeline.scans.raster import write_png

        write_png(options.picture, draw({"learnt on": fitted, **groups}, model, options.cls))
    if options.write:
        add_doubt(options.bundle, model)


if __name__ == "__main__":
    script(main)

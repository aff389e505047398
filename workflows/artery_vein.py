"""How well a bundle tells arteries from veins, along the true vessels' centrelines, and what it makes of CRAE, CRVE and AVR.

    ocuseg train artery_vein --root DATA
    python workflows/artery_vein.py runs/RUN/bundle --root drive_av=DRIVE --root hrf_av=DATA [--out docs/results/artery_vein.md]

Of each set's test part: pixels of the true centrelines that are artery or vein (crossings and uncertain vessels are left out), how many of
them the network found as vessel, and the fraction of those with the right class: of the likelier class pixel by pixel, and after the trees
were made consistent (task.vessel_trees), where a pixel of both classes counts as wrong. Equivalents are in px, around the disc that the
shipped `disc` finds, over the images on which both the labels and the network give all three.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.shipped_models import find_bundle
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_target_mask
from pipeline.cli.console import script
from pipeline.inference.predict import Predictor
from pipeline.measurements.artery_vein import consistent_trees
from pipeline.measurements.case import MeasuredCase
from pipeline.measurements.vessels import EQUIVALENT_QUANTITIES, measure_equivalents
from pipeline.metrics.artery_vein import CentrelineAccuracy, centreline_accuracy
from pipeline.metrics.threshold import decide
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.types import IGNORE, Geometry, LabelClass, LabelMap

Bools = npt.NDArray[np.bool_]

CLASSES = LabelMap(
    (
        LabelClass(1, "artery", (0, 0, 1), role="artery"),
        LabelClass(2, "vein", (0, 0, 2), role="vein"),
        LabelClass(3, "disc", (0, 0, 3), role="optic_disc"),
    ),
    overlapping=True,
)
KEYS = [quantity.key for quantity in EQUIVALENT_QUANTITIES]


def equivalents(artery: Bools, vein: Bools, disc: Bools, pixels: npt.NDArray[np.uint8]) -> list[float | None]:
    case = MeasuredCase(Geometry(artery.shape), CLASSES, [artery, vein, disc].__getitem__, lambda: detect_field_of_view(pixels))
    found = measure_equivalents(case, (0, 1))
    return [found[key].value for key in KEYS]


def row(name: str, counts: Sequence[CentrelineAccuracy]) -> str:
    accuracies = [own.accuracy for own in counts if own.accuracy is not None]
    pixels, found, right = (sum(getattr(own, field) for own in counts) for field in ("pixels", "found", "right"))
    whole = f"{pixels} | {found / pixels:.3f} | **{right / found:.3f}**"
    return f"| {name} | {len(counts)} | {whole} | {np.mean(accuracies):.3f} | {min(accuracies):.3f} |"


def of_set(name: str, root: Path, models: dict[str, Predictor]) -> tuple[list[str], str]:
    """Rows of accuracy, and one of equivalents."""
    card = load_card(name)
    network = models["artery_vein"]
    by_pixel, by_tree, pairs = [], [], []
    for case in [case for case in find_cases(card, root) if case.part == "test"]:
        scan = read_scan(card, case)
        mask = read_target_mask(card, case, scan=scan)
        artery, vein = card.label_map.layers(mask)
        prediction = network.predict(scan)
        assert prediction.probabilities is not None
        chances = prediction.probabilities
        found = decide(chances, network.bundle.label_map, network.task.thresholds)
        vessel, lead = found.any(axis=0), chances[0] - chances[1]
        known = mask != IGNORE
        by_pixel.append(centreline_accuracy((vessel & (lead > 0), vessel & (lead <= 0)), (artery, vein), known))
        trees = consistent_trees(found[0], found[1], lead)
        by_tree.append(centreline_accuracy(trees, (artery, vein), known))
        layers = models["disc"].layers(models["disc"].predict(scan))
        assert layers is not None
        pairs.append([equivalents(*own, layers[0], scan.pixels) for own in ((artery, vein), trees)])
        print(f"{name}: {len(by_tree)} images, accuracy of the last one {by_tree[-1].accuracy}", flush=True)
    whole = [pair for pair in pairs if all(value is not None for own in pair for value in own)]
    means = np.array(whole, np.float64).reshape(-1, 2, 3)
    cells = []
    for place in range(3):
        true, ours = means[:, 0, place], means[:, 1, place]
        cells += [f"{true.mean():.3g}", f"{ours.mean():.3g}", f"{np.abs(ours - true).mean():.2g}"] if len(whole) else ["-", "-", "-"]
    rows = [row(f"{name}, pixel by pixel", by_pixel), row(f"{name}, consistent trees", by_tree)]
    return rows, f"| {name} | {len(whole)} of {len(pairs)} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", action="append", required=True, metavar="CARD=FOLDER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    models = {"artery_vein": Predictor(load_bundle(options.bundle)), "disc": Predictor(load_bundle(find_bundle("disc")))}
    if list(models["artery_vein"].bundle.label_map.roles) != ["artery", "vein"]:
        parser.error("the bundle's classes must be an artery and a vein by role, in this order")
    rows: list[str] = []
    others: list[str] = []
    for own in options.root:
        name, _, folder = own.partition("=")
        accuracy, equivalent = of_set(name, Path(folder), models)
        rows += accuracy
        others.append(equivalent)
    text = [
        "| test part | images | true centreline, px | found | accuracy | mean over images | least |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "| test part | images | CRAE, labels | network | absolute difference | CRVE, labels | network | absolute difference | AVR, labels "
        "| network | absolute difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *others,
        "",
    ]
    print("\n".join(text))
    if options.out is not None:
        head = [
            "# Arteries and veins",
            "",
            "Made by the commands at the head of `workflows/artery_vein.py`, which says what is counted.",
            "",
        ]
        options.out.write_text("\n".join([*head, *text]), encoding="utf-8")


if __name__ == "__main__":
    script(main)

"""What vessels measure on readers' masks and on those of the shipped `vessels`, side by side.

    python workflows/vessel_measures.py --root chase_db1=CHASE --root hrf=HRF --root drive=DRIVE --out docs/results/vessel_measures.md

Of each set's test part: mean over images by the first reader's masks, mean difference and mean absolute difference of the model from it
and, where there is one, of the second reader. The last table is what turning the first reader's masks by 30 degrees changes. Zones lie
around the disc that the shipped `disc` finds.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.shipped_models import find_bundle
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_target_mask
from pipeline.cli.console import script
from pipeline.errors import CardError
from pipeline.inference.predict import Predictor
from pipeline.measurements.case import MeasuredCase
from pipeline.measurements.vessels import VESSEL_QUANTITIES, measure_vessels
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.types import Geometry, LabelClass, LabelMap

Bools = npt.NDArray[np.bool_]
Numbers = dict[str, float | None]

CLASSES = LabelMap(
    (LabelClass(1, "vessel", (0, 0, 1), role="vessel"), LabelClass(2, "disc", (0, 0, 2), role="optic_disc")),
    overlapping=True,
)
TURN_DEG = 30.0


def measured(vessel: Bools, disc: Bools, pixels: npt.NDArray[np.uint8] | None) -> Numbers:
    """Values of every quantity, in pixels, None where it is undefined."""
    find_field = None if pixels is None else lambda: detect_field_of_view(pixels)
    case = MeasuredCase(Geometry(vessel.shape), CLASSES, [vessel, disc].__getitem__, find_field)
    return {key.replace("{class}_", ""): own.value for key, own in measure_vessels(case, (0,)).items()}


def turned(mask: Bools) -> Bools:
    return np.asarray(ndimage.rotate(mask.astype(np.float32), TURN_DEG, order=1) > 0.5)


def table(kinds: Mapping[str, Sequence[tuple[Numbers, Numbers]]], first: Sequence[Numbers]) -> list[str]:
    """Rows of quantities: mean of ``first``, then of each kind of pairs (another, first) the mean and mean absolute difference."""
    heading = ["measure", "first reader", *(text for kind in kinds for text in (f"{kind}, difference", "absolute"))]
    lines = [" | ".join(["", *heading, ""]).strip(), "|".join(["", *("---" for _ in heading), ""])]
    for quantity in VESSEL_QUANTITIES:
        key = quantity.key.replace("{class}_", "")
        known = [own[key] for own in first if own[key] is not None]
        if not known:
            continue
        cells = [key.replace("_", " "), f"{np.mean(known):.4g}"]  # type: ignore[arg-type]
        for pairs in kinds.values():
            both = np.array([(a[key], b[key]) for a, b in pairs if a[key] is not None and b[key] is not None], np.float64).reshape(-1, 2)
            far = both[:, 0] - both[:, 1]
            cells += [f"{far.mean():+.3g}", f"{np.abs(far).mean():.3g}"] if len(far) else ["-", "-"]
        lines.append(" | ".join(["", *cells, ""]).strip())
    return lines


def of_set(name: str, root: Path, models: Mapping[str, Predictor], limit: int | None) -> list[str]:
    """Its tables."""
    card = load_card(name)
    first, second, model, rotated = [], [], [], []
    seconds = []
    for case in [case for case in find_cases(card, root) if case.part == "test"][:limit]:
        scan = read_scan(card, case)
        found = {}
        for what, predictor in models.items():
            layers = predictor.layers(predictor.predict(scan))
            assert layers is not None
            found[what] = layers[0]
        vessel, disc = read_target_mask(card, case, scan=scan) == 1, found["disc"]
        began = time.process_time()
        first.append(measured(vessel, disc, scan.pixels))
        seconds.append(time.process_time() - began)
        model.append((measured(found["vessels"], disc, scan.pixels), first[-1]))
        with contextlib.suppress(CardError):  # not every copy of a set holds the second reader
            other = read_target_mask(card, case, reader="second", scan=scan) == 1
            second.append((measured(other, disc, scan.pixels), first[-1]))
        plain = measured(vessel, disc, None)
        rotated.append((measured(turned(vessel), turned(disc), None) | {"density": None}, plain))  # its picture is larger
        print(f"{name}: {len(first)} images, {seconds[-1]:.2f} s for the measures of the last one", flush=True)
    kinds = {"shipped `vessels`": model, **({"second reader": second} if second else {}), f"turned by {TURN_DEG:g} degrees": rotated}
    rows, columns = scan.geometry.plane
    return [
        f"## {card.title}",
        "",
        f"Test part, {len(first)} images of {columns} x {rows}; {np.median(seconds):.2f} s of one CPU core for all measures of one mask.",
        "",
        *table(kinds, first),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", action="append", required=True, metavar="CARD=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only so many images of each set")
    options = parser.parse_args()
    models = {name: Predictor(load_bundle(find_bundle(name))) for name in ("vessels", "disc")}
    text = [
        "# What vessels measure",
        "",
        "`python workflows/vessel_measures.py "
        + " ".join(f"--root {own.split('=')[0]}={own.split('=')[0].upper()}" for own in options.root)
        + (f" --limit {options.limit}" if options.limit else "")
        + " --out docs/results/vessel_measures.md`.",
        "Lengths in px, squared curvature in 1/px2, density in %; [measurements.md](../measurements.md) defines each. A difference is that",
        "of the other mask's number less the first reader's, mean over images; absolute: mean of its size. A mask that is turned by an",
        "angle is drawn anew on the grid of pixels, so what differs there is what the grid is worth.",
        "",
    ]
    for own in options.root:
        name, _, folder = own.partition("=")
        text += of_set(name, Path(folder), models, options.limit)
    options.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    script(main)

"""How much larger than the optic disc its boxes are drawn, from the photographs alone.

    python workflows/box_margin.py --root IDRID

Around each box's centre run ellipses of its shape. The disc ends where the brightness (red and green, median along an ellipse) falls
fastest from one ellipse to the next; printed is at which fraction of the box's own ellipse that is. Only training photographs are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import script

FRACTIONS = np.linspace(0.7, 1.3, 61)
"""Axes of the ellipses, of those that the box's own has."""
ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)


def edge(pixels: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> float:
    """Where the brightness falls fastest, as a fraction of the ellipse inscribed in ``box`` (x1, y1, x2, y2); pixels (3, H, W)."""
    brightness = gaussian_filter(pixels[:2].astype(np.float32).sum(axis=0), 1.5)
    x1, y1, x2, y2 = box.astype(float)
    rows = (y1 + y2 - 1) / 2 + FRACTIONS[:, None] * (y2 - y1) / 2 * np.sin(ANGLES)
    columns = (x1 + x2 - 1) / 2 + FRACTIONS[:, None] * (x2 - x1) / 2 * np.cos(ANGLES)
    along = np.median(map_coordinates(brightness, [rows, columns], order=1, mode="nearest"), axis=1)
    fall = -np.gradient(gaussian_filter1d(along, 1.5))
    ends = 5  # the filter knows nothing beyond the outermost ellipses
    return float(FRACTIONS[ends:-ends][fall[ends:-ends].argmax()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--card", default="idrid_codras")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--label", default="optic_disc", help="class whose boxes are looked at")
    options = parser.parse_args()
    card = load_card(options.card)
    label = card.label_map.names.index(options.label) + 1
    edges = []
    for case in find_cases(card, options.root):
        if case.part != "train":
            continue
        scan = read_scan(card, case)
        objects = read_truth(card, case, objects=True, scan=scan).objects
        assert objects is not None
        edges += [edge(scan.pixels, box) for box in objects[0].boxes[objects[0].labels == label]]
    low, middle, high = np.percentile(edges, [25, 50, 75])
    print(
        f"{len(edges)} boxes of {options.label}: the edge is at {middle:.3f} of the inscribed ellipse, quartiles {low:.3f} and {high:.3f}"
    )


if __name__ == "__main__":
    script(main)

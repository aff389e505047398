"""How well drawn contours are seen: WCAG contrast along the outlines that experts drew, on Drishti-GS1's photographs.

    python workflows/benchmarks/contour_contrast.py [--data SHARED_DATA]

Contours are those of the product (drawing/overlay.py), with and without their dark halo, one pixel wide, in the card's colours, along
what three of four experts call disc or cup. "line": contrast of each pixel of the line with the mean of the pixels that touch it, as drawn:
the photograph itself without a halo, the halo with one. "line or halo": the stronger of the contrasts that the
line and its halo have with the photograph beside them, after WCAG 2.2's technique C40 for two-coloured lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from photographs import SHARED
from PIL import Image
from scipy import ndimage

from pipeline.drawing import overlay
from pipeline.types import LabelClass, LabelMap

CLASSES = LabelMap((LabelClass(1, "disc", (0, 114, 178)), LabelClass(2, "cup", (0, 158, 115))), overlapping=True)
"""As data_cards/drishti_gs.md has them."""
MARGIN = 20
NEEDED = 3.0
"""WCAG 2.2, 1.4.11: graphics that must be seen."""

Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder with drishti_gs_half_train")
    root = parser.parse_args().data / "drishti_gs_half_train"
    photographs = sorted((root / "images").glob("*.jpg"))
    print(f"{len(photographs)} photographs\n")
    print("| contour | halo | line | 5th percentile | photographs at 3 : 1 | line or halo | 5th percentile | photographs at 3 : 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for place, cls in enumerate(CLASSES.classes):
        for halo in (0.0, overlay.HALO):
            pairs = [contrasts(path, place, halo) for path in photographs]
            print(f"| {cls.name} | {'yes' if halo else 'no'} | {summary([p[0] for p in pairs])} | {summary([p[1] for p in pairs])} |")


def summary(values: list[Floats]) -> str:
    everywhere = np.concatenate(values)
    enough = sum(float(np.median(own)) >= NEEDED for own in values)
    return f"{np.median(everywhere):.1f} : 1 | {np.percentile(everywhere, 5):.1f} : 1 | {enough} of {len(values)}"


def contrasts(path: Path, place: int, halo: float) -> tuple[Floats, Floats]:
    """Of each pixel of the contour of one class: the line's contrast with what touches it, and the stronger one of line and halo with the
    photograph."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    masks = path.parent.parent
    layers = np.stack([np.asarray(Image.open(masks / name / f"{path.stem}.png")) >= 191 for name in ("softmap_od", "softmap_cup")])
    alone = np.zeros_like(layers)
    alone[place] = layers[place]
    rows, columns = (slice(max(found.min() - MARGIN, 0), found.max() + MARGIN) for found in np.nonzero(alone.any(axis=0)))
    picture, alone = np.ascontiguousarray(picture[rows, columns]), alone[:, rows, columns]
    overlay.HALO = halo
    drawn = overlay.draw_overlay(picture, alone, CLASSES, notice=False)
    line = (drawn == CLASSES.classes[place].colour).all(axis=2) & (drawn != picture).any(axis=2)
    shown, bare = luminance(drawn), luminance(picture)
    touching = ndimage.binary_dilation(alone[place]) & ~ndimage.binary_erosion(alone[place], iterations=2) & ~line
    beside, photograph = around(shown, touching)[line], around(bare, touching)[line]
    of_line = contrast(shown[line], beside)
    dark = luminance(np.rint(picture * np.float32(1 - halo)).astype(np.uint8))
    of_halo = contrast(around(dark, touching)[line], photograph)
    return of_line, np.maximum(contrast(shown[line], photograph), of_halo)


def around(values: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    """Mean of ``values`` over the ``counted`` pixels of the three by three around each pixel; the pixel's own value where there is none."""
    kernel = np.ones((3, 3))
    number = ndimage.convolve(counted.astype(np.float64), kernel, mode="constant")
    total = ndimage.convolve(values * counted, kernel, mode="constant")
    return np.where(number > 0, total / np.maximum(number, 1), values)


def luminance(picture: npt.NDArray[np.uint8]) -> Floats:
    """Relative luminance (H, W) of sRGB (H, W, 3), as WCAG 2.2 defines it."""
    value = picture / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    weighted: Floats = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighted


def contrast(one: Floats, other: Floats) -> Floats:
    brighter, darker = np.maximum(one, other), np.minimum(one, other)
    ratio: Floats = (brighter + 0.05) / (darker + 0.05)
    return ratio


if __name__ == "__main__":
    main()

"""How well the field of view is found: IoU with the masks of public sets, as they are and with drawn surrounds.

    python workflows/benchmarks/field_of_view.py [--data SHARED_DATA]

DRIVE's masks are the set's own, CHASE_DB1's were made by a third party, HRF's by a threshold on its black surround. For the drawn
surrounds every sixth photograph's own is replaced by a colour that changes across the picture, with noise, through a JPEG file.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from photographs import SHARED
from PIL import Image
from scipy import ndimage

from pipeline.scans.field_of_view import detect_field_of_view

SETS = {"chase_db1": "fov_masks", "drive": "fov_masks", "hrf_half": "fov_masks_computed"}
SURROUNDS = {
    "black": (0, 0, 0),
    "dark green": (12, 48, 20),
    "green": (30, 95, 40),
    "dark red": (45, 14, 12),
    "red": (70, 14, 12),
    "blue": (15, 20, 75),
    "grey": (60, 60, 60),
    "bright grey": (120, 120, 120),
    "white": (250, 250, 250),
}
# How much a drawn surround changes to either side of the picture's middle, and its noise, in grey levels.
SLOPE, NOISE = 10.0, 6.0

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="folder with chase_db1, drive and hrf_half")
    data = parser.parse_args().data
    print("| photographs | images | mean IoU | lowest | below 0.95 | ms |\n|---|---|---|---|---|---|")
    for name in SETS:
        row(name, photographs(data / name, SETS[name]))
    some = [pair for name in SETS for pair in list(photographs(data / name, SETS[name]))[::6]]
    for number, (name, colour) in enumerate(SURROUNDS.items()):
        row(f"{name} surround {colour}", ((drawn(image, valid, colour, number), valid) for image, valid in some))


def photographs(root: Path, masks: str) -> Iterator[tuple[Pixels, Mask]]:
    """Images uint8 (H, W, 3) and fields of view (H, W)."""
    for path in sorted((root / masks).glob("*.png")):
        (image,) = (root / "images").glob(f"{path.stem}.*")
        yield np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(path).convert("L")) > 0


def row(name: str, pairs: Iterator[tuple[Pixels, Mask]]) -> None:
    scores, seconds = [], []
    for image, valid in pairs:
        began = time.process_time()
        found = detect_field_of_view(np.moveaxis(image, -1, 0))
        seconds.append(time.process_time() - began)
        scores.append((found & valid).sum() / (found | valid).sum())
    low = sum(score < 0.95 for score in scores)
    print(f"| {name} | {len(scores)} | {np.mean(scores):.4f} | {min(scores):.4f} | {low} | {1000 * min(seconds):.0f} |", flush=True)


def drawn(image: Pixels, valid: Mask, colour: tuple[int, int, int], seed: int) -> Pixels:
    """The photograph with another surround, its edge as soft as a pixel in a thousand of the picture."""
    random = np.random.default_rng(seed)
    rows, columns = valid.shape
    direction = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    slope = SLOPE * (x * np.cos(direction) + y * np.sin(direction))
    around = np.array(colour) + slope[..., None] + random.normal(0, NOISE, image.shape)
    # Retina is continued outwards, so that no dark rim of the old surround shows through the soft edge.
    core = ndimage.binary_erosion(valid, iterations=max(2, rows // 250))
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    edge = ndimage.gaussian_filter(valid.astype(np.float32), max(rows, columns) / 1000)[..., None]
    file = io.BytesIO()
    mixed = (image[tuple(nearest)] * edge + around * (1 - edge)).clip(0, 255).astype(np.uint8)
    Image.fromarray(mixed).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


if __name__ == "__main__":
    main()

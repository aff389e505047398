"""A small photograph of a fundus whose parts are known: a round field, a disc, and vessels of the usual density."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan

SIDE = 420
DISC_CUP_VESSEL = LabelMap(
    (
        LabelClass(1, "one", (0, 158, 115), "SCT:81016008"),
        LabelClass(2, "two", (230, 159, 0), role="optic_cup", inside="one"),
        LabelClass(3, "three", (0, 114, 178), "SCT:59820001"),
    ),
    overlapping=True,
)


def circle(y: float, x: float, radius: float, side: int = SIDE) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:side, :side]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


FIELD = circle(SIDE / 2, SIDE / 2, 0.48 * SIDE)


@functools.cache
def vessels() -> npt.NDArray[np.bool_]:
    """Curved lines from the disc outwards."""
    from scipy.ndimage import binary_dilation

    out = np.zeros((SIDE, SIDE), bool)
    t = np.linspace(0, 1, 2000)
    for bend in (-0.9, -0.6, -0.3, 0.3, 0.6, 0.9):
        for way in (-1, 1):
            y = SIDE / 2 + way * (bend * t + 0.35 * np.sin(3 * t)) * SIDE * 0.45
            x = SIDE * 0.3 + way * (t - 0.1) * SIDE * 0.6
            keep = (y > 1) & (y < SIDE - 2) & (x > 1) & (x < SIDE - 2)
            out[y[keep].astype(int), x[keep].astype(int)] = True
    return np.asarray(binary_dilation(out, iterations=2) & circle(SIDE / 2, SIDE / 2, 0.44 * SIDE))


@functools.cache
def fundus() -> npt.NDArray[np.uint8]:
    """uint8 (SIDE, SIDE, 3)."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    shade = 1 + 3 * gaussian_filter(random.normal(size=(SIDE, SIDE)), 25) - 0.25 * gaussian_filter(vessels().astype(float), 0.7)
    shade += 0.02 * random.normal(size=(SIDE, SIDE))
    colours = np.array([170, 90, 40]) * shade[..., None]
    colours += np.array([50, 90, 60]) * gaussian_filter(circle(SIDE / 2, SIDE * 0.3, 0.06 * SIDE).astype(float), 2)[..., None]
    return np.asarray((colours * FIELD[..., None]).clip(0, 255), np.uint8)


def scan_of(picture: npt.NDArray[np.uint8], modality: str = "fundus") -> Scan:
    """(H, W, 3) or (D, H, W) of a volume."""
    pixels = np.moveaxis(picture, -1, 0) if picture.shape[-1] == 3 else picture[None]
    return Scan(pixels, Geometry(pixels.shape[1:]), modality, CaseKey("a", "U", "v", "i"), "0" * 64)  # type: ignore[arg-type]

"""Pictures that lie among scans in a clinic's folder and show no retina: forms, screenshots, slit-lamp photographs, empty frames.

All are drawn, uint8 (rows, columns, 3), and repeat for a seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Picture = npt.NDArray[np.uint8]
Other = Callable[[int, int, np.random.Generator], Picture]
_INK = (35, 35, 45)


def form(rows: int, columns: int, random: np.random.Generator) -> Picture:
    """A page of lines of words, boxes to tick and a signature."""
    page = Image.new("RGB", (columns, rows), (int(random.integers(235, 256)),) * 3)
    draw = ImageDraw.Draw(page)
    step = max(rows // 40, 4)
    for y in range(2 * step, rows - 4 * step, step):
        if random.random() < 0.2:
            continue
        x, end = columns * 0.08, columns * random.uniform(0.5, 0.92)
        while x < end:
            width = step * random.uniform(0.5, 3)
            draw.rectangle((x, y, min(x + width, end), y + 0.45 * step), _INK)
            x += width + 0.4 * step
    xs = np.linspace(columns * 0.5, columns * 0.9, 30)
    ys = rows - 2 * step + step * np.cumsum(random.normal(0, 0.4, 30))
    draw.line([*map(tuple, np.stack([xs, ys], axis=1).tolist())], (20, 30, 140), max(step // 6, 1))
    return np.asarray(page)


def screenshot(rows: int, columns: int, random: np.random.Generator) -> Picture:
    """Windows with title bars, buttons and lines of text."""
    page = Image.new("RGB", (columns, rows), (58, 110, 165))
    draw = ImageDraw.Draw(page)
    for _ in range(4):
        x, y = random.uniform(0, 0.6) * columns, random.uniform(0, 0.6) * rows
        width, height = random.uniform(0.25, 0.5) * columns, random.uniform(0.25, 0.5) * rows
        draw.rectangle((x, y, x + width, y + height), (240, 240, 240), (90, 90, 90))
        draw.rectangle((x, y, x + width, y + 0.06 * rows), (0, 84, 166))
        for line in range(6):
            top = y + (0.1 + 0.05 * line) * rows
            draw.rectangle((x + 0.02 * columns, top, x + random.uniform(0.3, 0.9) * width, top + 0.015 * rows), _INK)
    return np.asarray(page)


def slit_lamp(rows: int, columns: int, random: np.random.Generator) -> Picture:
    """The front of an eye: lids, sclera, iris and pupil, with the slit's bright band across."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    x = x * columns / rows
    picture = np.full((rows, columns, 3), (150, 95, 75), float)
    picture[(x / 1.1) ** 2 + (y / 0.6) ** 2 < 1] = (205, 190, 180)
    away = np.hypot(x - random.uniform(-0.2, 0.2), y)
    iris = np.array([[110, 70, 40], [90, 110, 130]])[random.integers(2)]
    spokes = 1 + 0.2 * gaussian_filter(random.normal(size=(rows, columns)), min(rows, columns) / 150) * 10
    picture[away < 0.45] = (iris * spokes[..., None])[away < 0.45]
    picture[away < 0.17] = (12, 8, 8)
    slit = np.exp(-(((x - 0.12 * y - random.uniform(-0.2, 0.2)) / 0.05) ** 2))
    lit = picture * (0.45 + 0.9 * slit[..., None]) + 60 * slit[..., None]
    return np.asarray(gaussian_filter(lit, (1, 1, 0)).clip(0, 255), np.uint8)


def black(rows: int, columns: int, random: np.random.Generator) -> Picture:
    """A frame in which nothing was lit, with the camera's noise."""
    return np.asarray(random.integers(0, 4, (rows, columns, 3)), np.uint8)


def noise(rows: int, columns: int, random: np.random.Generator) -> Picture:
    """Every pixel by chance."""
    return np.asarray(random.integers(0, 256, (rows, columns, 3)), np.uint8)


OTHERS: dict[str, Other] = {"form": form, "screenshot": screenshot, "slit_lamp": slit_lamp, "black": black, "noise": noise}
"""By name; each takes rows, columns, and random numbers."""

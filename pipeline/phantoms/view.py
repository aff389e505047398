"""From millimetres on a phantom retina to pixels of a photograph: where the camera looks, and vessels drawn there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.phantoms.vessels import Seed, along, stream

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

FIELD_RADIUS_MM = 6.6  # a 45 degree camera: about 0.29 mm of retina a degree


@dataclass(frozen=True)
class View:
    """How the camera looks at the retina of a right eye: millimetres and pixels are one turn and one shift apart."""

    shape: tuple[int, int]
    centre: tuple[float, float]
    turn: float
    pixel_mm: float
    radius_px: float

    @classmethod
    def aim(cls, seed: Seed, visit: int, shape: tuple[int, int]) -> View:
        eye, shot = stream(seed, 4), stream(seed, 5, visit)
        # Some cameras record the whole circle, others cut it above and below.
        reach = 0.485 if eye.random() < 0.6 else 0.55
        radius = min(shape[0] * reach, shape[1] * 0.487)
        centre = (eye.uniform(0.6, 1.9) + shot.normal(0, 0.15), eye.normal(-0.15, 0.2) + shot.normal(0, 0.15))
        return cls(shape, centre, math.radians(eye.normal(0, 2.5) + shot.normal(0, 1)), FIELD_RADIUS_MM / radius, radius)

    def positions(self) -> tuple[Floats, Floats]:
        """x and y in mm on the retina of every pixel centre, float32 (H, W)."""
        rows, columns = self.shape
        down = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2)[:, None] * np.float32(self.pixel_mm)
        across = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2)[None] * np.float32(self.pixel_mm)
        cosine, sine = np.float32(math.cos(self.turn)), np.float32(math.sin(self.turn))
        return cosine * across - sine * down + np.float32(self.centre[0]), sine * across + cosine * down + np.float32(self.centre[1])

    def pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points (n, 2) in mm -> (n, 2) of column, row."""
        x, y = (points - self.centre).T / self.pixel_mm
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        rows, columns = self.shape
        return np.stack([cosine * x + sine * y + (columns - 1) / 2, -sine * x + cosine * y + (rows - 1) / 2], axis=1)

    def field_of_view(self) -> Floats:
        """How much of each pixel lies inside the round mask, 0..1."""
        rows, columns = self.shape
        far = np.hypot((np.arange(rows) - (rows - 1) / 2)[:, None], (np.arange(columns) - (columns - 1) / 2)[None])
        softness = max(1.0, 0.004 * self.radius_px)
        out: Floats = np.clip(0.5 + (self.radius_px - far) / softness, 0, 1).astype(np.float32)
        return out


def paint_vessels(branches: tuple[npt.NDArray[np.float64], ...], view: View, reflex: float) -> tuple[Bools, Floats]:
    """A tree's mask, bool (H, W), and how deep its blood is, float32 (H, W) 0..1 with the wall's light reflex taken off."""
    rows, columns = view.shape
    places = (np.concatenate([view.pixels(branch[:, :2]), branch[:, 2:] / view.pixel_mm], axis=1) for branch in branches)
    points = np.concatenate([along(place, 0.4) for place in places])
    keep = (np.abs(points[:, 0] - columns / 2) < columns / 2 + 8) & (np.abs(points[:, 1] - rows / 2) < rows / 2 + 8)
    points = points[keep]
    outside = np.full(rows * columns, np.inf, dtype=np.float32)
    depth = np.zeros(rows * columns, dtype=np.float32)
    reach = np.ceil(points[:, 2] + 1).astype(int)
    for size in np.unique(reach):
        x, y, radius = (points[reach == size].T[:, :, None]).astype(np.float32)
        step = np.arange(-size, size + 1)
        dy, dx = (grid.ravel()[None] for grid in np.meshgrid(step, step, indexing="ij"))
        column, row = np.rint(x).astype(int) + dx, np.rint(y).astype(int) + dy
        distance = np.hypot(column - x, row - y).astype(np.float32)
        # Blood column: the chord through a round tube; narrower than a pixel, the fraction of the pixel that it covers.
        chord = np.sqrt(np.clip(1 - (distance / (radius + 0.35)) ** 2, 0, 1))
        amount = chord * np.clip(radius + 0.5 - distance, 0, 1) * np.minimum(1.0, 0.30 + radius / 2.4)
        if size > 2:
            amount *= 1 - reflex * np.exp(-((distance / (0.3 * radius)) ** 2)) * np.clip((radius - 0.9) / 0.9, 0, 1)
        valid = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        where = (row * columns + column)[valid]
        # A twig too thin to cover any pixel's centre still is one unbroken line of pixels.
        np.minimum.at(outside, where, (distance - np.maximum(radius, 0.58))[valid])
        np.maximum.at(depth, where, amount[valid])
    return (outside < 0).reshape(rows, columns), depth.reshape(rows, columns)

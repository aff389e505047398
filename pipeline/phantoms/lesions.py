"""Microaneurysms, haemorrhages and hard exudates of one phantom eye: where they lie, how they grow, which pixels they hold.

Millimetres in the frame of :mod:`pipeline.phantoms.vessels`. A lesion keeps its number through all visits, so that the same
number in two instance images is the same lesion. Sizes follow the ETDRS grading (doi:10.1016/S0161-6420(13)38012-9): a
microaneurysm is a red dot up to 125 um across with sharp borders; larger or irregular red is haemorrhage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.phantoms.vessels import Anatomy, Seed, stream

LesionKind = Literal["microaneurysm", "haemorrhage", "exudate"]
LESIONS: tuple[LesionKind, ...] = get_args(LesionKind)


@dataclass(frozen=True)
class Lesion:
    """One lesion at its onset. ``wobble`` (harmonics, 2): amplitude and phase of the outline, from order 2 on."""

    number: int
    kind: LesionKind
    x: float
    y: float
    radius: float
    stretch: float
    angle: float
    wobble: npt.NDArray[np.float64]
    onset: int
    growth: float
    strength: float

    def radius_at(self, visit: int) -> float:
        """Mean radius in mm at a visit; 0 before the lesion exists."""
        return self.radius * (1 + self.growth * (visit - self.onset)) if visit >= self.onset else 0.0


def grow_lesions(seed: Seed, anatomy: Anatomy, severity: float) -> tuple[Lesion, ...]:
    """All lesions that an eye will ever have. ``severity`` 0 is a healthy eye, 1 many lesions of every kind."""
    if severity <= 0:
        return ()
    rng = stream(seed, 2)
    sites = _Sites(rng, anatomy)
    out: list[Lesion] = []

    def add(kind: LesionKind, place: tuple[float, float] | None, radius: float, stretch: float, angle: float, rough: float) -> None:
        if place is None:
            return
        wobble = np.stack([rng.normal(0, rough, 5) / np.sqrt(np.arange(1, 6)), rng.uniform(0, 2 * np.pi, 5)], axis=1)
        onset = int(rng.choice(4, p=[0.6, 0.2, 0.12, 0.08]))
        growth, strength = rng.uniform(0.06, 0.28), rng.uniform(0.7, 1.25)
        out.append(Lesion(len(out) + 1, kind, *place, radius, stretch, angle, wobble, onset, growth, strength))

    for _ in range(1 + rng.poisson(6 + 26 * severity)):
        add("microaneurysm", sites.scattered(0.15, 0.7), rng.uniform(0.024, 0.045), rng.uniform(1, 1.15), 0.0, 0.03)
    for _ in range(rng.poisson(1 + 13 * severity)):
        if rng.random() < 0.3:  # flame: in the nerve fibre layer, drawn out along its fibres
            place = sites.scattered(0.3, 1.6)
            along = 0.0 if place is None else math.atan2(place[1] - anatomy.disc[1], place[0] - anatomy.disc[0])
            add("haemorrhage", place, rng.uniform(0.09, 0.16), rng.uniform(1.8, 3.0), along + rng.normal(0, 0.25), 0.13)
        else:
            radius = float(np.clip(rng.lognormal(-2.35, 0.4), 0.06, 0.26))
            add("haemorrhage", sites.scattered(0.2 + radius, 0.9), radius, rng.uniform(1, 1.5), rng.uniform(0, math.pi), 0.09)
    for _ in range(rng.poisson(0.4 + 2.6 * severity)):
        centre, ring = sites.scattered(0.3, 0.8, near_macula=True), rng.uniform(0.25, 0.7)
        if centre is None:
            continue
        arc, start = rng.uniform(2.0, 6.3), rng.uniform(0, 2 * math.pi)
        for _ in range(rng.integers(4, 16)):
            turn, far = start + arc * rng.random(), ring * rng.normal(1, 0.22)
            spot = (centre[0] + far * math.cos(turn), centre[1] + far * math.sin(turn))
            radius = float(np.clip(rng.lognormal(-3.1, 0.5), 0.025, 0.14))
            add("exudate", sites.given(spot, radius + 0.03), radius, rng.uniform(1, 1.6), turn + math.pi / 2, 0.14)
    return tuple(out)


class _Sites:
    """Free places: off the disc, off the foveal centre, away from each other and (where wanted) from vessels."""

    def __init__(self, rng: np.random.Generator, anatomy: Anatomy) -> None:
        self.rng, self.anatomy = rng, anatomy
        self.vessels = np.concatenate([branch[::2, :2] for branch in (*anatomy.arteries, *anatomy.veins)])
        self.taken: list[tuple[float, float, float]] = []

    def scattered(self, clear: float, core: float, *, near_macula: bool = False) -> tuple[float, float] | None:
        """A place at least ``clear`` mm from vessels' centre lines / 3 and from other lesions, ``core`` mm from the fovea."""
        for _ in range(30):
            far = core + self.rng.gamma(2.0, 0.6 if near_macula else 1.25)
            turn = self.rng.uniform(0, 2 * math.pi)
            spot = (0.4 + far * math.cos(turn), far * 0.9 * math.sin(turn))
            if math.hypot(*spot) < core:
                continue
            nearest = float(np.min(np.hypot(*(self.vessels - spot).T)))
            if nearest > 0.09 + clear / 6 and self.given(spot, clear * 0.6):
                return spot
        return None

    def given(self, spot: tuple[float, float], clear: float) -> tuple[float, float] | None:
        """The place itself, if nothing stands there yet."""
        (disc_x, disc_y), radius = self.anatomy.disc, max(self.anatomy.disc_axes)
        if math.hypot(spot[0] - disc_x, spot[1] - disc_y) < 1.2 * radius + clear or math.hypot(*spot) < 0.25 or math.hypot(*spot) > 7.5:
            return None
        if any(math.hypot(spot[0] - x, spot[1] - y) < clear + other for x, y, other in self.taken):
            return None
        self.taken.append((*spot, clear))
        return spot


def paint_lesions(
    lesions: tuple[Lesion, ...],
    visit: int,
    x_mm: npt.NDArray[np.float32],
    y_mm: npt.NDArray[np.float32],
    pixel_mm: float,
    inside: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int32], dict[LesionKind, npt.NDArray[np.float32]]]:
    """Which pixels each lesion holds.

    Parameters
    ----------
    x_mm, y_mm: float32 (H, W), position of each pixel centre on the retina.
    pixel_mm: side of a pixel.
    inside: bool (H, W); pixels outside (beyond the field of view) belong to no lesion.

    Returns
    -------
    numbers: int32 (H, W), the number of the lesion, 0 for none. Lesions never share a pixel: who came first keeps it.
    amounts: for each kind float32 (H, W), how strongly the lesion colours the pixel, with a soft edge.
    """
    numbers = np.zeros(x_mm.shape, dtype=np.int32)
    amounts: dict[LesionKind, npt.NDArray[np.float32]] = {kind: np.zeros(x_mm.shape, dtype=np.float32) for kind in LESIONS}
    rows, columns = x_mm.shape
    # The retina lies in the picture turned and shifted, never bent: two differences say where a point falls.
    across = np.array([x_mm[0, 1] - x_mm[0, 0], y_mm[0, 1] - y_mm[0, 0]]) / pixel_mm**2
    down = np.array([x_mm[1, 0] - x_mm[0, 0], y_mm[1, 0] - y_mm[0, 0]]) / pixel_mm**2
    for lesion in lesions:
        mean = lesion.radius_at(visit)
        if mean == 0:
            continue
        offset = np.array([lesion.x - x_mm[0, 0], lesion.y - y_mm[0, 0]])
        column, row = float(offset @ across), float(offset @ down)
        reach = int(mean * lesion.stretch * 1.8 / pixel_mm) + 3
        top, left = max(round(row) - reach, 0), max(round(column) - reach, 0)
        bottom, right = min(round(row) + reach + 1, rows), min(round(column) + reach + 1, columns)
        if top >= bottom or left >= right:
            continue
        patch = np.s_[top:bottom, left:right]
        dx, dy = x_mm[patch] - lesion.x, y_mm[patch] - lesion.y
        along = (dx * math.cos(lesion.angle) + dy * math.sin(lesion.angle)) / math.sqrt(lesion.stretch)
        aside = (dy * math.cos(lesion.angle) - dx * math.sin(lesion.angle)) * math.sqrt(lesion.stretch)
        distance, direction = np.hypot(along, aside), np.arctan2(aside, along)
        edge = np.full_like(distance, mean)
        for order, (amplitude, phase) in enumerate(lesion.wobble, start=2):
            edge *= 1 + amplitude * np.cos(order * direction + phase)
        beyond = (distance - edge) / pixel_mm
        held = beyond < 0
        if not held.any():
            held = beyond == beyond.min()  # smaller than a pixel: the nearest one
        held &= inside[patch] & (numbers[patch] == 0)
        numbers[patch][held] = lesion.number
        soft = 1.0 + (0.35 * mean / pixel_mm if lesion.kind == "haemorrhage" else 0.0)  # blood seeps, lipid does not
        amount = lesion.strength * np.clip(0.5 - beyond / soft, 0, 1) * min(1.0, 2 * mean / pixel_mm / 1.5)
        target = amounts[lesion.kind][patch]
        np.maximum(target, amount.astype(np.float32), out=target)
    return numbers, amounts

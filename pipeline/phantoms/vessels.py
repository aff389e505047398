"""Retinal vessels that never existed: two trees, arteries and veins, grown from the optic disc.

Coordinates are millimetres on the retina of a RIGHT eye as a photograph shows it: origin at the fovea, x grows towards the nose
(where the disc lies), y grows downwards (inferior). Left eyes are the mirror image, made by whoever draws.

Growth: a trunk of every arcade follows the field of parabolas whose vertex is the disc (temporal) or leaves it radially (nasal); side
branches turn into the macula or to the periphery. Radii obey Murray's law r0^3 = r1^3 + r2^3 and branching angles the least-work
rule that goes with it (C. D. Murray, J Gen Physiol 1926;9:835-841, doi:10.1085/jgp.9.6.835). Vessels of one kind never cross each
other; arteries cross veins. Nothing enters the foveal avascular zone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Seed = int | Sequence[int]
Role = Literal["temporal", "nasal", "macular", "outer"]

STEP_MM = 0.08
REACH_MM = 10.5  # beyond every field of view that a phantom is drawn with
_CELL_MM = 0.1
_THINNEST_MM = 0.0085


def stream(seed: Seed, *key: int) -> np.random.Generator:
    """An independent random stream for one purpose: same seed and key, same numbers, whatever else was drawn."""
    entropy = (seed,) if isinstance(seed, int) else tuple(seed)
    return np.random.default_rng(np.random.SeedSequence((len(entropy), *entropy, *key)))


@dataclass(frozen=True)
class Anatomy:
    """What one eye looks like inside, the same at every visit. Millimetres, see the module's frame.

    ``arteries`` and ``veins``: branches, each float64 (n, 3) of x, y, radius. ``disc_axes`` and ``cup_axes`` are half axes
    (horizontal, vertical); ``disc_wobble`` / ``cup_wobble`` (harmonics, 2) amplitude and phase of the outline from order 2 on.
    """

    disc: tuple[float, float]
    disc_axes: tuple[float, float]
    disc_wobble: npt.NDArray[np.float64]
    cup: tuple[float, float]
    cup_axes: tuple[float, float]
    cup_wobble: npt.NDArray[np.float64]
    fovea_radius: float
    arteries: tuple[npt.NDArray[np.float64], ...]
    veins: tuple[npt.NDArray[np.float64], ...]


def grow_anatomy(seed: Seed) -> Anatomy:
    """The anatomy of one eye. The disc lies 2.35 to 2.75 disc diameters nasal of the fovea and slightly superior."""
    return _grow_anatomy((seed,) if isinstance(seed, int) else tuple(seed))


@lru_cache(maxsize=8)  # a photograph and a volume of the same eye, visit after visit, ask for the same anatomy
def _grow_anatomy(seed: tuple[int, ...]) -> Anatomy:
    rng = stream(seed, 1)
    vertical = rng.normal(0.90, 0.05)
    axes = (vertical * rng.uniform(0.88, 0.97), vertical)
    distance, angle = vertical * 2 * rng.uniform(2.35, 2.75), math.radians(rng.normal(6.5, 1.5))
    disc = (distance * math.cos(angle), -distance * math.sin(angle))
    ratio = float(np.clip(rng.normal(0.46, 0.14), 0.2, 0.78))
    cup_axes = (axes[0] * ratio * rng.uniform(0.92, 1.04), axes[1] * ratio)
    room = 0.35 * (1 - ratio)
    cup = (disc[0] - axes[0] * room * rng.uniform(-0.1, 0.5), disc[1] + axes[1] * room * rng.uniform(-0.3, 0.3))
    arteries, veins = _Grower(rng, disc, axes[1]).grow()
    return Anatomy(
        disc, axes, _wobble(rng, 0.018), cup, cup_axes, _wobble(rng, 0.03), float(rng.uniform(0.42, 0.55)), tuple(arteries), tuple(veins)
    )


def along(path: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
    """A path (n, 2 or more columns; the first two are its place) at equal steps of its length, by linear interpolation."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T))])
    at = np.arange(0, length[-1], step)
    return np.stack([np.interp(at, length, column) for column in path.T], axis=1)


def _wobble(rng: np.random.Generator, amplitude: float) -> npt.NDArray[np.float64]:
    orders = np.arange(2, 6)
    return np.stack([rng.normal(0, amplitude, len(orders)) / (orders - 1), rng.uniform(0, 2 * np.pi, len(orders))], axis=1)


@dataclass(frozen=True)
class _Sprout:
    """A branch still to be grown."""

    x: float
    y: float
    heading: float
    radius: float
    role: Role
    up: float  # -1 above the disc-fovea line, +1 below
    vein: bool
    depth: int = 0
    course: float = 0.0  # temporal trunk: height (mm) above or below the fovea; nasal trunk: angle (rad) off the horizontal


class _Grower:
    """Grows both trees, widest vessels first, so that trunks take their course before twigs fill what is left."""

    def __init__(self, rng: np.random.Generator, disc: tuple[float, float], disc_radius: float) -> None:
        self.rng = rng
        self.disc = disc
        self.disc_radius = disc_radius
        side = int(2 * (REACH_MM + 2) / _CELL_MM)
        self.taken = np.zeros((2, side, side), dtype=bool)  # cells that an artery, a vein runs through
        self.half = side // 2
        self.queue: list[tuple[float, int, _Sprout]] = []
        self.branches: list[tuple[bool, npt.NDArray[np.float64]]] = []
        self.counter = 0

    def grow(self) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
        for sprout in self._trunks():
            self._push(sprout)
        while self.queue and len(self.branches) < 600:
            self._follow(heapq.heappop(self.queue)[2])
        return [p for vein, p in self.branches if not vein], [p for vein, p in self.branches if vein]

    def _push(self, sprout: _Sprout) -> None:
        self.counter += 1
        heapq.heappush(self.queue, (-sprout.radius, self.counter, sprout))

    def _trunks(self) -> list[_Sprout]:
        """Four quadrants, an artery and a vein in each, and small twigs straight towards the macula."""
        rng, (disc_x, disc_y), size = self.rng, self.disc, self.disc_radius
        out = []
        hilum = (disc_x + size * rng.uniform(0.05, 0.2), disc_y + size * rng.uniform(-0.05, 0.05))
        veins_outside = [rng.random() < 0.6 for _ in range(4)]
        arcs = {up: rng.uniform(2.1, 2.9) for up in (-1.0, 1.0)}
        rays = {up: rng.uniform(0.75, 1.05) for up in (-1.0, 1.0)}
        for vein in (False, True):
            width = rng.uniform(0.063, 0.074) if vein else rng.uniform(0.048, 0.056)
            for quadrant, (up, temporal) in enumerate(((-1.0, True), (1.0, True), (-1.0, False), (1.0, False))):
                outward = 1.0 if vein == veins_outside[quadrant] else -1.0
                if temporal:
                    course = arcs[up] + outward * rng.uniform(0.12, 0.35)
                    lean = rng.uniform(0.05, 0.3)
                else:
                    course = rays[up] + outward * rng.uniform(0.08, 0.22)
                    lean = rng.uniform(-0.9, -0.5)
                x, y = hilum[0] + rng.normal(0, 0.05), hilum[1] + up * size * rng.uniform(0.08, 0.2)
                heading = math.atan2(disc_y + up * size - y, disc_x - lean * size - x)
                role: Role = "temporal" if temporal else "nasal"
                out.append(_Sprout(x, y, heading, width * (1.0 if temporal else 0.8), role, up, vein, course=course))
            for up in (-1.0, 1.0):
                if rng.random() < 0.75:
                    heading = math.pi + up * -rng.uniform(0.25, 0.6)
                    start = (disc_x - 0.45 * size, disc_y + up * size * rng.uniform(0.15, 0.5))
                    out.append(_Sprout(*start, heading, rng.uniform(0.016, 0.024), "macular", up, vein))
        return out

    def _wanted(self, sprout: _Sprout, x: float, y: float) -> float:
        """The direction (rad) that a vessel of this role likes to take at a point."""
        dx, dy = x - self.disc[0], y - self.disc[1]
        if sprout.role == "temporal":
            # Along the parabola with its vertex in the disc that passes the fovea at `course` mm, and back to it when astray.
            bow = self.disc[0] / sprout.course**2
            steep = math.hypot(1.0, 2 * bow * dy)
            astray = max(-1.0, min(1.0, (dx + bow * dy * dy) / steep / 0.9))
            bend = 0.05 * max(0.0, -1.0 - x) * sprout.up  # beyond the macula the arcades bend to the raphe
            along_x, along_y = -2 * bow * abs(dy) / steep, sprout.up / steep - bend
            return math.atan2(along_y - astray * 2 * bow * dy / steep, along_x - astray / steep)
        if sprout.role == "nasal":
            ahead = math.hypot(dx, dy) + 1.5
            return math.atan2(sprout.up * ahead * math.sin(sprout.course) - dy, ahead * math.cos(sprout.course) - dx)
        distance = math.hypot(x, y) + 1e-6
        if sprout.role == "macular":
            drift = -0.5 if x > -0.5 else 0.1
            return math.atan2(-y / distance, -x / distance + drift)
        from_disc = math.hypot(dx, dy) + 1e-6
        away = 0.5 if x < self.disc[0] else 0.0
        return math.atan2(away * y / distance + 0.6 * dy / from_disc + 0.25 * sprout.up, away * x / distance + 0.75 * dx / from_disc)

    def _free(self, vein: bool, x: float, y: float, reach: int) -> bool:
        """Whether no finished vessel of this kind lies within ``reach`` cells."""
        column, row = int(x / _CELL_MM + self.half), int(y / _CELL_MM + self.half)
        window = self.taken[int(vein), max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        return not window.any()

    def _way_round(self, vein: bool, x: float, y: float, heading: float) -> float | None:
        """The small turn (rad) that keeps a twig clear of its kind for the next 0.35 mm; None where there is none."""
        for bend in (0.0, 0.45, -0.45):
            if self._free(vein, x + 0.35 * math.cos(heading + bend), y + 0.35 * math.sin(heading + bend), 1):
                return 0.4 * bend
        return None

    def _follow(self, sprout: _Sprout) -> None:
        rng, vein = self.rng, sprout.vein
        x, y, heading, radius = sprout.x, sprout.y, sprout.heading, sprout.radius
        if sprout.depth and not self._free(vein, x + 0.6 * math.cos(heading), y + 0.6 * math.sin(heading), 3):
            return
        trunk = sprout.role in ("temporal", "nasal")
        taper = 0.0009 if trunk else 0.0026
        avascular = rng.uniform(0.45, 1.0)
        wiggle, sway = 0.0, (0.30 if vein else 0.24)
        until_branch, side = rng.uniform(0.5, 1.3), 1.0 if rng.random() < 0.5 else -1.0
        points, cells, shifts = [(x, y, radius)], [], rng.normal(0, sway * math.sqrt(STEP_MM), 400)
        for shift in shifts.tolist():
            wiggle += -wiggle * STEP_MM / 0.45 + shift
            heading += _turn(self._wanted(sprout, x, y) - heading) * STEP_MM * (1.5 if trunk else 0.7) + 0.35 * wiggle
            if not trunk and len(points) * STEP_MM > 0.5:
                if abs(_turn(heading - sprout.heading)) > 1.7:
                    break  # a twig that curls up
                bend = self._way_round(vein, x, y, heading)
                if bend is None:
                    break
                heading += bend
            x, y = x + STEP_MM * math.cos(heading), y + STEP_MM * math.sin(heading)
            radius -= taper * STEP_MM
            if radius < _THINNEST_MM or math.hypot(x - 1.5, y) > REACH_MM or math.hypot(x, y) < avascular:
                break
            points.append((x, y, radius))
            cells.append((int(y / _CELL_MM + self.half), int(x / _CELL_MM + self.half)))
            until_branch -= STEP_MM
            on_disc = math.hypot(x - self.disc[0], y - self.disc[1]) < 1.05 * self.disc_radius
            if until_branch <= 0 and not on_disc:
                side = -side if rng.random() < 0.8 else side
                radius, heading = self._fork(sprout, x, y, heading, radius, side)
                until_branch = rng.uniform(0.45, 1.25) * (0.55 + radius / 0.09)
        if len(points) < 5:
            return
        branch = np.array(points)
        branch.flags.writeable = False
        self.branches.append((vein, branch))
        rows, columns = np.array(cells).T
        inside = (rows >= 0) & (columns >= 0) & (rows < 2 * self.half) & (columns < 2 * self.half)
        self.taken[int(vein), rows[inside], columns[inside]] = True

    def _fork(self, sprout: _Sprout, x: float, y: float, heading: float, radius: float, side: float) -> tuple[float, float]:
        """Send off a side branch; returns radius and heading of the vessel that goes on."""
        rng = self.rng
        trunk = sprout.role in ("temporal", "nasal")
        ratio = rng.uniform(0.36, 0.72) if trunk else rng.uniform(0.5, 0.95)
        if trunk and math.hypot(x - self.disc[0], y - self.disc[1]) > 4.0 and rng.random() < 0.3:
            ratio = rng.uniform(0.75, 0.95)
        onward = radius / (1 + ratio**3) ** (1 / 3)
        child = ratio * onward
        onward_angle, child_angle = _least_work_angle(radius, onward, child), _least_work_angle(radius, child, onward)
        role: Role = sprout.role
        if sprout.role == "temporal":
            inwards = math.sin(heading + side * 0.5) * sprout.up < math.sin(heading) * sprout.up
            role = "macular" if inwards else "outer"
        elif sprout.role == "nasal":
            role = "outer"
        if child > _THINNEST_MM * 1.15:
            turned = heading + side * min(child_angle, 1.25)
            self._push(_Sprout(x, y, turned, child, role, sprout.up, sprout.vein, sprout.depth + 1))
        return onward, heading - side * min(onward_angle, 0.6)


def _least_work_angle(parent: float, child: float, other: float) -> float:
    """Angle (rad) between parent and child of the given radii that costs least work (Murray 1926)."""
    cosine = (parent**4 + child**4 - other**4) / (2 * parent**2 * child**2)
    return math.acos(min(1.0, max(-1.0, cosine)))


def _turn(angle: float) -> float:
    """An angle brought into -pi..pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi

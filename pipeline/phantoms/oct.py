"""OCT volumes of phantom maculae: B-scans with layers, a foveal pit, vessel shadows, speckle and fluid, and where everything lies.

A volume is made of surfaces, depths below the top of the scan, from which both the picture and its labels follow, so the truth is exact.
Layer thicknesses follow published normal eyes (doi:10.1371/journal.pone.0133080 for the macula's inner layers, in round
numbers), those of the nerve fibres around the disc too (Alasil et al., J Glaucoma 2013;22:532-541). Vessels are those of the same eye's
fundus photograph, so the shadows lie where the photograph shows the vessels. How the eye is scanned is phantom_oct_protocol.py's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.phantoms.oct_protocol import (
    DEPTH_MM,
    FIELD_MM,
    PLAIN,
    Grid,
    OctProtocol,
    eye_shape,
    into_view,
    lay_out,
    record,
    vitreous_haze,
)
from pipeline.phantoms.vessels import Seed, along, grow_anatomy, stream
from pipeline.types import Laterality

Floats = npt.NDArray[np.float64]

__all__ = ["DEPTH_MM", "FIELD_MM", "LAYERS", "OCT_LABELS", "OCT_SHAPE", "SURFACES", "OctPhantom", "draw_oct"]

OCT_SHAPE = (9, 192, 256)

#: Surfaces from the vitreous down; between one and the next lies the layer of the same position in LAYERS.
SURFACES = (
    "ILM", "RNFL-GCL", "GCL-IPL", "IPL-INL", "INL-OPL", "OPL-ONL", "ELM", "IS-OS", "OS outer",
    "RPE inner", "RPE outer", "BM", "choroid-sclera",
)  # fmt: skip
LAYERS = ("RNFL", "GCL", "IPL", "INL", "OPL", "ONL", "IS", "OS", "SRF", "RPE", "PED", "choroid")
#: Value in the label volume by name. Fluid: SRF under the photoreceptors, PED under the lifted RPE, IRF in cysts of INL to ONL.
OCT_LABELS = {name: number for number, name in enumerate((*LAYERS, "IRF"), start=1)}

# Reflectance (linear) of vitreous, the twelve layers and sclera.
_REFLECTANCE = (0.012, 0.62, 0.26, 0.34, 0.15, 0.30, 0.075, 0.13, 0.42, 0.02, 0.80, 0.05, 0.17, 0.13)


@dataclass(frozen=True, eq=False)
class OctPhantom:
    """One volume and its truth.

    ``volume`` uint8 (D, H, W): D B-scans from superior to inferior, H rows downwards into the eye, W columns (right eye: temporal to
    nasal). ``layers`` float32 (S, D, W): depth in pixels from the top edge of the image of each surface in ``SURFACES``, never
    crossing, some perhaps below the lower edge; a pixel row r holds depths r to r + 1. ``labels`` uint8 (D, H, W) of
    ``OCT_LABELS``, 0 vitreous and sclera.
    ``spacing_mm`` (slice, row, column).
    """

    volume: npt.NDArray[np.uint8]
    layers: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    eye: Laterality


def draw_oct(
    seed: Seed,
    eye: Laterality,
    slices: int = OCT_SHAPE[0],
    rows: int = OCT_SHAPE[1],
    columns: int = OCT_SHAPE[2],
    *,
    visit: int = 0,
    severity: float | None = None,
    protocol: OctProtocol = PLAIN,
) -> OctPhantom:
    """Scan one phantom eye: its macula, 6 x 6 mm and 1.3 mm deep whatever the number of pixels, or as ``protocol`` says.

    Parameters
    ----------
    seed, eye, visit: as for :func:`pipeline.phantoms.fundus.draw_fundus`; one seed is one eye for both. Fluid grows by visit.
    severity: 0 no fluid, 1 much; None draws it from the seed (about four eyes in ten are dry).

    Raises
    ------
    ValueError: fewer than 1 slice, 64 rows or 64 columns, or an unknown eye.
    """
    if slices < 1 or rows < 64 or columns < 64 or eye not in ("R", "L") or visit < 0:
        raise ValueError(f"cannot draw {slices} x {rows} x {columns}, eye {eye!r}, visit {visit}: at least 1 x 64 x 64, R or L")
    if severity is None:
        severity = max(0.0, float(stream(seed, 20).uniform(-0.75, 1.0)))
    grid = lay_out(protocol, grow_anatomy(seed).disc, slices, rows, columns)
    vessels = _vessel_map(seed, grid)
    depths, cysts = _surfaces(seed, visit, severity, grid, protocol, vessels)
    surfaces = depths / protocol.depth_mm * rows
    shot = stream(seed, 21, visit)
    surfaces += _motion(shot, slices) * rows / 250
    labels = _labels(surfaces, rows)
    volume, labels = _scan(shot, seed, surfaces, labels, cysts, vessels, grid, protocol)
    layers = surfaces.astype(np.float32)
    if eye == "L":
        volume, labels, layers = volume[..., ::-1].copy(), labels[..., ::-1].copy(), layers[..., ::-1].copy()
    return OctPhantom(volume, layers, labels, grid.spacing_mm, eye)


@dataclass(frozen=True)
class _Cyst:
    """One pocket of intraretinal fluid: centre x, y (mm) and half widths (mm); ``level`` is its depth, 0 at IPL-INL, 1 at ELM."""

    x: float
    y: float
    wide: float
    high: float
    level: float


def _motion(rng: np.random.Generator, slices: int) -> Floats:
    """The patient's breathing and pulse: each B-scan sits a little higher or lower, (1, D, 1) pixels at 250 rows."""
    return np.asarray(np.cumsum(rng.normal(0, 0.5, slices))[None, :, None] * 0.6 + rng.normal(0, 0.4, slices)[None, :, None])


def _bell(x: Floats, y: Floats, centre: tuple[float, float], wide: float, power: int = 2) -> Floats:
    far = np.hypot(x - centre[0], y - centre[1]) / wide
    return np.asarray(np.exp(-(far**power)))


def _surfaces(seed: Seed, visit: int, severity: float, grid: Grid, protocol: OctProtocol, vessels: Floats) -> tuple[Floats, list[_Cyst]]:
    """Depths in mm of all surfaces, (S, D, W), and the cysts."""
    rng = stream(seed, 22)
    grid_x, grid_y = grid.x, grid.y
    far = np.hypot(grid_x, grid_y)
    swell = 1 + 0.16 * visit
    # The pit: inner layers pushed aside in the fovea.
    own = stream(seed, 24)
    pit_mm = rng.uniform(0.42, 0.6) * math.exp(own.normal(0, 1.5 * protocol.thickness_spread))
    pit = 1 - np.exp(-((far / pit_mm) ** 2.2))
    crest = far / 1.05 * np.exp(1 - far / 1.05)  # 1 on the rim of the pit, falling off outwards
    nasal, arcuate = np.clip(grid_x / 3, -0.3, 1), (grid_y / 3) ** 2
    size = rng.uniform(0.92, 1.1)
    um = [
        pit * (11 + 26 * np.clip(nasal, 0, 1) ** 1.3 + 20 * arcuate),
        pit * (14 + 36 * crest),
        pit * (20 + 20 * crest) + 3,
        pit * (26 + 13 * crest) + 4,
        10 + pit * 20,
        62 + 48 * np.exp(-((far / 0.75) ** 2)),
        27 + 4 * np.exp(-((far / 0.5) ** 2)),
        24 + 13 * np.exp(-((far / 0.45) ** 2)),
        np.zeros_like(far),
        np.full_like(far, 23.0),
        np.zeros_like(far),
        rng.uniform(210, 300) * (1 - 0.18 * grid_x / 3) + 14 * np.sin(grid_x * 3.1 + rng.uniform(0, 6)) * np.cos(grid_y * 2 + 1),
    ]
    thickness = [layer * size for layer in um]
    if protocol.thickness_spread:
        thickness = [layer * math.exp(own.normal(0, protocol.thickness_spread)) for layer in thickness]
    if grid.angle is not None:
        thickness[0] = _nerve_fibres(own, grid.angle, vessels) * size

    cysts: list[_Cyst] = []
    kinds = rng.random(3) < (0.75, 0.5, 0.45)
    if severity > 0 and not kinds.any():
        kinds[0] = True
    for wanted, kind in zip(kinds, ("IRF", "SRF", "PED"), strict=True):
        place = (rng.normal(0, 0.45), rng.normal(0, 0.45))
        if severity <= 0 or not wanted:
            continue
        if kind == "SRF":
            dome = np.clip(_bell(grid_x, grid_y, place, rng.uniform(0.7, 1.5), 4) - 0.08, 0, None) / 0.92
            thickness[8] = dome * rng.uniform(60, 160) * (0.4 + 0.6 * severity) * swell
        elif kind == "PED":
            height, wide = rng.uniform(70, 190) * (0.4 + 0.6 * severity) * swell, rng.uniform(0.4, 0.8)
            place = (place[0] + rng.normal(0, 0.6), place[1] * 0.7)
            bumps = np.clip(_bell(grid_x, grid_y, place, wide) - 0.06, 0, None) / 0.94
            thickness[10] = bumps * height * (1 + 0.15 * np.sin(grid_x * 7 + 1))
        else:
            for _ in range(rng.integers(6, 8 + int(20 * severity))):
                spot_x, spot_y = rng.normal(place, 0.55)
                level = rng.uniform(0.05, 0.85)
                cyst = _Cyst(
                    spot_x,
                    spot_y,
                    rng.uniform(0.07, 0.26) * math.sqrt(swell),
                    rng.uniform(0.02, 0.06) * swell * (0.5 + 0.6 * severity),
                    level,
                )
                cysts.append(cyst)
                # Fluid swells the tissue it lies in.
                layer = 3 if level < 0.3 else 5
                thickness[layer] = thickness[layer] + 500 * cyst.high * _bell(grid_x, grid_y, (cyst.x, cyst.y), cyst.wide * 2.0)
    # Bruch's membrane: the eyeball's curve, a tilt of the head, and nothing else; all else is stacked on it.
    membrane = 0.90 + 0.012 * (far**2 / 3) * rng.uniform(-1.2, 1.0) + grid_x * rng.normal(0, 0.012) + grid_y * rng.normal(0, 0.008)
    if protocol != PLAIN:
        membrane = membrane + eye_shape(protocol, grid.across, own)
    depths = np.empty((len(SURFACES), *grid_x.shape))
    depths[11] = membrane
    for index in range(10, -1, -1):
        depths[index] = depths[index + 1] - thickness[index] / 1000
    depths[12] = membrane + thickness[11] / 1000
    if protocol == PLAIN:
        depths[12] = np.minimum(depths[12], DEPTH_MM * 0.985)
    # The whole eye is moved until the highest point of the retina stays in the picture.
    return into_view(depths, protocol, last=11), cysts


def _nerve_fibres(rng: np.random.Generator, angle: Floats, vessels: Floats) -> Floats:
    """Thickness in um (D, W) of the nerve fibres on a circle: two bundles above and below, each nearer to the temporal side, and
    somewhat more of it where a large vessel lies."""

    def bundle(middle: float) -> Floats:
        off = (angle - middle - rng.normal(0, 0.12) + np.pi) % (2 * np.pi) - np.pi
        return np.asarray(rng.uniform(50, 95) * np.exp(-((off / rng.uniform(0.45, 0.75)) ** 2)))

    waves = sum(rng.normal(0, 5) / order * np.sin(order * angle + rng.uniform(0, 6)) for order in range(3, 12))
    smooth = 71 + 12 * np.cos(2 * angle) * rng.uniform(-1, 0.5) + bundle(1.25) + bundle(2 * np.pi - 1.25) + waves
    bulge = 26 * ndimage.gaussian_filter1d(vessels, max(len(angle) / 200, 1.0), axis=1, mode="wrap")
    return np.asarray(np.maximum(smooth, 25)[None] * rng.uniform(0.7, 1.45) + bulge)


def _labels(surfaces: Floats, rows: int) -> npt.NDArray[np.uint8]:
    """Which layer holds each pixel's centre, uint8 (D, rows, W)."""
    centres = (np.arange(rows) + 0.5)[None, :, None]
    passed = np.zeros((surfaces.shape[1], rows, surfaces.shape[2]), dtype=np.uint8)
    for surface in surfaces:
        passed += centres >= surface[:, None, :]
    passed[passed == len(SURFACES)] = 0
    return passed


def _vessel_map(seed: Seed, grid: Grid) -> Floats:
    """How much vessel an A-scan meets, (D, W) 0..1: larger retinal vessels of this eye, seen from above."""
    anatomy, pixel_mm = grow_anatomy(seed), grid.spacing_mm[2]
    x, y = grid.x[0], grid.y[:, 0]
    # A third of an A-scan apart, or a vessel along a B-scan would look like a comb.
    step = min(pixel_mm / 3, 0.02)
    points = np.concatenate([along(branch, step) for branch in (*anatomy.arteries, *anatomy.veins)])
    points = points[(points[:, 2] > 0.014) & _near(points[:, 0], grid.x) & _near(points[:, 1], grid.y)]
    out = np.zeros(grid.x.shape)
    if grid.angle is not None:
        # The vessel whose wall is nearest to the A-scan, or in which it lies deepest.
        for at in points:
            inside = (at[2] + 0.5 * pixel_mm - np.hypot(grid.x - at[0], grid.y - at[1])) / pixel_mm
            np.maximum(out, np.clip(inside, 0, 1) * min(1.0, at[2] / 0.03), out=out)
        return out
    for row, depth in enumerate(y):
        # The chord through the round tube in which this B-scan meets it.
        near = points[np.abs(points[:, 1] - depth) < points[:, 2]]
        chord = np.sqrt(near[:, 2] ** 2 - (near[:, 1] - depth) ** 2)[:, None]
        profile = np.clip((chord + 0.5 * pixel_mm - np.abs(x[None] - near[:, :1])) / pixel_mm, 0, 1) * np.minimum(1.0, near[:, 2:] / 0.03)
        out[row] = profile.max(axis=0, initial=0.0)
    return out


def _near(values: Floats, grid: Floats) -> npt.NDArray[np.bool_]:
    """Which values lie within a grid's range, or 0.1 mm beside it."""
    return np.asarray((values > grid.min() - 0.1) & (values < grid.max() + 0.1))


def _scan(
    shot: np.random.Generator,
    seed: Seed,
    surfaces: Floats,
    labels: npt.NDArray[np.uint8],
    cysts: list[_Cyst],
    vessels: Floats,
    grid: Grid,
    protocol: OctProtocol,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The picture, uint8 (D, H, W), and the labels with cysts marked."""
    slices, rows, columns = labels.shape
    rng, spacing = stream(seed, 23), grid.spacing_mm
    reflectance = np.array(_REFLECTANCE)
    if protocol.contrast_spread:
        reflectance *= np.exp(stream(seed, 25).normal(0, protocol.contrast_spread, len(reflectance)))
    centres = (np.arange(rows, dtype=np.float32) + 0.5)[None, :, None]
    down = surfaces.astype(np.float32)[:, :, None, :]

    def below(index: int) -> npt.NDArray[np.float32]:
        """Fraction of each pixel that lies deeper than a surface."""
        return np.asarray(np.clip(centres - down[index] + 0.5, 0, 1))

    signal = np.full(labels.shape, reflectance[0], dtype=np.float32)
    for index in range(len(SURFACES)):
        signal += np.float32(reflectance[index + 1] - reflectance[index]) * below(index)
    pixel_um = spacing[1] * 1000
    for index, bright, wide_um in ((0, 0.22, 5.0), (6, 0.16, 5.0), (7, 0.62, 8.0), (11, 0.25, 4.0)):
        # Thin bright lines: ILM, ELM, the ellipsoid zone below IS-OS, Bruch's membrane.
        width = max(wide_um / pixel_um, 0.7)
        signal += np.float32(bright) * np.exp(-(((centres - down[index] - 0.5 * width) / width) ** 2))

    # Choroid: stroma and dark vessels, dimming with depth below the RPE.
    grain = ndimage.gaussian_filter(rng.standard_normal((slices, rows, columns)).astype(np.float32), (0.4, rows / 60, columns / 70))
    grain /= grain.std()
    deep = below(11)
    depth_um = np.clip(centres - down[11], 0, None) * pixel_um
    lumen = 1 / (1 + np.exp(-3.0 * (grain - 0.25))) * np.clip(depth_um / 60, 0, 1) * (1 - below(12))
    signal *= 1 - 0.72 * lumen * deep
    signal *= np.where(deep > 0, np.exp(-depth_um / 230), 1).astype(np.float32)
    # Outer nuclear layer near the pit: Henle's fibres darken or light up with the beam's angle.
    texture = ndimage.gaussian_filter(rng.standard_normal((slices, rows, columns)).astype(np.float32), (0, 0.8, columns / 60))
    signal *= np.exp(0.16 * texture / texture.std())

    for cyst in cysts:
        hit = _cyst_mask(cyst, surfaces, grid, rows)
        hit &= (labels >= OCT_LABELS["INL"]) & (labels <= OCT_LABELS["ONL"])
        labels[hit] = OCT_LABELS["IRF"]
    soft = ndimage.gaussian_filter((labels == OCT_LABELS["IRF"]).astype(np.float32), (0, 0.5, 0.5))
    signal = signal * (1 - soft) + np.float32(0.018) * soft

    # A vessel: bright wall and blood within the nerve fibre layer, and its shadow on everything deeper.
    wall = 0.5 * (below(0) - below(2)) * vessels[:, None, :].astype(np.float32)
    signal = signal + np.asarray(0.3 * wall, dtype=np.float32)
    shade = 0.78 * ndimage.gaussian_filter1d(vessels, 0.6, axis=1)[:, None, :].astype(np.float32) * (0.3 * below(1) + 0.7 * below(2))
    signal *= 1 - shade
    # Some A-scans get less light: lashes, floaters, the pupil's edge.
    column_light = np.exp(0.10 * ndimage.gaussian_filter1d(shot.standard_normal((slices, columns)), 1.2, axis=1) * 2)
    column_light = column_light * (1 - 0.25 * grid.across**2 * shot.uniform(0, 1)) * shot.uniform(0.85, 1.15)
    signal *= column_light[:, None, :].astype(np.float32)
    if protocol.haze:
        signal += vitreous_haze(protocol, shot, np.clip(down[0] - centres, 0, None) * np.float32(pixel_um))
    return record(shot, signal, protocol), labels


def _cyst_mask(cyst: _Cyst, surfaces: Floats, grid: Grid, rows: int) -> npt.NDArray[Any]:
    """Pixels inside an ellipsoid that hangs between IPL-INL and ELM, bool (D, H, W); of rasters, for circles pass by the macula."""
    x, y = grid.x[0], grid.y[:, 0]
    if grid.angle is not None:
        return np.zeros((len(y), rows, len(x)), dtype=bool)
    across = ((x - cyst.x) / cyst.wide)[None] ** 2 + ((y - cyst.y) / (cyst.wide * 2.0))[:, None] ** 2
    column = int(np.clip(np.searchsorted(x, cyst.x), 0, len(x) - 1))
    middle = surfaces[3, :, column] * (1 - cyst.level) + surfaces[6, :, column] * cyst.level
    away = ((np.arange(rows) + 0.5)[None] - middle[:, None]) * grid.spacing_mm[1] / cyst.high
    return np.asarray(across[:, None, :] + away[:, :, None] ** 2 < 1)

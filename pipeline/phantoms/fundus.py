"""Fundus photographs that were never taken, with the exact truth about every pixel.

The picture is composed as light would: a pigmented, mottled retina under uneven illumination, the disc laid in, blood taking light
away (Beer-Lambert, strongest in green), then the camera's blur, grain and round mask. All masks come from the same analytic
shapes that were painted, so they are exact, not segmented.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.phantoms.lesions import LESIONS, grow_lesions, paint_lesions
from pipeline.phantoms.vessels import Anatomy, Seed, grow_anatomy, stream
from pipeline.phantoms.view import FIELD_RADIUS_MM, Bools, Floats, View, paint_vessels
from pipeline.types import Laterality

FUNDUS_SHAPE = (512, 560)
_TEXTURE_MM, _TEXTURE_SIDE = 20.0, 320

# Retina as cameras and eyes show it (red, green, blue of the mid-periphery): fair, orange, tessellated brown, dusky.
_RETINAS = np.array([(212, 84, 48), (190, 88, 24), (150, 58, 18), (146, 66, 46)], dtype=np.float64)
# Absorption relative to green: blood that has given off its oxygen also takes red light.
_OXYGENATED = np.array([0.24, 1.0, 0.62], dtype=np.float32)
_DEOXYGENATED = np.array([0.36, 1.0, 0.60], dtype=np.float32)
_PIGMENT = np.array([0.55, 1.0, 1.0], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class FundusPhantom:
    """One photograph and its truth, all in one frame.

    ``image`` uint8 (H, W, 3) RGB · ``field_of_view`` bool (H, W) · ``masks`` bool (H, W) by name: artery, vein, vessel (either), disc, cup
    (inside the disc), fovea, microaneurysm, haemorrhage, exudate; nothing reaches beyond the field of view · ``instances`` int32
    (H, W) by lesion name: 0 or the lesion's number, unique over all lesions of the eye and the same at every visit (so numbers
    may have gaps) · ``spacing_mm`` (rows, columns).
    """

    image: npt.NDArray[np.uint8]
    field_of_view: Bools
    masks: dict[str, Bools]
    instances: dict[str, npt.NDArray[np.int32]]
    spacing_mm: tuple[float, float]
    eye: Laterality


def draw_fundus(
    seed: Seed, eye: Laterality, shape: tuple[int, int] = FUNDUS_SHAPE, *, visit: int = 0, severity: float | None = None
) -> FundusPhantom:
    """Photograph one phantom eye.

    Parameters
    ----------
    seed: whole number or several; names the eye. Equal seeds give equal bytes, and the left eye is exactly the mirror of the right.
    eye: "R" shows the disc on the right side of the image, "L" on the left.
    shape: (rows, columns), at least 64 each.
    visit: 0, 1, 2, ...: same anatomy, lesions appear and grow, the camera is aimed, lit and focused anew.
    severity: 0 healthy to 1 many lesions; None draws it from the seed (about two eyes in five are healthy).

    Raises
    ------
    ValueError: a shape, eye or visit that cannot be drawn.
    """
    if min(shape) < 64 or eye not in ("R", "L") or visit < 0:
        raise ValueError(f"cannot draw shape {shape}, eye {eye!r}, visit {visit}: at least 64 x 64, R or L, visit 0 or later")
    anatomy = grow_anatomy(seed)
    if severity is None:
        drawn = stream(seed, 3).uniform(-0.65, 1.0)
        severity = max(0.0, float(drawn))
    view = View.aim(seed, visit, shape)
    x_mm, y_mm = view.positions()
    field = view.field_of_view()
    inside = field >= 0.5

    lesions = grow_lesions(seed, anatomy, severity)
    numbers, amounts = paint_lesions(lesions, visit, x_mm, y_mm, view.pixel_mm, inside)
    artery, artery_depth = paint_vessels(anatomy.arteries, view, reflex=0.62)
    vein, vein_depth = paint_vessels(anatomy.veins, view, reflex=0.22)
    disc_far = _outline(x_mm, y_mm, anatomy.disc, anatomy.disc_axes, anatomy.disc_wobble)
    cup_far = _outline(x_mm, y_mm, anatomy.cup, anatomy.cup_axes, anatomy.cup_wobble)

    light = _retina(seed, visit, anatomy, view, x_mm, y_mm)
    light = _lay_disc(light, seed, anatomy, x_mm, disc_far, cup_far)
    # Lipid: waxy yellow-white, as bright as the lamp at that place allows.
    cream = np.array([1.18, 1.10, 0.62], dtype=np.float32)[:, None, None] * np.minimum(light[:1], 200)
    spot = 0.8 * np.minimum(amounts["exudate"], 1.0)[None]
    light = np.asarray(light * (1 - spot) + spot * np.minimum(cream + 20, 250), dtype=np.float32)
    bright, dusky = 0.48 * artery_depth + 0.55 * amounts["microaneurysm"], 0.74 * vein_depth + 0.62 * amounts["haemorrhage"]
    light *= np.exp(-_OXYGENATED[:, None, None] * bright - _DEOXYGENATED[:, None, None] * dusky)
    image = _expose(light, field, seed, visit, view)

    masks: dict[str, Bools] = {"artery": artery, "vein": vein, "vessel": artery | vein, "disc": disc_far < 1}
    masks |= {"cup": (cup_far < 1) & (disc_far < 1), "fovea": np.hypot(x_mm, y_mm) < anatomy.fovea_radius}
    masks = {name: mask & inside for name, mask in masks.items()}
    instances = {}
    for kind in LESIONS:
        wanted = np.array([lesion.number for lesion in lesions if lesion.kind == kind], dtype=np.int32)
        instances[str(kind)] = np.where(np.isin(numbers, wanted), numbers, 0).astype(np.int32)
        masks[str(kind)] = instances[str(kind)] > 0
    if eye == "L":
        image, inside = _mirror(image), _mirror(inside)
        masks = {name: _mirror(mask) for name, mask in masks.items()}
        instances = {name: _mirror(ids) for name, ids in instances.items()}
    return FundusPhantom(image, inside, masks, instances, (view.pixel_mm, view.pixel_mm), eye)


def _mirror(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array[:, ::-1])


def _outline(x_mm: Floats, y_mm: Floats, centre: tuple[float, float], axes: tuple[float, float], wobble: npt.NDArray[np.float64]) -> Floats:
    """Distance from the centre over the outline's distance in that direction, float32 (H, W): below 1 inside."""
    across, down = (x_mm - centre[0]) / axes[0], (y_mm - centre[1]) / axes[1]
    direction = np.arctan2(down, across)
    edge = np.ones_like(across)
    for order, (amplitude, phase) in enumerate(wobble, start=2):
        edge += np.float32(amplitude) * np.cos(order * direction + np.float32(phase))
    out: Floats = np.hypot(across, down) / edge
    return out


def _noise(rng: np.random.Generator, side: int, sigma: float | tuple[float, float]) -> npt.NDArray[np.float64]:
    """Smooth noise (side, side) of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma, mode="wrap", truncate=3)
    return np.asarray((field - field.mean()) / field.std())


def _retina(seed: Seed, visit: int, anatomy: Anatomy, view: View, x_mm: Floats, y_mm: Floats) -> Floats:
    """Retina without vessels or disc, float32 (3, H, W) of 0..255."""
    eye, shot = stream(seed, 6), stream(seed, 7, visit)
    weights = eye.dirichlet(np.full(len(_RETINAS), 0.5))
    colour = weights @ _RETINAS * eye.uniform(0.9, 1.1, 3) * shot.uniform(0.9, 1.08)

    side, cell = _TEXTURE_SIDE, _TEXTURE_MM / _TEXTURE_SIDE
    cloud = 0.6 * _noise(eye, side, 1.4 / cell) + 0.4 * _noise(eye, side, 0.4 / cell)
    # Choroidal vessels show as light bands between dark islands, more so in thinly pigmented (tessellated) eyes.
    bands = _noise(eye, side, (0.42 / cell, 0.2 / cell))
    patchy = np.clip(0.5 + 0.6 * _noise(eye, side, 2.0 / cell), 0, 1)
    tessellation = -2 * np.exp(-((bands / 0.55) ** 2)) * patchy * eye.beta(1.1, 2.0)
    grain = _noise(eye, side, 0.9)
    fibres = _noise(eye, side, (0.7, 14))
    texture = np.stack([cloud, tessellation - tessellation.mean(), grain]).astype(np.float32)
    where = np.stack([(y_mm + _TEXTURE_MM / 2) / cell, (x_mm - 1 + _TEXTURE_MM / 2) / cell])
    cloud, tessellation, grain = (ndimage.map_coordinates(layer, where, order=1, mode="grid-wrap") for layer in texture)

    fovea = np.hypot(x_mm, y_mm * 1.05)
    dx, dy = x_mm - np.float32(anatomy.disc[0]), y_mm - np.float32(anatomy.disc[1])
    from_disc = np.hypot(dx, dy)
    # Nerve fibres: fine light streaks that leave the disc and fade within a few millimetres.
    turn = np.arctan2(dy, dx)
    streaks = ndimage.map_coordinates(
        fibres.astype(np.float32), np.stack([turn * side / (2 * np.pi), from_disc / cell]), order=1, mode="grid-wrap"
    )
    streaks = streaks * np.exp(-((from_disc - 1.6) ** 2) / 3.0) * np.abs(np.sin(turn))

    rows, columns = view.shape
    rim = np.hypot((np.arange(rows) - (rows - 1) / 2)[:, None], (np.arange(columns) - (columns - 1) / 2)[None]) / view.radius_px
    rim = rim.astype(np.float32)
    lamp = shot.uniform(0, 2 * math.pi)
    tilt = ((x_mm - view.centre[0]) * math.cos(lamp) + (y_mm - view.centre[1]) * math.sin(lamp)) / FIELD_RADIUS_MM
    shade = -shot.uniform(0.15, 0.5) * rim**2 - 0.12 * rim**6 + shot.uniform(0.0, 0.16) * tilt
    shade = shade + 0.10 * np.exp(-((from_disc / 2.2) ** 2))
    depth, width = eye.uniform(0.25, 0.5), eye.uniform(0.7, 1.0)
    macula = depth * np.exp(-((fovea / width) ** 2)) + 0.16 * np.exp(-((fovea / 2.0) ** 2)) + 0.16 * np.exp(-((fovea / 0.3) ** 2))

    mottle = 0.055 * cloud * eye.uniform(0.6, 1.6) - 0.10 * tessellation * np.clip(fovea / 3.5, 0.15, 1) + 0.014 * grain + 0.022 * streaks
    log = shade[None] + _PIGMENT[:, None, None] * (mottle - macula)[None]
    # Old lenses and small pupils veil the picture, mostly towards its rim.
    veil = max(0.0, shot.normal(0.0, 9.0)) * rim**3
    out: Floats = (colour.astype(np.float32)[:, None, None] * np.exp(log) + veil[None]).astype(np.float32)
    return out


def _lay_disc(light: Floats, seed: Seed, anatomy: Anatomy, x_mm: Floats, disc_far: Floats, cup_far: Floats) -> Floats:
    """The optic disc over the retina: rim, brighter cup, paler temporal side, sometimes a crescent of bare choroid beside it."""
    rng = stream(seed, 8)
    base = np.median(light[:, (disc_far > 1.1) & (disc_far < 1.8)], axis=1) if bool((disc_far < 1.8).any()) else light.mean(axis=(1, 2))
    rim = np.minimum(base * rng.uniform((1.18, 1.5, 1.4), (1.34, 1.85, 1.9)) + (10, 8, 8), (250, 178, 120))
    cup = np.minimum(rim * rng.uniform((1.05, 1.25, 1.2), (1.14, 1.5, 1.7)), (254, 242, 205))
    crescent = rng.uniform(0.0, 0.55) if rng.random() < 0.4 else 0.0
    temporal = np.clip((anatomy.disc[0] - x_mm) / anatomy.disc_axes[0], -1, 1)
    halo = 0.18 * np.exp(-((np.clip(disc_far - 1, 0, None) / 0.35) ** 2)) + crescent * np.clip(temporal, 0, 1) * _soft(
        1.16 - disc_far, 0.05
    )
    out = light * (1 + np.array([0.25, 0.75, 0.7], dtype=np.float32)[:, None, None] * halo[None])
    cover = _soft(1 - disc_far, 0.045)[None]
    bowl = _soft(1 - cup_far, 0.10)[None]
    # The rim is pinkest and darkest where its nerve fibres are thickest: nasally and towards the edge.
    pink = np.array([0.03, 0.13, 0.13], dtype=np.float32)[:, None, None]
    tone = rim[:, None, None] * (1 + pink * (temporal - 0.9 * (disc_far - 0.6))[None]) * (1 - bowl) + cup[:, None, None] * bowl
    shaded = tone * (1 + 0.12 * np.clip(light.mean(axis=0) / max(float(base.mean()), 1.0) - 1, -1, 1)[None])
    return np.asarray(out * (1 - cover) + shaded * cover, dtype=np.float32)


def _soft(inward: Floats, width: float) -> Floats:
    """0 outside, 1 inside, smooth over ``width`` on both sides of ``inward`` = 0."""
    step = np.clip(inward / np.float32(2 * width) + np.float32(0.5), 0, 1)
    out: Floats = step * step * (3 - 2 * step)
    return out


def _expose(light: Floats, field: Floats, seed: Seed, visit: int, view: View) -> npt.NDArray[np.uint8]:
    """The camera: blur of optics and eye, grain, the dark surround; uint8 (H, W, 3)."""
    shot = stream(seed, 9, visit)
    sigma = shot.uniform(0.55, 1.15) * max(0.5, view.radius_px / 250)
    dark = shot.uniform(0, 6, 3).astype(np.float32)
    grain = shot.uniform(1.2, 3.0)
    rows, columns = view.shape
    common = shot.standard_normal((rows, columns), dtype=np.float32)
    planes = []
    for channel in range(3):
        plane = ndimage.gaussian_filter(light[channel], sigma, mode="nearest", truncate=3)
        own = shot.standard_normal((rows, columns), dtype=np.float32)
        speck = ndimage.gaussian_filter(0.8 * common + 0.6 * own, 0.6, mode="nearest", truncate=3) / np.float32(0.47)
        plane = plane * field + dark[channel] * (1 - field)
        planes.append(plane + grain * np.sqrt(np.clip(plane, 4, None) / 120) * speck)
    image = np.stack(planes, axis=-1)
    return np.asarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))

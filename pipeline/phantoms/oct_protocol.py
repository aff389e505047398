"""How an instrument scans a phantom eye: the pattern, what of the eye is in the picture, and how light becomes grey.

One network meets many protocols: a raster over the macula or circles around the disc, the retina high or low in the picture, tilted
or bowed as the beam meets the eye, one frame or the mean of a hundred, noise cut off to black or left as haze.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.phantoms.vessels import Seed, stream

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]

FIELD_MM = 6.0  # square on the macula
DEPTH_MM = 1.3
CIRCLE_MM = 3.46
"""Diameter of the usual circle around the disc; a further slice is a circle ``CIRCLE_GAP_MM`` wider in radius."""
CIRCLE_GAP_MM = 0.3
_NASAL_END_MM = 3.2  # a raster ends here on the nasal side, for no phantom has a disc in its volume


@dataclass(frozen=True)
class OctProtocol:
    """One way of scanning. The defaults are the plain protocol of ``ocuseg phantom``.

    ``pattern``: a raster of parallel B-scans over the macula, or concentric circles around the disc, each from temporal over superior,
    nasal and inferior back to temporal (of a left eye the mirror image). ``width_mm`` is a B-scan's length, ``height_mm`` what the
    B-scans of a raster span (a circle has its own), ``depth_mm`` what the rows span. ``top_mm``: where the retina's highest point lies
    below the picture's top; None leaves the eye where it is. ``bow_mm``, ``tilt_mm`` and ``wave_mm``: how much deeper the ends of a
    B-scan lie than its middle, its last column than its first, and half the swing of a sine over its length.

    ``looks``: frames that are averaged (from, to); more of them, less speckle. ``exponent`` compresses reflectivity to grey.
    ``black``: noise that is subtracted and cut off, in means of the noise floor. ``haze``: light from the vitreous, next to the retina
    brightest, of a reflectivity. ``thickness_spread`` and ``contrast_spread``: standard deviation of the logarithm of each layer's
    thickness and reflectivity from scan to scan (of the pit's width, half as much again as of thickness).
    """

    pattern: Literal["raster", "circle"] = "raster"
    width_mm: float = FIELD_MM
    height_mm: float = FIELD_MM
    depth_mm: float = DEPTH_MM
    top_mm: float | None = None
    bow_mm: float = 0.0
    tilt_mm: float = 0.0
    wave_mm: float = 0.0
    looks: Range = (5.0, 12.0)
    exponent: float = 0.55
    black: float = 0.0
    haze: float = 0.0
    thickness_spread: float = 0.0
    contrast_spread: float = 0.0


PLAIN = OctProtocol()


def varied(seed: Seed, pattern: Literal["raster", "circle"]) -> OctProtocol:
    """A protocol drawn from the range that clinics' B-scans cover; wide, so that a real instrument lies inside it."""
    rng = stream(seed, 30, 0 if pattern == "raster" else 1)
    circle = pattern == "circle"
    looks = float(np.exp(rng.uniform(np.log(5), np.log(120))))
    return OctProtocol(
        pattern=pattern,
        width_mm=rng.uniform(5.0, 9.4),
        height_mm=rng.uniform(2.5, 6.0),
        depth_mm=rng.uniform(1.6, 2.2),
        top_mm=rng.uniform(0.08, 0.85),
        bow_mm=0.0 if circle else rng.normal(0, 0.15),
        tilt_mm=0.0 if circle else rng.normal(0, 0.15),
        wave_mm=rng.uniform(0, 0.2) if circle else rng.uniform(0, 0.03),
        looks=(looks, looks * 1.2),
        exponent=rng.uniform(0.42, 0.75),
        black=rng.uniform(0, 2.5) if rng.random() < 0.6 else 0.0,
        haze=rng.uniform(0.0, 0.05) if rng.random() < 0.7 else 0.0,
        thickness_spread=0.15,
        contrast_spread=0.15,
    )


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the A-scans of a volume lie: ``x``, ``y`` (D, W) in the module's millimetres, ``across`` (W) -1..1 along a B-scan.

    ``spacing_mm`` is (slice, row, column); ``angle`` (W), of a circle, runs from temporal (0) over superior.
    """

    x: Floats
    y: Floats
    across: Floats
    spacing_mm: tuple[float, float, float]
    angle: Floats | None = None


def lay_out(protocol: OctProtocol, disc: tuple[float, float], slices: int, rows: int, columns: int) -> Grid:
    """The A-scans of ``protocol`` on an eye whose disc lies at ``disc`` (mm)."""
    depth = protocol.depth_mm / rows
    place: Floats = np.arange(columns, dtype=np.float64) + 0.5
    order: Floats = np.arange(slices, dtype=np.float64) - (slices - 1) / 2
    if protocol.pattern == "circle":
        angle = np.asarray(place / columns * 2 * np.pi)
        radius = (CIRCLE_MM / 2 + order * CIRCLE_GAP_MM)[:, None]
        x: Floats = disc[0] - radius * np.cos(angle)
        y: Floats = disc[1] - radius * np.sin(angle)
        return Grid(x, y, 2 * place / columns - 1, (CIRCLE_GAP_MM, depth, np.pi * CIRCLE_MM / columns), angle)
    width = protocol.width_mm / columns
    gap = protocol.height_mm / max(slices, 2) if slices > 1 else width
    middle = min(0.0, _NASAL_END_MM - protocol.width_mm / 2)
    along: Floats = place * width - protocol.width_mm / 2
    x, y = np.meshgrid(along + middle if middle else along, order * gap)
    return Grid(x, y, along / (protocol.width_mm / 2), (gap, depth, width))


def eye_shape(protocol: OctProtocol, across: Floats, rng: np.random.Generator) -> Floats:
    """How much deeper (mm, (W)) each A-scan of a B-scan meets the eye than a straight one would."""
    sine = np.sin(np.pi * across + rng.uniform(0, 2 * np.pi))
    return np.asarray(protocol.bow_mm * across**2 + protocol.tilt_mm * across / 2 + protocol.wave_mm * sine)


def into_view(depths: Floats, protocol: OctProtocol, last: int) -> Floats:
    """Move the whole eye: its highest point to ``top_mm``, but surface ``last`` stays above the picture's lower edge."""
    if protocol.top_mm is None:
        return np.asarray(depths + max(0.0, 0.1 - float(depths[0].min())))
    down = protocol.top_mm - float(depths[0].min())
    return np.asarray(depths + min(down, max(protocol.depth_mm * 0.95 - float(depths[last].max()), 0.03 - float(depths[0].min()))))


def vitreous_haze(protocol: OctProtocol, shot: np.random.Generator, above_um: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Light from what lies above the retina: haze that thins out upwards, and often the vitreous' own hind membrane as a faint line.

    ``above_um`` float32 (D, H, W): height above the retina, 0 inside it.
    """
    slices, _, columns = above_um.shape
    reach = shot.uniform(60, 400)
    cloud = ndimage.gaussian_filter1d(shot.standard_normal((slices, columns)), columns / 24, axis=1, mode="wrap")
    light = protocol.haze * np.exp(-above_um / np.float32(reach)) * np.exp(0.5 * cloud / cloud.std())[:, None].astype(np.float32)
    if shot.random() < 0.5:
        height = shot.uniform(15, 140) * (1 + 0.6 * np.sin(np.linspace(0, 2 * np.pi, columns) + shot.uniform(0, 6)))
        light += 1.2 * protocol.haze * np.exp(-(((above_um - height.astype(np.float32)) / 10) ** 2))
    return np.asarray(light * (above_um > 0), dtype=np.float32)


def record(shot: np.random.Generator, signal: npt.NDArray[np.float32], protocol: OctProtocol) -> npt.NDArray[np.uint8]:
    """What the instrument shows: multiplicative speckle, averaged over a few frames, a noise floor, compressed to 8 bits."""
    looks = shot.uniform(*protocol.looks)
    speckle = shot.gamma(looks, 1 / looks, signal.shape).astype(np.float32)
    blurred = ndimage.gaussian_filter(signal, (0, 0.45, 0.5), mode="nearest")
    fine = ndimage.gaussian_filter(speckle, (0, 0.35, 0.55), mode="nearest")
    noise = np.float32(shot.uniform(0.006, 0.014))
    floor = noise * shot.standard_exponential(signal.shape, dtype=np.float32)
    light = blurred * fine + floor
    if protocol.black:
        light = light - np.float32(protocol.black) * noise
    shown = 255 * np.clip(light * 0.95, 0, 1) ** np.float32(protocol.exponent)
    return np.asarray(np.rint(shown).astype(np.uint8))

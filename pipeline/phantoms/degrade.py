"""What spoils a fundus photograph, by amount: blur, exposure, a cut field, haze and eyelashes, for networks that judge quality.

Models of what cameras show, and no measurement of it: amount 0 changes nothing, 1 leaves little to see. After the artefacts that
Shen et al., "Modeling and Enhancing Low-Quality Retinal Fundus Images", IEEE TMI 40(3), 2021, arXiv:2005.05594, degrade pictures by.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Degradation = Callable[[Picture, float, np.random.Generator], Picture]


def blurred(picture: Picture, amount: float, random: np.random.Generator) -> Picture:
    """Out of focus: a Gaussian of up to a fiftieth of the picture's smaller side."""
    from scipy.ndimage import gaussian_filter

    sigma = amount * min(picture.shape[:2]) / 50
    return picture if sigma == 0 else _bytes(gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)))


def badly_exposed(picture: Picture, amount: float, random: np.random.Generator) -> Picture:
    """Too dark or too bright, each as likely as the other, and uneven from one side to the other."""
    gain = (1 - 0.85 * amount) if random.random() < 0.5 else (1 + 2.5 * amount)
    slope = 1 + amount * random.uniform(-0.4, 0.4) * np.linspace(-1, 1, picture.shape[1])
    return picture if amount == 0 else _bytes(picture * (gain * slope[None, :, None]))


def cut(picture: Picture, amount: float, random: np.random.Generator) -> Picture:
    """The pupil's edge hides up to six tenths of the field from one side, as a soft dark sickle."""
    if amount == 0:
        return picture
    rows, columns = picture.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    edge = 1 - 1.2 * amount
    along = x * np.cos(angle) + y * np.sin(angle)
    return _bytes(picture / (1 + np.exp((along - edge) / 0.06))[..., None])


def hazy(picture: Picture, amount: float, random: np.random.Generator) -> Picture:
    """A cloudy lens: contrast fades towards a pale veil that lies unevenly."""
    from scipy.ndimage import gaussian_filter

    if amount == 0:
        return picture
    veil = gaussian_filter(random.normal(size=picture.shape[:2]), min(picture.shape[:2]) / 6)
    density = np.clip(0.85 * amount * (1 + 0.3 * veil / max(float(np.abs(veil).max()), 1e-9)), 0, 0.95)[..., None]
    lit = picture.max(axis=2, keepdims=True) > 20  # the surround stays black
    colour = np.array([190, 170, 140])
    return _bytes(np.where(lit, picture * (1 - density) + colour * density, picture))


def with_lashes(picture: Picture, amount: float, random: np.random.Generator) -> Picture:
    """Dark, blurred arcs of eyelashes from the lower or the upper edge."""
    from scipy.ndimage import gaussian_filter

    rows, columns = picture.shape[:2]
    shade = np.zeros((rows, columns))
    steps = np.linspace(0, 1, 4 * rows)
    for _ in range(round(14 * amount)):
        root, lean, reach = random.uniform(0, columns), random.uniform(-0.4, 0.4) * columns, random.uniform(0.25, 0.7) * rows * amount
        x, y = root + lean * steps**2, rows - 1 - reach * steps
        inside = (x >= 0) & (x < columns - 1)
        shade[y[inside].astype(int), x[inside].astype(int)] = 1
    if random.random() < 0.5:
        shade = shade[::-1]
    width = min(rows, columns) / 150
    dark = gaussian_filter(shade, width)
    dark = np.clip(dark / max(float(dark.max()), 1e-9) * 1.5, 0, 1) * 0.9
    return picture if amount == 0 else _bytes(picture * (1 - dark[..., None]))


DEGRADATIONS: dict[str, Degradation] = {
    "blur": blurred,
    "exposure": badly_exposed,
    "cut": cut,
    "haze": hazy,
    "lashes": with_lashes,
}
"""By name; each takes a picture uint8 (H, W, 3), an amount 0..1, and random numbers."""


def _bytes(values: npt.NDArray[np.floating]) -> Picture:
    return np.asarray(np.rint(values).clip(0, 255), dtype=np.uint8)

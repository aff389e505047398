"""Text as devices and people burn it into pictures, for training and for measuring the detector of pipeline/deidentify/burned_in.py.

Fonts are TrueType ones of matplotlib (DejaVu, STIX, Computer Modern), Pillow's own and OpenCV's; with and without
smoothing, upright and turned by a quarter. Training sees ``FONTS`` alone, and the measurement says of ``HELD_OUT`` how it does on fonts
that were never seen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral", "cmr10", "pillow")
HELD_OUT = ("DejaVuSansMono-Bold", "DejaVuSerif-Italic", "STIXGeneralBol", "cmss10", "cmtt10", "opencv")
VISIBLE = 60  # of 255: what stands out less from what is below it is not counted as ink
_CAPITALS = "HX0"


@dataclass(frozen=True)
class Style:
    """``height`` of capitals in pixels · ``turns``: quarters against the clock · ``smooth``: anti-aliased."""

    font: str
    height: int
    turns: int = 0
    smooth: bool = True


def glyphs(text: str, style: Style) -> Picture:
    """Coverage (0 to 255) of a line of text, cut to its ink and turned."""
    mask = _opencv(text, style) if style.font == "opencv" else _true_type(text, style)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.rot90(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], style.turns)


def _true_type(text: str, style: Style) -> Picture:
    font = _font(style.font, style.height)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L" if style.smooth else "1"
    draw.text((2 - left, 2 - top), text, fill=255, font=font)
    return np.asarray(image)


@cache
def _font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """With capitals of ``height`` pixels."""

    def load(size: float) -> ImageFont.FreeTypeFont:
        if name == "pillow":
            font = ImageFont.load_default(size)
            assert isinstance(font, ImageFont.FreeTypeFont)
            return font
        return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)

    _, top, _, bottom = load(100).getbbox(_CAPITALS)
    return load(100 * height / (bottom - top))


def _opencv(text: str, style: Style) -> Picture:
    face, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(style.height / 11))
    scale = style.height / _capitals(face)
    (wide, tall), base = cv2.getTextSize(text, face, scale, thick)
    mask = np.zeros((tall + base + 4 * thick + 4, wide + 4 * thick + 4), np.uint8)
    line = cv2.LINE_AA if style.smooth else cv2.LINE_8
    cv2.putText(mask, text, (2 * thick, tall + 2 * thick), face, scale, 255, thick, line)
    return mask


@cache
def _capitals(face: int) -> float:
    """Height of capitals at a scale of 1, in pixels."""
    mask = np.zeros((400, 1600), np.uint8)
    cv2.putText(mask, _CAPITALS, (40, 300), face, 8, 255, 1)
    return float(np.ptp(np.flatnonzero(mask.any(1)))) / 8


def paste(picture: Picture, mask: Picture, at: tuple[int, int], colour: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Draw ``mask`` in ``colour`` at a row and column of (H, W, 3), in place; returns which of its pixels can be seen (mask's shape)."""
    where = np.s_[at[0] : at[0] + mask.shape[0], at[1] : at[1] + mask.shape[1]]
    below = picture[where].astype(np.float32)
    part = mask[..., None].astype(np.float32) / 255
    picture[where] = np.round(below + part * (np.asarray(colour, np.float32) - below))
    stands_out = np.abs(picture[where].astype(np.float32) - below).max(axis=2) >= VISIBLE
    return np.asarray((mask > 127) & stands_out)


def through_jpeg(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def some_text(random: np.random.Generator, shortest: int = 4) -> str:
    """A made-up name, number or date."""
    small, large, digits = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"

    def some(letters: str, low: int, high: int) -> str:
        return "".join(random.choice(list(letters), int(random.integers(low, high))))

    def name() -> str:
        return some(large, 1, 2) + some(small, 3, 9)

    kinds = (
        lambda: f"{name()}, {name()}",
        lambda: f"{name()} {name()}",
        lambda: f"{some(large, 4, 9)}^{some(large, 3, 8)}",
        lambda: f"{some(digits, 4, 5)}-{some(digits, 2, 3)}-{some(digits, 2, 3)}",
        lambda: f"{some(digits, 2, 3)}{random.choice(['.', '/'])}{some(digits, 2, 3)}{random.choice(['.', '/'])}{some(digits, 2, 5)}",
        lambda: f"{random.choice(['ID', 'ID:', 'No.', 'DOB:', 'Pat'])} {some(digits, 4, 10)}",
        lambda: f"{some(large, 3, 7)}-{some(digits, 3, 6)}",
        lambda: f"{some(digits, 2, 3)}:{some(digits, 2, 3)}:{some(digits, 2, 3)} {random.choice(['OD', 'OS', 'R', 'L', 'F', 'M'])}",
        lambda: f"{name()} {some(digits, 2, 9)}",
        name,
        lambda: some(digits, 4, 12),
        lambda: some(large, 4, 10),
    )
    while len(text := str(kinds[int(random.integers(len(kinds)))]())) < shortest:
        pass
    return text

"""Small pictures for the worklist and larger ones for a patient's page, with contours and the research-use notice in the picture itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from pipeline.atomic import atomic_path
from pipeline.drawing.overlay import NOTICE, draw_overlay
from pipeline.types import LabelMap

SIDE, LARGE_SIDE = 240, 720
_STRIP = 18
_SIDE_A_LINE = 480
"""Pixels of the picture's longer side for each pixel of a contour's width."""
_SUPERSAMPLED = 3


def write_thumbnail(
    path: Path,
    image: npt.NDArray[Any],
    layers: npt.NDArray[np.bool_],
    label_map: LabelMap,
    boxes: Sequence[tuple[int, tuple[float, float, float, float]]] = (),
    large: Path | None = None,
) -> None:
    """JPEG of at most 240 x 240 pixels plus a strip: image (H, W[, 3]) uint8 with the contours of layers (K, H, W).

    ``boxes``: class (from 0) and xyxy in the image's pixels, for objects that have no mask · ``large``: where the same goes with at most
    720 x 720 pixels, never more than the image has.
    """
    from PIL import Image

    rows, columns = image.shape[:2]
    step = max(1, max(rows, columns) // (_SUPERSAMPLED * SIDE))
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    width = max(1, math.ceil(max(rows, columns) / step / _SIDE_A_LINE))
    drawn = draw_overlay(_means(rgb, step), _coverage(layers, step), label_map, width=width, notice=False)
    for target, side in ((path, SIDE), *([(large, min(LARGE_SIDE, max(drawn.shape[:2])))] if large is not None else [])):
        scale = side / max(drawn.shape[:2])
        size = (max(1, round(drawn.shape[1] * scale)), max(1, round(drawn.shape[0] * scale)))
        small = Image.fromarray(drawn).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
        _draw_boxes(small, boxes, label_map, rows, columns)
        _save(small, target, max(side, SIDE))


def _save(small: PIL.Image.Image, path: Path, side: int) -> None:
    """On black, ``side`` wide, above a strip with the notice."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (side, small.height + _STRIP))
    picture.paste(small, ((side - small.width) // 2, 0))
    ImageDraw.Draw(picture).text(
        (side / 2, small.height + _STRIP / 2), NOTICE, font=ImageFont.load_default(13), fill=(220, 220, 220), anchor="mm"
    )
    with atomic_path(path) as staged:
        picture.save(staged, format="JPEG", quality=82)


def _draw_boxes(
    small: PIL.Image.Image,
    boxes: Sequence[tuple[int, tuple[float, float, float, float]]],
    label_map: LabelMap,
    rows: int,
    columns: int,
) -> None:
    """Two pixels wide and never below 6 x 6, so that a lesion which vanished in the small picture still shows where it lies."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(small)
    for label, (x1, y1, x2, y2) in boxes:
        left, right = x1 * small.width / columns, x2 * small.width / columns
        top, bottom = y1 * small.height / rows, y2 * small.height / rows
        across, down = max(0.0, (6 - (right - left)) / 2), max(0.0, (6 - (bottom - top)) / 2)
        draw.rectangle((left - across, top - down, right + across - 1, bottom + down - 1), outline=label_map.classes[label].colour, width=2)


def _means(rgb: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    """Image (H, W, 3) averaged over blocks of step x step; what is left over at right and bottom is dropped."""
    if step == 1:
        return rgb
    rows, columns = rgb.shape[0] // step, rgb.shape[1] // step
    blocks = rgb[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
    means: npt.NDArray[np.uint8] = np.rint(blocks.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
    return means


def _coverage(layers: npt.NDArray[np.bool_], step: int) -> npt.NDArray[np.bool_]:
    """Layers (K, H, W) on the same blocks: True where at least a third is covered, so that thin vessels stay connected."""
    if step == 1:
        return layers
    classes, rows, columns = layers.shape[0], layers.shape[1] // step, layers.shape[2] // step
    blocks = layers[:, : rows * step, : columns * step].reshape(classes, rows, step, columns, step)
    covered: npt.NDArray[np.bool_] = blocks.sum(axis=(2, 4)) * 3 >= step * step
    return covered

"""Draw a segmentation and objects on their image: contours and boxes in the class's colour, each class with a line style of its own.

Colour alone never tells two classes apart (about one man in twelve confuses red and green), so every class also has a dash
pattern. The same patterns serve MLflow's example pictures (here) and the report's SVG contours (drawing/contours.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types import LabelMap, Role

NOTICE = "Research use, not for diagnosis"
HALO = 0.9
"""How much of the picture a contour's dark halo takes away: blue lines vanish on a retina, yellow ones on a disc, and none does between
two dark ones. As opaque as in report.css."""

FILLED_ROLES: tuple[Role, ...] = ("vessel", "artery", "vein")
FILL = 0.35
"""What is so thin that its two outlines alone do not tell its inside, and how much of that is tinted."""


@dataclass(frozen=True)
class LineStyle:
    """``dashes``: lengths drawn, left out, drawn, ... in line widths, as in SVG's stroke-dasharray; empty for a solid line."""

    name: str
    dashes: tuple[int, ...]


LINE_STYLES = (
    LineStyle("solid", ()),
    LineStyle("dashed", (6, 4)),
    LineStyle("dotted", (2, 3)),
    LineStyle("dash-dot", (8, 3, 2, 3)),
    LineStyle("long dashes", (12, 4)),
    LineStyle("dash-dot-dot", (8, 3, 2, 3, 2, 3)),
)


def line_style(index: int) -> LineStyle:
    """The style of class ``index`` (1..K); it repeats after six classes, where colours still differ."""
    return LINE_STYLES[(index - 1) % len(LINE_STYLES)]


def draw_overlay(
    image: npt.NDArray[np.uint8],
    layers: npt.NDArray[np.bool_] | None,
    label_map: LabelMap,
    *,
    boxes: npt.NDArray[np.float32] | None = None,
    labels: npt.NDArray[np.int64] | None = None,
    scores: npt.NDArray[np.float32] | None = None,
    fill: float | None = None,
    width: int = 1,
    caption: str = "",
    notice: bool = True,
) -> npt.NDArray[np.uint8]:
    """Image uint8 (H, W, 3), boolean layers (K, H, W) or None, and boxes (N, 4) with labels (N) -> a new uint8 (H, W, 3) picture.

    Contours run along the inside of each class, so two classes that touch both stay visible; the image's own border is not a
    contour. Each lies on a dark halo, ``width`` wide at either side (of vessels outside alone), and no halo on another contour. Boxes run
    along the inside of the pixels that they touch; with ``scores`` (N) each says its class and score. ``fill`` in 0..1 tints the inside,
    None that of vessels alone, ``width`` is the line's width in pixels, ``caption`` stands in the top left corner, and ``notice`` writes
    the research-use notice into the bottom left one (leave it out only where the page around the picture carries it).

    Raises
    ------
    ValueError: shapes or types that do not belong together.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if layers is None:
        layers = np.zeros((len(label_map), *image.shape[:2]), dtype=np.bool_)
    if (boxes is None) != (labels is None) or (boxes is None and scores is not None):
        raise ValueError("boxes and labels come together, and scores only with them")
    if layers.dtype != np.bool_ or layers.shape != (len(label_map), *image.shape[:2]):
        raise ValueError(f"layers must be bool {(len(label_map), *image.shape[:2])}, not {layers.dtype} {layers.shape}")
    if not 0 <= (fill or 0) <= 1 or width < 1:
        raise ValueError(f"fill {fill} must be in 0..1 and width {width} at least 1")
    out = image.copy()
    edges = [_inner_edge(layer, width) for layer in layers]
    beside = np.zeros(image.shape[:2], dtype=np.bool_)
    for cls, role, layer, edge in zip(label_map.classes, label_map.roles, layers, edges, strict=True):
        thin = role in FILLED_ROLES
        if tint := (FILL if thin else 0.0) if fill is None else fill:
            inside = out[layer].astype(np.float32)
            out[layer] = np.rint(inside * (1 - tint) + np.asarray(cls.colour, np.float32) * tint).astype(np.uint8)
        beside |= _grown(edge, width) & ~layer if thin else _grown(edge, width)
    out[beside] = np.rint(np.arange(256) * (1 - HALO)).astype(np.uint8)[out[beside]]
    for cls, layer, edge in zip(label_map.classes, layers, edges, strict=True):
        rows, columns = np.nonzero(edge)
        drawn = _dash(layer, rows, columns, line_style(cls.index), width)
        out[rows[drawn], columns[drawn]] = cls.colour
    if boxes is not None and labels is not None:
        out = _draw_boxes(out, boxes, labels, scores, label_map, width)
    if caption:
        out = _write_line(out, caption, top=True)
    return _write_line(out, NOTICE, top=False) if notice else out


def side_by_side(
    image: npt.NDArray[np.uint8], label_map: LabelMap, prediction: Mapping[str, Any], reference: Mapping[str, Any]
) -> npt.NDArray[np.uint8]:
    """uint8 (H + caption, 2 W, 3): the image twice, with the prediction on the left and the reference on the right, as captions say.

    ``prediction`` and ``reference``: ``layers``, ``boxes``, ``labels`` and ``scores`` of :func:`draw_overlay`, those that there are.
    """
    sides = {"prediction": prediction, "reference": reference}
    drawn = [_captioned(draw_overlay(image, what.get("layers"), label_map, **_boxes(what)), text) for text, what in sides.items()]
    return np.concatenate(drawn, axis=1)


def _boxes(what: Mapping[str, Any]) -> dict[str, Any]:
    return {name: what[name] for name in ("boxes", "labels", "scores") if name in what}


def _captioned(picture: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    """The picture below a dark strip with ``text``."""
    from PIL import Image, ImageDraw, ImageFont

    high = max(16, picture.shape[0] // 25)
    strip = Image.new("RGB", (picture.shape[1], high))
    ImageDraw.Draw(strip).text((high // 4, high // 2), text, font=ImageFont.load_default(high * 0.7), fill=(230, 230, 230), anchor="lm")
    return np.concatenate([np.asarray(strip, dtype=np.uint8), picture])


def _draw_boxes(
    picture: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32] | None,
    label_map: LabelMap,
    width: int,
) -> npt.NDArray[np.uint8]:
    """The highest-scoring (first) on top, and words above all lines."""
    for box, label in reversed(list(zip(boxes, labels.tolist(), strict=True))):
        cls = label_map.classes[label - 1]
        (left, top), (right, bottom) = np.floor(box[:2]).astype(int).clip(min=0), np.ceil(box[2:]).astype(int)
        inside = picture[top:bottom, left:right]
        # Edges of the picture are no contour, but they are where a box ends.
        area = np.pad(np.ones(inside.shape[:2], dtype=np.bool_), 1)
        rows, columns = np.nonzero(_inner_edge(area, width))
        drawn = _dash(area, rows, columns, line_style(cls.index), width)
        inside[rows[drawn] - 1, columns[drawn] - 1] = cls.colour
    if scores is None:
        return picture
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(10.0, picture.shape[0] / 60))
    for box, label, score in reversed(list(zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True))):
        text = f"{label_map.classes[label - 1].name} {score:.2f}"
        wide, high = (int(extent) + 2 for extent in draw.textbbox((0, 0), text, font=font)[2:])
        top, bottom = int(box[1]), int(-(-box[3] // 1))
        x, y = max(0, min(int(box[0]), picture.shape[1] - wide)), top - high if top >= high else bottom
        draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=(0, 0, 0))
        draw.text((x + 1, y), text, font=font, fill=label_map.classes[label - 1].colour)
    return np.asarray(canvas, dtype=np.uint8).copy()


def _inner_edge(layer: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Pixels of ``layer`` within ``width`` steps (up, down, left, right) of a pixel outside it."""
    core = layer
    for _ in range(width):
        padded = np.pad(core, 1, constant_values=True)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return layer & ~core


def _grown(area: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    """``area`` and what lies within ``steps`` (up, down, left, right) of it."""
    out = np.pad(area, 1)  # a whole picture at a time, without its edges, is what numpy is quickest with
    for _ in range(steps):
        flat = out.ravel()
        grown = flat.copy()
        for step in (1, out.shape[1]):
            grown[step:] |= flat[:-step]
            grown[:-step] |= flat[step:]
        out = grown.reshape(out.shape)
        out[[0, -1]] = out[:, [0, -1]] = False
    return out[1:-1, 1:-1]


def _dash(
    layer: npt.NDArray[np.bool_], rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], style: LineStyle, width: int
) -> npt.NDArray[np.bool_]:
    """Which of the edge pixels a dash covers.

    Following each contour to measure length along it would cost a trace; instead the phase is the column where the edge runs
    rather across the image (its slope, seen over a few pixels, points up or down) and the row elsewhere.
    """
    if not style.dashes or not len(rows):
        return np.ones(len(rows), dtype=bool)
    last_row, last_column = layer.shape[0] - 1, layer.shape[1] - 1
    down = np.zeros(len(rows), dtype=np.int64)
    across = np.zeros(len(rows), dtype=np.int64)
    for reach in range(1, width + 3):
        below, above = np.minimum(rows + reach, last_row), np.maximum(rows - reach, 0)
        right, left = np.minimum(columns + reach, last_column), np.maximum(columns - reach, 0)
        down += np.abs(layer[below, columns].astype(np.int64) - layer[above, columns])
        across += np.abs(layer[rows, right].astype(np.int64) - layer[rows, left])
    lengths = np.asarray(style.dashes) * width
    ends = np.cumsum(lengths)
    phase = np.where(down >= across, columns, rows) % ends[-1]
    covered: npt.NDArray[np.bool_] = np.searchsorted(ends, phase, side="right") % 2 == 0
    return covered


def _write_line(picture: npt.NDArray[np.uint8], text: str, *, top: bool) -> npt.NDArray[np.uint8]:
    """``text`` in light letters on a dark strip in the top or bottom left corner, never wider than the picture."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns = picture.shape[:2]
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    size = max(10.0, rows / 45)
    font = ImageFont.load_default(size)
    left, above, right, below = draw.textbbox((0, 0), text, font=font)
    if right - left > columns - 4:  # a small picture: smaller letters; below 6 px nobody reads them, but nobody reads the picture either
        font = ImageFont.load_default(max(4.0, size * (columns - 4) / (right - left)))
        left, above, right, below = draw.textbbox((0, 0), text, font=font)
    height = below - above
    start = 0 if top else rows - height - 6
    draw.rectangle((0, start, min(columns, right - left + 8), start + height + 6), fill=(0, 0, 0))
    draw.text((4 - left, start + 3 - above), text, font=font, fill=(230, 230, 230))
    return np.asarray(canvas, dtype=np.uint8).copy()

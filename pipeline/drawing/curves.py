"""Curves of a detector as pictures: precision against recall, sensitivity against false positives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.detection import DetectionScores
from pipeline.metrics.froc import RATES, Froc
from pipeline.types import LabelMap

Picture = npt.NDArray[np.uint8]
Curve = tuple[npt.ArrayLike, npt.ArrayLike]
_STYLES: tuple[str, ...] = ("-", "--", "-.", ":")


def draw_precision_recall(scores: DetectionScores, label_map: LabelMap) -> Picture:
    """Precision after each detection against recall at IoU .50, one line a class with a true object."""
    curves: dict[str, Curve] = {}
    for index, (recall, precision) in scores.curves.items():
        # A curve starts where its first detection does, at recall 0, and is absent where nothing was found.
        x, y = np.concatenate([np.zeros(1), recall]), np.concatenate([precision[:1], precision])
        ap50 = scores.by_class[index]["ap50"]
        curves[f"{label_map.names[index - 1]} (AP@.50 {ap50:.3f})"] = x[: len(y)], y
    colours = [label_map.classes[index - 1].colour for index in scores.curves]
    return draw_curves(curves, f"{scores.kind} precision and recall at IoU .50", "recall", "precision", colours)


def draw_froc(curves: Mapping[str, Froc], label_map: LabelMap) -> Picture:
    """Per-lesion sensitivity against false positives an image, one line a class (by name)."""
    colours = {cls.name: cls.colour for cls in label_map.classes}
    # Beyond the last operating point no more is found, which is also what sensitivity at a higher rate says.
    lines: dict[str, Curve] = {
        f"{name} (mean {curve.score:.3f}, n = {curve.lesions})": (
            np.append(curve.false_positives, max(curve.false_positives[-1], 2 * RATES[-1])),
            np.append(curve.sensitivity, curve.sensitivity[-1]),
        )
        for name, curve in curves.items()
    }
    return draw_curves(
        lines, "per-lesion sensitivity", "false positives an image", "sensitivity", [colours[name] for name in curves], ticks=RATES
    )


def draw_curves(
    curves: Mapping[str, Curve],
    title: str,
    x_label: str,
    y_label: str,
    colours: Sequence[tuple[int, int, int]],
    ticks: Sequence[float] | None = None,
) -> Picture:
    """Steps (x, y) by legend text -> uint8 (480, 640, 3); y runs from 0 to 1.

    ``colours``: RGB 0-255 of each curve; lines differ in style too, for whoever cannot tell the colours. ``ticks``: the x axis is
    logarithmic with these marks; without them it runs from 0 to 1.
    """
    figure, axes = figure_of(title=title, xlabel=x_label, ylabel=y_label, ylim=(-0.02, 1.02), xlim=(0, 1.02))
    left = min(ticks) / 2 if ticks else 0.0
    if ticks:
        axes.set_xscale("log", base=2)
        axes.set_xlim(left, max(ticks) * 1.5)
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    for place, ((text, (x, y)), colour) in enumerate(zip(curves.items(), colours, strict=True)):
        # A logarithmic axis has no 0: what lies before its first mark is drawn at its edge.
        line = np.maximum(np.asarray(x, np.float64), left)
        style = _STYLES[place % len(_STYLES)]
        axes.step(line, y, where="post", label=text, color=[c / 255 for c in colour], linestyle=style, linewidth=1.8)
    if curves:
        axes.legend(loc="best", fontsize="small")
    return picture_of(figure)


def figure_of(*, wide: bool = False, **settings: Any) -> tuple[Any, Any]:
    """A figure of 640 x 480 pixels (``wide``: 960) with one grid, and its axes; ``settings`` are matplotlib's of axes."""
    # Without pyplot: no window, no state that outlives it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6 if wide else 6.4, 4.8), dpi=100, layout="constrained")
    axes = figure.add_subplot(**settings)
    axes.grid(alpha=0.3)
    return figure, axes


def picture_of(figure: Any) -> Picture:
    """A figure as uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()

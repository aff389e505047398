"""Pictures of how whole pictures were answered: the confusion of classes, and what confidence is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.drawing.curves import Picture, figure_of, picture_of
from pipeline.metrics.classification import BINS, reliability


def draw_confusion(matrix: npt.NDArray[np.float64], names: Sequence[str]) -> Picture:
    """How many pictures of each true class (rows) got each answer (columns), (G, G); shades are fractions of the row."""
    figure, axes = figure_of(title="answers by true class", xlabel="answer", ylabel="true class")
    axes.grid(visible=False)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=30 if len(names) > 3 else 0)
    axes.set_yticks(places, names)
    for row in places:
        for column in places:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
    return picture_of(figure)


def draw_reliability(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], error: float) -> Picture:
    """Fraction of right answers against confidence, in BINS ranges, with the number of pictures of each; ``error``: the expected one."""
    number, claimed, true = (part[0] for part in reliability(confidence, right, np.ones((1, len(confidence)))))
    there = number > 0
    title = f"reliability (expected calibration error {error:.3f}, n = {len(confidence)})"
    figure, axes = figure_of(title=title, xlabel="confidence", ylabel="fraction of right answers", xlim=(0, 1), ylim=(0, 1.05))
    middles = (np.arange(BINS) + 0.5) / BINS
    axes.bar(middles[there], (true[there] / number[there]), width=0.9 / BINS, color="#56b4e9", edgecolor="black")
    axes.plot([0, 1], [0, 1], linestyle="--", color="black", linewidth=1)
    axes.plot(claimed[there] / number[there], true[there] / number[there], "o", color="#d55e00")
    for middle, count in zip(middles[there], number[there], strict=True):
        axes.text(middle, 0.01, f"{count:.0f}", ha="center", fontsize="x-small")
    return picture_of(figure)

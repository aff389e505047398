"""Several networks on several test sets: a row a network, a column a set, the main score with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.drawing.curves import figure_of, picture_of
from pipeline.evaluation.row import Row
from pipeline.studies.table import markdown

KINDS = ("dice", "box", "mask", "iou")
"""Scores by their first word; the earliest one that rows have is their main score."""


def main_score(rows: Sequence[Row]) -> str | None:
    """The name of the score that a matrix shows."""
    known = dict.fromkeys(name for row in rows for name in row.scores)
    return next((name for kind in KINDS for name in known if name.startswith(kind)), None)


def matrix(rows: Sequence[Row]) -> list[str]:
    """Markdown; nothing where there is one test set, or no score to show. A column says how many images its set has."""
    score = main_score(rows)
    if score is None or len({row.tested_on for row in rows}) < 2:
        return []
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault(row.name, {f"{score}: run, tested on": row.name})
        line[f"{row.tested_on} ({row.summary['images']})"] = row.shown("scores").get(score, "-")
    return [*markdown(list(lines.values())), ""]


def draw_matrix(rows: Sequence[Row]) -> npt.NDArray[np.uint8]:
    """The same as a heat map with its numbers, uint8 (H, W, 3)."""
    score = main_score(rows)
    assert score is not None
    names, sets = list(dict.fromkeys(row.name for row in rows)), list(dict.fromkeys(row.tested_on for row in rows))
    values = np.zeros((len(names), len(sets)))
    for row in rows:
        values[names.index(row.name), sets.index(row.tested_on)] = row.scores.get(score) or 0.0
    figure, axes = figure_of(title=f"{score}, with 95 % intervals over patients", xlabel="tested on", ylabel="run")
    axes.grid(visible=False)
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for row in rows:
        x, y = sets.index(row.tested_on), names.index(row.name)
        colour = "black" if values[y, x] > 0.5 else "white"
        value, _, interval = row.shown("scores").get(score, "-").partition(" ")
        axes.text(x, y, value, ha="center", va="bottom", color=colour, fontsize=18)
        axes.text(x, y + 0.08, interval, ha="center", va="top", color=colour, fontsize=10)
    images = {row.tested_on: row.summary["images"] for row in rows}
    axes.set_xticks(range(len(sets)), [f"{name}\n{images[name]} images" for name in sets])
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(shown, ax=axes, label=score)
    return picture_of(figure)

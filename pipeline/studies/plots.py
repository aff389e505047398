"""A study as pictures: validation against time, scores with their intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.curves import figure_of, picture_of
from pipeline.evaluation.row import Row
from pipeline.studies.matrix import KINDS, draw_matrix
from pipeline.studies.table import read_history

Picture = npt.NDArray[np.uint8]
Curve = tuple[Sequence[float], Sequence[float]]
Ends = Sequence[tuple[float, float]]

HEADLINES = ("validation/dice", "validation/ap50", "validation/ap")
MOST_SCORES, MOST_INSIDE = 8, 6
# Colours come round again after ten rows.
_STYLES: tuple[str, ...] = ("-", "--", "-.", ":")
_HATCHES, _MARKS = ("", "//", "..", "xx"), ("o", "s", "^", "D")


def plots(rows: Sequence[Row]) -> dict[str, Picture]:
    """Pictures uint8 (H, W, 3) by name: ``validation``, ``scores`` (of several test sets ``scores_on_SET`` and ``matrix``) and ``cost``.

    What nothing is known of is left out.
    """
    out = {}
    measure, curves = validation_curves(rows)
    if curves:
        out["validation"] = draw_lines(curves, f"{measure} on the validation images", "minutes of training, validation included", measure)
    known = dict.fromkeys(name for row in rows for name in row.scores)
    scores = [name for kind in KINDS for name in known if name.startswith(kind)]
    if not scores:
        return out
    drawn = [name for name in known if name in set(scores[:MOST_SCORES])]
    sets = list(dict.fromkeys(row.tested_on for row in rows))
    for tested_on in sets:
        out[f"scores_on_{tested_on}" if tested_on else "scores"] = draw_bars([row for row in rows if row.tested_on == tested_on], drawn)
    if len(sets) > 1:
        out["matrix"] = draw_matrix(rows)
    if any("images/s" in row.facts for row in rows):
        out["cost"] = draw_cost([row for row in rows if row.tested_on == sets[0]], scores[0])
    return out


def validation_curves(rows: Sequence[Row]) -> tuple[str, dict[str, Curve]]:
    """(what is measured, {row: (minutes, values)}): the headline that most rows have, after each validation."""
    histories = {row.name: read_history(row.run_dir) for row in rows if (row.run_dir / "history.jsonl").is_file()}
    known = Counter(name for history in histories.values() for name in {key for line in history for key in line} if name in HEADLINES)
    if not known:
        return "", {}
    measure = max(known, key=lambda name: (known[name], -HEADLINES.index(name)))
    curves: dict[str, Curve] = {}
    for name, history in histories.items():
        ends = np.cumsum([line["train/seconds"] + line.get("validation/seconds", 0.0) for line in history]) / 60
        points = [(float(end), line[measure]) for end, line in zip(ends, history, strict=True) if measure in line]
        if points:
            curves[name] = [x for x, _ in points], [y for _, y in points]
    return measure.removeprefix("validation/"), curves


def draw_lines(curves: Mapping[str, Curve], title: str, x_label: str, y_label: str) -> Picture:
    """Lines (x, y) by legend text, with a mark at each point.

    y ends at 1 and begins at a tenth below all values, so that what is told apart near 1 can be seen."""
    wide = len(curves) > MOST_INSIDE
    lowest = max(math.floor(10 * min((value for _, y in curves.values() for value in y), default=0.0) - 0.5) / 10, 0.0)
    room = 0.02 * (1 - lowest)
    figure, axes = figure_of(title=title, xlabel=x_label, ylabel=y_label, ylim=(lowest - room, 1 + room), wide=wide)
    for place, (text, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=text, marker=".", linestyle=_STYLES[place // 10 % len(_STYLES)], linewidth=1.6)
    axes.set_xlim(left=0, right=1.03 * max((max(x) for x, _ in curves.values()), default=1))  # room for a mark at the end
    _legend(axes, wide)
    return picture_of(figure)


def draw_bars(rows: Sequence[Row], scores: Sequence[str]) -> Picture:
    """One bar a row and score, with the interval where it has one; undefined scores have no bar."""
    figure, axes = figure_of(title="tested, with 95 % intervals over patients", ylabel="score", ylim=(0, 1.02), wide=True)
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        x = [number + (place - (len(rows) - 1) / 2) * width for number in range(len(scores))]
        values = [row.scores.get(name) for name in scores]
        axes.bar(x, [value or 0.0 for value in values], width * 0.9, label=row.name, hatch=_HATCHES[place // 10 % len(_HATCHES)])
        known = [(at, value, row.intervals[name]) for at, value, name in zip(x, values, scores, strict=True) if name in row.intervals]
        if known:
            below, above = zip(*((value - low, high - value) for _, value, (low, high) in known if value is not None), strict=True)
            ends: Any = np.clip([below, above], 0, None)
            axes.errorbar([at for at, _, _ in known], [value for _, value, _ in known], ends, fmt="none", ecolor="black", capsize=2)
    crowded = sum(map(len, scores)) > 70
    axes.set_xticks(range(len(scores)), scores, **({"rotation": 30, "ha": "right"} if crowded else {}))
    _legend(axes, True)
    return picture_of(figure)


def draw_cost(rows: Sequence[Row], score: str) -> Picture:
    """Score, with its interval, against frames a second, one point a row."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    wide = len(rows) > MOST_INSIDE
    figure, axes = figure_of(title=f"{score} against speed", xlabel="predicted images a second", ylabel=score, wide=wide)
    for place, row in enumerate(rows):
        value, speed = row.scores.get(score), row.facts.get("images/s")
        if value is not None and speed is not None:
            low, high = row.intervals.get(score, (value, value))
            ends: Any = np.clip([[value - low], [high - value]], 0, None)
            axes.errorbar([speed], [value], ends, marker=_MARKS[place // 10 % len(_MARKS)], linestyle="none", capsize=2, label=row.name)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.2, high * 1.2)
    # 10, 20, 50, 100: within less than a factor of ten matplotlib writes powers over each other.
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low > 3 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _legend(axes, wide)
    return picture_of(figure)


def _legend(axes: Any, beside: bool) -> None:
    """Where it hides least; of many rows beside the axes, whatever is drawn in them."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {"loc": "best"}
    axes.legend(fontsize="small", **place)

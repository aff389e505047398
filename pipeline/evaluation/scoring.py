"""One labelled scan against its prediction: a row of numbers a class, at native resolution, inside the field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.metrics.overlap import Confusion, measure
from pipeline.tasks.pixels import ScanPixels
from pipeline.types import CaseKey, Measure

BoolArray = npt.NDArray[np.bool_]

SCORES = (
    "dice",
    "iou",
    "pixel_accuracy",
    "sensitivity",
    "specificity",
    "cldice",
    "auroc",
    "aupr",
    "hd95_px",
    "assd_px",
    "hd95_mm",
    "assd_mm",
)
SECOND_READER = ("second_reader_dice", "model_vs_second_dice")


@dataclass(frozen=True)
class Row:
    """One case and class. ``scores`` in the order of :data:`SCORES` and :data:`SECOND_READER`, those that apply."""

    case: CaseKey
    cls: str
    counts: Confusion
    scores: Mapping[str, Measure]
    sha256: str
    second_counts: Confusion | None = field(default=None)


def rows_of(
    case: CaseKey, sha256: str, measures: Mapping[str, Measure], pixels: ScanPixels, second: tuple[BoolArray, BoolArray] | None = None
) -> list[Row]:
    """Rows of one case, one a class.

    Parameters
    ----------
    measures: by name (``dice/vessel``), with detail. pixels: what was scored.
    second: the second reader's layers bool (S, [D,] H, W) of the same classes and where that label counts ([D,] H, W).
    """
    rows = []
    for index, name in enumerate(pixels.names):
        own = {kind: score for key, score in measures.items() for kind, _, cls in [key.partition("/")] if cls == name}
        counts = Confusion(*(int(own[kind].value or 0) for kind in ("tp", "fp", "fn", "tn")))
        scores = {kind: score for kind, score in own.items() if kind in SCORES}
        second_counts = None
        if second is not None:
            layers, also = second
            both = pixels.known & also
            second_counts = Confusion.of(layers[index], pixels.truth[index], both)
            scores["second_reader_dice"] = measure("dice", second_counts.dice)
            scores["model_vs_second_dice"] = measure("dice", Confusion.of(pixels.found[index], layers[index], both).dice)
        rows.append(Row(case, name, counts, scores, sha256, second_counts))
    return rows


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of the scores that at least one row has, in a fixed order."""
    present = {name for row in rows for name in row.scores}
    return [name for name in (*SCORES, *SECOND_READER) if name in present]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """``per_image.csv``: a heading, then one line a case and class; an undefined score is an empty cell.

    ``empty``: of an image without the class, whether it was rightly left empty (right, wrong).
    """
    scores = columns(rows)
    lines = [["case", "patient", "class", *scores, "tp", "fp", "fn", "tn", "empty", "undefined", "sha256"]]
    for row in rows:
        values = [row.scores.get(name) for name in scores]
        cells = ["" if v is None or v.value is None else f"{v.value:.6f}" for v in values]
        reasons = "; ".join(f"{name}: {m.undefined}" for name, m in row.scores.items() if m.undefined is not None)
        c = row.counts
        empty = "" if c.held else "wrong" if c.fp else "right"
        lines.append([str(row.case), row.case.patient, row.cls, *cells, *map(str, (c.tp, c.fp, c.fn, c.tn)), empty, reasons, row.sha256])
    return lines

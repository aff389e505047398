"""One labelled scan against its prediction: a row of numbers a class, at native resolution, inside the field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.metrics.overlap import Confusion, aupr, auroc, cldice, measure, overlap_measures
from pipeline.metrics.surface import assd, hd95
from pipeline.types import CaseKey, Measure

BoolArray = npt.NDArray[np.bool_]

THIN = frozenset({"vessel", "vessels", "artery", "arteries", "vein", "veins", "capillary"})
"""Class names whose shape is a branching line: scored with clDice; the others with outline distances."""

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


def score_case(
    case: CaseKey,
    sha256: str,
    names: Sequence[str],
    predicted: BoolArray,
    probabilities: npt.NDArray[np.floating] | None,
    truth: BoolArray,
    valid: BoolArray,
    second: tuple[BoolArray, BoolArray] | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> list[Row]:
    """Rows of one case.

    Parameters
    ----------
    names: the K classes. predicted, truth: bool (K, [D,] H, W). probabilities: float of that shape, or None
        where there are none (objects); then nothing is scored that needs them.
    valid: bool ([D,] H, W), where the first reader's label and the field of view count.
    second: the second reader's layers (K, [D,] H, W) and where that label counts ([D,] H, W).
    spacing_mm: of slices, rows and columns of a volume, or None. Outlines of pictures are compared in pixels, those of volumes in
        mm or not at all: slices lie much further apart than pixels, so that a distance in voxels means nothing.
    """
    rows = []
    for index, name in enumerate(names):
        guess, true = predicted[index], truth[index]
        counts = Confusion.of(guess, true, valid)
        scores = overlap_measures(counts)
        if name.lower() in THIN:
            if guess.ndim == 2:
                scores["cldice"] = measure("cldice", cldice(guess, true, valid))
        elif guess.ndim == 2:
            scores["hd95_px"], scores["assd_px"] = hd95(guess, true, valid=valid), assd(guess, true, valid=valid)
        elif spacing_mm is not None:
            scores["hd95_mm"], scores["assd_mm"] = hd95(guess, true, spacing_mm, valid), assd(guess, true, spacing_mm, valid)
        else:
            scores["hd95_mm"] = scores["assd_mm"] = Measure(None, "mm", "distance of outlines", "the spacing of an axis is not known")
        if probabilities is not None:
            scores["auroc"] = measure("auroc", auroc(probabilities[index], true, valid))
            scores["aupr"] = measure("aupr", aupr(probabilities[index], true, valid))
        second_counts = None
        if second is not None:
            layers, also = second
            both = valid & also
            second_counts = Confusion.of(layers[index], true, both)
            scores["second_reader_dice"] = measure("dice", second_counts.dice)
            scores["model_vs_second_dice"] = measure("dice", Confusion.of(guess, layers[index], both).dice)
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

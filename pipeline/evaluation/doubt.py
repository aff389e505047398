"""Whether a bundle knows where it is wrong: calibration of its pixels, and cases kept in the order of their doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doubt.evidence import Gathering
from pipeline.doubt.model import DoubtModel
from pipeline.drawing.curves import draw_curves
from pipeline.metrics.calibration import PixelReliability
from pipeline.metrics.coverage import LOW, CoverageRisk, finds_low
from pipeline.tasks.pixels import ScanPixels
from pipeline.types import CaseKey, LabelMap, Measure, Prediction

PICTURE, TABLE, ANSWERS = "coverage_risk.png", "doubt.csv", "answers"
DEFINITIONS = {
    "calibration_error": "mean distance of a pixel's probability and the fraction that is true, in ten ranges, inside the field of view",
    "area": "1 - mean Dice of the cases kept, mean over all fractions kept, least in doubt first; best: in the order of their true Dice",
    "finds_low": f"AUROC of the predicted Dice for a true one below {LOW:.2f}",
}


@dataclass(frozen=True)
class Doubted:
    """One case and class: its true and its predicted score."""

    case: CaseKey
    cls: str
    score: float
    predicted: float


@dataclass
class DoubtScores:
    """Gathered case by case; no pixels are kept."""

    label_map: LabelMap
    model: DoubtModel
    reliability: dict[str, PixelReliability] = field(default_factory=dict)
    rows: list[Doubted] = field(default_factory=list)

    def add(self, case: CaseKey, pixels: ScanPixels, measures: Mapping[str, Measure]) -> None:
        """One scored scan; one without probabilities says nothing."""
        if pixels.probabilities is None:
            return
        for place, name, truth in zip(pixels.places, pixels.names, pixels.truth, strict=True):
            self.reliability.setdefault(name, PixelReliability()).add(pixels.probabilities[place], truth, pixels.known)
        gathering, flat = Gathering(self.label_map, self.model), pixels.layers.ndim == 3
        for plane in range(1 if flat else pixels.layers.shape[1]):
            chances = pixels.probabilities if flat else pixels.probabilities[:, plane]
            known = pixels.known if flat else pixels.known[plane]
            gathering.add(Prediction(probabilities=chances), pixels.layers if flat else pixels.layers[:, plane], int(known.sum()))
        predicted = {one.name: one.predicted for one in gathering.evidence(flat).classes}
        for name in pixels.names:
            score, guess = measures[f"dice/{name}"].value, predicted[name]
            if score is not None and guess is not None:
                self.rows.append(Doubted(case, name, score, guess))

    def summary(self) -> dict[str, Any]:
        """JSON value of ``summary["doubt"]``: of each class its ``temperature``, ``calibration_error`` without and with it, and what
        :func:`of_rows` says."""
        out: dict[str, Any] = {}
        for name, own in self.reliability.items():
            temperature = self.model.temperatures.get(name, 1.0)
            errors = {"before": own.error(), "after": own.error(temperature)}
            out[name] = {"temperature": temperature, "calibration_error": errors}
        for name in dict.fromkeys(row.cls for row in self.rows):
            out[name] = out.get(name, {}) | of_rows([row for row in self.rows if row.cls == name])
        return out


def of_rows(rows: Sequence[Doubted]) -> dict[str, Any]:
    """``images``, ``area``, ``area_best``, ``area_random``, ``predicted_error`` (mean absolute) and ``finds_low`` (None where all cases
    are on one side); nothing without a case."""
    if not rows:
        return {}
    predicted, scores = np.array([row.predicted for row in rows]), np.array([row.score for row in rows])
    curve, found = CoverageRisk.of(1 - predicted, scores), float(finds_low(predicted, scores)[0])
    return {
        "images": len(rows),
        "area": curve.area,
        "area_best": curve.best,
        "area_random": curve.random,
        "predicted_error": float(np.abs(predicted - scores).mean()),
        "finds_low": None if np.isnan(found) else found,
    }


def draw_coverage(rows: Sequence[Doubted], label_map: LabelMap) -> npt.NDArray[np.uint8]:
    """Mean score of the cases that are kept against the fraction kept, a line a class."""
    colours = {cls.name: cls.colour for cls in label_map.classes}
    lines, drawn = {}, []
    for name in dict.fromkeys(row.cls for row in rows):
        own = [row for row in rows if row.cls == name]
        curve = CoverageRisk.of([1 - row.predicted for row in own], [row.score for row in own])
        lines[f"{name} (area {curve.area:.3f}, best {curve.best:.3f}, n = {len(own)})"] = curve.coverage, curve.score
        drawn.append(colours.get(name, (0, 0, 0)))
    return draw_curves(lines, "cases kept, least in doubt first", "fraction of cases kept", "mean score of those kept", drawn)


def doubt_table(rows: Sequence[Doubted]) -> list[list[str]]:
    """``doubt.csv``: a heading, then one line a case and class."""
    lines = [["case", "patient", "class", "score", "predicted"]]
    return lines + [[str(r.case), r.case.patient, r.cls, f"{r.score:.6f}", f"{r.predicted:.6f}"] for r in rows]


def doubt_lines(doubt: Mapping[str, Any]) -> list[str]:
    """What a person reads of ``summary["doubt"]``."""
    lines = []
    for name, own in doubt.items():
        errors = own.get("calibration_error", {})
        if errors.get("before") is not None:
            tempered = f", with temperature {own['temperature']:.2f} {errors['after']:.4f}" if own["temperature"] != 1 else ""
            lines.append(f"doubt of {name}: calibration error of pixels {errors['before']:.4f}{tempered}")
        if "area" in own:
            low = "" if own["finds_low"] is None else f"; AUROC for below {LOW:.2f} {own['finds_low']:.3f}"
            areas = f"{own['area']:.4f} (best {own['area_best']:.4f}, random {own['area_random']:.4f})"
            lines.append(f"doubt of {name}: coverage-risk area {areas}{low}")
    return lines


def doubt_numbers(doubt: Mapping[str, Any]) -> dict[str, float | None]:
    """The same for MLflow, by name."""
    out: dict[str, float | None] = {}
    for name, own in doubt.items():
        for when, value in own.get("calibration_error", {}).items():
            out[f"calibration_error_{when}/{name}"] = value
        out |= {f"coverage_risk_{kind}/{name}": own[kind] for kind in ("area", "area_best", "area_random", "finds_low") if kind in own}
    return out

"""How far two readers of the same cases agree: kappa of their verdicts, Dice of the masks that each left, and what waits to be decided.

Both numbers have an interval by a bootstrap over patients (metrics/interval.py), as everywhere here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doubt.evidence import agreement as mutual_dice
from pipeline.errors import NothingUsableError, OcusegError
from pipeline.metrics.classification import confusions, kappa, quadratic_kappa
from pipeline.metrics.interval import patient_bootstrap, patient_weights, percentile_interval
from pipeline.metrics.matching import touched
from pipeline.reports.results import ReportCase, RunFacts, read_run
from pipeline.review.log import Verdict
from pipeline.review.reviewed import Labels, find_cases, read_labels
from pipeline.review.state import ReviewState, states

VERDICTS: tuple[Verdict, ...] = ("accepted", "edited", "rejected")
"""Ordered by how much of the model's answer a reader lets stand."""
DRAWS = 2000


@dataclass(frozen=True)
class Score:
    """``value`` over ``cases``, with its 95 % interval over patients; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    cases: int = 0

    def told(self) -> str:
        if self.value is None:
            return "undefined"
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}, {self.cases} cases"


@dataclass(frozen=True)
class Agreement:
    """``both``: cases that a reader and a second reader gave a verdict, of which ``table`` counts each pair (reader, second reader) ·
    ``weighted``: quadratic weights · ``dice`` by class, of cases that neither rejected · ``waiting`` for an adjudicator ·
    ``left_out``: (case, reason) whose masks, or verdicts, cannot be compared."""

    both: int
    one: int
    adjudicated: int
    table: dict[tuple[str, str], int]
    kappa: Score
    weighted: Score
    dice: dict[str, Score]
    waiting: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        def of(score: Score) -> dict[str, Any]:
            return {"value": score.value, "low": score.low, "high": score.high, "cases": score.cases}

        return {
            "read_by_both": self.both,
            "read_by_one": self.one,
            "adjudicated": self.adjudicated,
            "verdicts": [{"reader": first, "second": second, "cases": count} for (first, second), count in sorted(self.table.items())],
            "kappa": of(self.kappa),
            "weighted_kappa": of(self.weighted),
            "dice": {name: of(score) for name, score in self.dice.items()},
            "waiting": list(self.waiting),
            "left_out": [{"case": case, "reason": reason} for case, reason in self.left_out],
        }

    def lines(self) -> list[str]:
        said = [f"{self.both} cases read by both, {self.one} by one of them, {self.adjudicated} adjudicated"]
        said += [f"reader {first}, second reader {second}: {count}" for (first, second), count in sorted(self.table.items())]
        said.append(f"kappa of the verdicts {self.kappa.told()}; with quadratic weights {self.weighted.told()}")
        said += [f"{name}: Dice of the two readers {score.told()}" for name, score in self.dice.items()]
        said += [f"left out: {case}: {reason}" for case, reason in self.left_out]
        said += [f"waits for an adjudicator: {case}" for case in self.waiting]
        return said


def find_agreement(predictions: Path) -> Agreement:
    """Between the readers and the second readers of a folder of predictions.

    Raises
    ------
    NothingUsableError: no case was read by both.
    """
    run, known = read_run(predictions), states(predictions)
    both = {name: state for name, state in known.items() if {"reader", "second"} <= state.readings.keys()}
    pairs = {name: state for name, state in both.items() if len({reading.mask_sha256 for reading in _readings(state)}) == 1}
    left = [(name, "it was predicted anew between the two verdicts") for name in sorted(both.keys() - pairs.keys())]
    if not pairs:
        raise NothingUsableError("no case has the verdicts of a reader and a second reader, so that nothing can agree or disagree")
    values: dict[str, dict[str, list[float]]] = {}
    for case in find_cases(predictions):
        name = case[0] if isinstance(case, tuple) else case.folder.name
        if name not in pairs or any(reading.verdict == "rejected" for reading in _readings(pairs[name])):
            continue
        try:
            if isinstance(case, tuple):
                raise OcusegError(case[1])
            for cls, dice in _dice(predictions, run, case, pairs[name]).items():
                values.setdefault(cls, {}).setdefault(case.key.patient, []).append(dice)
        except OcusegError as error:
            left.append((name, str(error)))
    verdicts = np.array([[VERDICTS.index(reading.verdict) for reading in _readings(state)] for state in pairs.values()])
    patients = [name.split("_")[0] for name in pairs]
    return Agreement(
        len(pairs),
        sum(len({"reader", "second"} & state.readings.keys()) == 1 for state in known.values()),
        sum("adjudicator" in state.readings for state in known.values()),
        dict(Counter((VERDICTS[first], VERDICTS[second]) for first, second in verdicts.tolist())),
        _kappa(kappa, verdicts, patients),
        _kappa(quadratic_kappa, verdicts, patients),
        {cls: _mean(of_patient) for cls, of_patient in values.items()},
        tuple(sorted(name for name, state in both.items() if state.disagreement)),
        tuple(left),
    )


def _readings(state: ReviewState) -> tuple[Any, Any]:
    return state.readings["reader"], state.readings["second"]


def _dice(predictions: Path, run: RunFacts, case: ReportCase, state: ReviewState) -> dict[str, float]:
    """Of each class that at least one of the two marked."""
    first, second = (read_labels(predictions, run, case, one.correction, one.mask_sha256) for one in _readings(state))
    both = zip(first.label_map.names, _areas(first), _areas(second), strict=True)
    found = {name: mutual_dice(np.stack(masks)) for name, *masks in both}
    return {name: dice for name, dice in found.items() if dice is not None}


def _areas(labels: Labels) -> npt.NDArray[np.bool_]:
    """(K, ...): what each class covers; of objects without masks their boxes."""
    layers = labels.layers()
    for place, name in enumerate(labels.label_map.names):
        if name in labels.by_pixels or any(one.segmentation for one in labels.objects):
            continue
        layers[place] = False
        planes = layers[place] if layers[place].ndim == 3 else layers[place][None]
        for one in labels.objects:
            if one.name == name:
                left, top, right, bottom = touched(one.box, (planes.shape[1], planes.shape[2]))
                planes[one.plane, top:bottom, left:right] = True
    return layers


def _kappa(statistic: Callable[[Any], Any], verdicts: npt.NDArray[np.int64], patients: list[str]) -> Score:
    first, second = verdicts.T
    value = float(statistic(confusions(first, second, len(VERDICTS), np.ones((1, len(first)))))[0])
    if np.isnan(value):
        return Score(None, cases=len(first))
    weights = patient_weights(patients, DRAWS)
    interval = None if weights is None else percentile_interval(statistic(confusions(first, second, len(VERDICTS), weights)))
    low, high = interval or (None, None)
    return Score(value, low, high, len(first))


def _mean(of_patient: dict[str, list[float]]) -> Score:
    all_of = [dice for own in of_patient.values() for dice in own]
    low, high = patient_bootstrap(of_patient, n=DRAWS) or (None, None)
    return Score(float(np.mean(all_of)), low, high, len(all_of))

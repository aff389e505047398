"""Which rows of a study differ, and which only look as if they did: every pair on the same images, patients drawn again together.

Paired bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. The intervals say how far a difference
depends on which patients were tested; how far it depends on the luck of one training, only several seeds can say.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.row import Row
from pipeline.evaluation.summary import DRAWS, LEVEL, SEED
from pipeline.metrics.interval import FEWEST_PATIENTS, Statistic, mean_of_images, paired_patient_bootstrap, pooled_dice
from pipeline.studies.table import markdown

NOTE = (
    f"Differences (row - column) on the same images; * : the {LEVEL:.0%} interval (paired bootstrap over patients, {DRAWS} draws, not "
    "corrected for the number of pairs) excludes 0. Without * the difference is within noise. Each row is one training: another seed may "
    "change more than this."
)

FEW = 6
"""With fewer patients than this no interval of 95 % can be trusted: one sign in all of n patients comes by chance in 1 of 2^(n-1)."""

Image = tuple[str, tuple[float, ...]]
"""Patient and numbers of an image; of an image that does not define the score there are none."""


@dataclass(frozen=True)
class Difference:
    """``first`` - ``second`` by ``score`` over ``images`` of ``patients``; ``low`` and ``high``: None without an interval."""

    score: str
    first: str
    second: str
    value: float
    low: float | None
    high: float | None
    images: int
    patients: int
    tested_on: str = ""

    @property
    def real(self) -> bool:
        """Whether it is more than noise."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"real": self.real}


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Of every two rows that were tested on the same images, by the Dice of each class, or F1 (IoU .50) where there are no masks."""
    tables = [_tables(row.evaluation) for row in rows]
    found = []
    for (one, own), (two, other) in combinations(zip(rows, tables, strict=True), 2):
        for score, (statistic, images) in own.items() if one.tested_on == two.tested_on else ():
            if score in other and other[score][1].keys() == images.keys():
                difference = _difference(score, one.name, two.name, images, other[score][1], statistic)
                found += [] if difference is None else [replace(difference, tested_on=one.tested_on)]
    return found


def _difference(
    score: str, first: str, second: str, own: Mapping[str, Image], other: Mapping[str, Image], statistic: Statistic
) -> Difference | None:
    common = sorted(image for image in own if own[image][1] and other[image][1])
    if not common:
        return None
    sides = [_by_patient([side[image] for image in common]) for side in (own, other)]
    interval = paired_patient_bootstrap(sides[0], sides[1], statistic, n=DRAWS, seed=SEED, level=LEVEL)
    values = [float(statistic(_all(side).sum(axis=0, keepdims=True), np.array([float(len(common))]))[0]) for side in sides]
    if any(math.isnan(value) for value in values):  # objects of a class that no image holds
        return None
    low, high = interval if interval is not None else (None, None)
    return Difference(score, first, second, values[0] - values[1], low, high, len(common), len(sides[0]))


def _by_patient(images: Sequence[Image]) -> dict[str, list[tuple[float, ...]]]:
    out: dict[str, list[tuple[float, ...]]] = {}
    for patient, values in images:
        out.setdefault(patient, []).append(values)
    return out


def _all(side: Mapping[str, Sequence[tuple[float, ...]]]) -> npt.NDArray[np.float64]:
    return np.array([values for images in side.values() for values in images], dtype=np.float64)


def _tables(folder: Path) -> dict[str, tuple[Statistic, dict[str, Image]]]:
    """Scores of an evaluation by image: the mean Dice of each class, and pooled F1 of each class without masks."""
    out: dict[str, tuple[Statistic, dict[str, Image]]] = {}
    for line in _lines(folder / "per_image.csv"):
        if "dice" in line:
            images = out.setdefault(f"dice {line['class']}", (mean_of_images, {}))[1]
            images[line["case"]] = line["patient"], (float(line["dice"]),) if line["dice"] else ()
    for line in _lines(folder / "objects.csv"):
        if f"dice {line['class']}" not in out:
            images = out.setdefault(f"F1 {line['class']}", (pooled_dice, {}))[1]
            images[f"{line['case']}/{line['plane']}"] = line["patient"], tuple(float(line[name]) for name in ("tp", "fp", "fn"))
    return out


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def difference_lines(rows: Sequence[Row], found: Sequence[Difference]) -> list[str]:
    """A matrix and a sentence for each score (and test set)."""
    lines = []
    for score, tested_on in dict.fromkeys((difference.score, difference.tested_on) for difference in found):
        own = {(d.first, d.second): d for d in found if (d.score, d.tested_on) == (score, tested_on)}
        names = [row.name for row in rows if row.tested_on == tested_on and any(row.name in pair for pair in own)]
        lines += [
            "",
            f"**{score}{f', tested on {tested_on}' if tested_on else ''}**",
            "",
            *markdown([{"row - column": a} | {b: _cell(own, a, b) for b in names} for a in names]),
        ]
        lines += ["", _sentence(score, names, own)]
    fewest = min((difference.patients for difference in found), default=FEW)
    chance = f"even a difference of one sign in all of them comes by chance in 1 of {2 ** (fewest - 1)} comparisons (sign test)"
    few = f" Patients tested: {fewest}, too few for such intervals: {chance}, so * is only a hint." if fewest < FEW else ""
    if fewest < FEWEST_PATIENTS:
        few = f" Patients tested: {fewest}, so there are no intervals, and noise cannot be told from real differences."
    return [*lines, "", NOTE + few] if lines else []


Pairs = Mapping[tuple[str, str], Difference]


def _cell(pairs: Pairs, row: str, column: str) -> str:
    found, sign = _signed(pairs, row, column)
    return "" if found is None else f"{sign * found.value:+.3f}{' *' if found.real else ''}"


def _signed(pairs: Pairs, row: str, column: str) -> tuple[Difference | None, int]:
    return (pairs[row, column], 1) if (row, column) in pairs else (pairs.get((column, row)), -1)


def _sentence(score: str, names: Sequence[str], pairs: Pairs) -> str:
    """The best row, those that cannot be told from it, and those that are worse beyond noise."""
    # A row compared with all others on the same images leads where no difference to it is positive.
    best = max(names, key=lambda name: sum(_ahead(pairs, name, other) for other in names))
    noise: list[str] = []
    worse: list[str] = []
    for name in names:
        found, sign = _signed(pairs, name, best)
        if found is None:
            continue
        ends = "" if found.low is None or found.high is None else "[{:.3f}, {:.3f}]".format(*sorted((sign * found.low, sign * found.high)))
        (worse if found.real else noise).append(f"{name} ({sign * found.value:+.3f} {ends})".replace(" )", ")"))
    parts = [f"Best by {score}: {best}."]
    if noise:
        sure = "Within noise of it" if all(d.low is not None for d in pairs.values()) else "Too few patients to tell these from it"
        parts.append(f"{sure}: {', '.join(noise)}.")
    if worse:
        patients = min(difference.patients for difference in pairs.values())
        sure = "Worse beyond noise" if patients >= FEW else f"Worse, as far as {patients} patients can tell"
        parts.append(f"{sure}: {', '.join(worse)}.")
    return " ".join(parts)


def _ahead(pairs: Pairs, name: str, other: str) -> int:
    found, sign = _signed(pairs, name, other)
    return 0 if found is None else int(np.sign(sign * found.value))

"""What a study trains and tests: budgets, folds, the data sets it is tested on, and where those lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cards.card import load_card
from pipeline.config import RunConfig
from pipeline.config.study_file import ENDLESS, TestSet
from pipeline.errors import CardError, ConfigError
from pipeline.evaluation.row import Row


@dataclass(frozen=True)
class DataRoots:
    """Where data sets lie: ``by_card`` under the name of their card, any other in ``default``."""

    default: Path | None = None
    by_card: Mapping[str, Path] = field(default_factory=dict)

    def of(self, card: str) -> Path:
        """Raises ConfigError where nothing is said of that card."""
        name = card_name(card)
        root = self.by_card.get(name, self.default)
        if root is None:
            raise ConfigError(f"--root: the folder of data set {name!r} is missing; add --root {name}=DIR")
        return root


@dataclass(frozen=True)
class EvaluationSet:
    """What the networks of a study are tested on; ``classes`` as of :func:`evaluate`.

    ``name`` tells several sets of one study apart; the only one needs none.
    """

    card: str
    root: Path
    part: str = "all"
    classes: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the folder: a data set may move."""
        return {"card": card_name(self.card), "part": self.part, "classes": dict(self.classes)}


def evaluation_sets(tested_on: Mapping[str, TestSet], roots: DataRoots, folder: Path) -> list[EvaluationSet]:
    """The sets of a study file that lies in ``folder``."""
    several = len(tested_on) > 1
    return [
        EvaluationSet(
            own.card,
            roots.of(own.card) if own.root is None else folder / own.root,
            own.part,
            own.classes,
            name if several else "",
        )
        for name, own in tested_on.items()
    ]


def card_name(card: str) -> str:
    """What a card calls itself; for a card that cannot be read, which training and evaluation then refuse, the name of its file."""
    try:
        return load_card(card).name
    except CardError:
        return Path(card).stem


def with_budget(config: RunConfig, minutes: float | None) -> RunConfig:
    """``config`` with a time budget, where one is given, instead of a number of epochs."""
    if minutes is None:
        return config
    train = config.train.model_copy(update={"minutes": minutes, "epochs": ENDLESS, "patience": None})
    return config.model_copy(update={"train": train})


def folds_of(config: RunConfig, folds: int) -> list[RunConfig]:
    """One config a fold. Each fold is tested by a network that neither trained on it nor chose its epoch or thresholds by it."""
    if folds < 3:
        raise ConfigError(f"--folds {folds}: at least 3 are needed: one to test, one to choose epoch and thresholds, the rest to train")
    parts = []
    for fold in range(folds):
        asked = {"folds": folds, "fold": fold, "fold_part": "test", "test": 0.0, "validation": 0.0}
        split = type(config.data.split).model_validate(config.data.split.model_dump() | asked)
        data = config.data.model_copy(update={"split": split})
        parts.append(config.model_copy(update={"data": data, "name": f"{config.name}_fold{fold}"}))
    return parts


def unequal(configs: Sequence[RunConfig]) -> list[str]:
    """A sentence on what a fair comparison would keep equal and these configs do not."""
    looks: dict[str, Callable[[RunConfig], Any]] = {
        "seed": lambda config: config.seed,
        "data.card": lambda config: Path(config.data.card).stem,
        "data.classes": lambda config: config.data.classes,
        "data.split": lambda config: config.data.split,
        "train.minutes": lambda config: config.train.minutes,
        "train.epochs": lambda config: config.train.epochs,
    }
    found = [name for name, look in looks.items() if any(look(config) != look(configs[0]) for config in configs)]
    return [f"Not the same for all rows: {', '.join(found)}."] if found else []


def over_folds(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest of each score over the rows that define it; where there are several test sets, of each by itself
    ("dice disc on SET")."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.scores.items():
            if value is not None:
                found.setdefault(f"{name} on {row.tested_on}" if row.tested_on else name, []).append(value)
    return {name: {"mean": sum(values) / len(values), "lowest": min(values), "highest": max(values)} for name, values in found.items()}

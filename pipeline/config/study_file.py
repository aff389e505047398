"""A study file: a base config, and for each run what it changes. One file in place of many run files that are nearly the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from pipeline.config.renamed_keys import with_current_keys
from pipeline.errors import ConfigError
from pipeline.registry import Strict, explain, unknown_name
from pipeline.resources import find_run_file
from pipeline.types import EvaluatedPart

ENDLESS = 1_000_000
"""Epochs of a run that only its time limit ends."""
RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class TestSet(Strict):
    """A labelled data set that every run of a study is tested on."""

    __test__ = False  # no test class of pytest

    card: str = Field(description="a card's name in data_cards/, or a path to one")
    root: str | None = Field(None, description="folder of the data set, relative to the study file; null: as --root says")
    part: EvaluatedPart = Field("test", description="part of the data set; all: a set no run has seen")
    classes: dict[str, str] = Field({}, description="our class name: the card's name for it, where they differ")


class StudyFile(Strict):
    """Several runs that are trained and tested side by side."""

    description: str = ""
    base: str | dict[str, Any] | None = Field(
        None, description="what the runs have in common: a run file (path relative to this file, or name), or its contents"
    )
    prefix: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$", description="put before each run's name")
    runs: dict[RunName, dict[str, Any] | None] = Field(
        min_length=1, description="name: what the run changes in the base, as nested keys or as dotted ones (train.epochs: 5)"
    )
    budget_minutes: float | None = Field(
        None, gt=0, description="training time of each run, validations included, in place of its epochs; null: as the runs say"
    )
    folds: int | None = Field(None, ge=3, description="cross-validate each run over this many folds by patient; null: train it once")
    tested_on: dict[RunName, TestSet] | None = Field(
        None, min_length=1, description="name: a data set that each run is tested on; null: the test part of its own data set"
    )

    def changes(self, run: str, where: str) -> dict[str, Any]:
        """What ``run`` changes, as nested keys of today; its ``base`` is the study's where it has none of its own.

        Raises
        ------
        ConfigError: there is no such run (with the nearest name), or a key is given twice.
        """
        if run not in self.runs:
            raise ConfigError(unknown_name(f"{where}: runs", run, list(self.runs)))
        place = f"{where}: runs.{run}"
        own = with_current_keys(_nested(self.runs[run] or {}, place), place)
        if "name" in own:
            raise ConfigError(f"{place}.name: a run is called by its key; remove name, or rename the key")
        changes = {"base": self.base, **own, "name": f"{self.prefix}{run}"}
        train = changes.get("train") or {}
        if self.budget_minutes is not None and isinstance(train, dict):
            changes["train"] = train | {"minutes": self.budget_minutes, "epochs": ENDLESS, "patience": None}
        return changes


def parse_study(data: dict[str, Any], where: str) -> StudyFile:
    """Check the keys and values of a study file; its runs are checked when they are loaded."""
    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {explain(fault, StudyFile)}" for fault in error.errors())) from None


def split_run(path: Path) -> tuple[Path, str] | None:
    """``STUDY/RUN`` -> (the study file, the run's name); None where ``path`` means a file of its own, or no study.

    A run of a study is named like a file in a folder, so "idrid_detectors/yolov3" and "idrid_detectors/yolov3.yaml" both are one.
    """
    if find_run_file(path).exists():
        return None
    study = find_run_file(path.parent)
    return (study, path.name.removesuffix(".yaml")) if study.is_file() else None


def _nested(changes: dict[str, Any], place: str) -> dict[str, Any]:
    """``{"train.epochs": 5}`` -> ``{"train": {"epochs": 5}}``."""
    out: dict[str, Any] = {}
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{place}: {dotted}: {parent!r} holds a value, not keys")
        if isinstance(node.get(last), dict) and isinstance(value, dict) and not node[last].keys() & value.keys():
            node[last] = node[last] | value
        elif last in node:
            raise ConfigError(f"{place}: {dotted} is given twice; keep one of them")
        else:
            node[last] = dict(value) if isinstance(value, dict) else value
    return out

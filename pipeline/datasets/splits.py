"""Who is trained on and who is tested on: by patient, frozen to a file, guarded against leaks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.atomic import write_text
from pipeline.datasets.fingerprint import same_pictures
from pipeline.errors import ConfigError, LeakError, NothingUsableError
from pipeline.registry import Strict
from pipeline.types import PARTS, CaseKey, Part

log = logging.getLogger(__name__)


class SplitConfig(Strict):
    """How cases are parted; always by patient."""

    source: Literal["official", "random"] = Field("official", description="official: the card's own parts; random: by the fractions below")
    validation: float = Field(
        0.2, ge=0, lt=1, description="fraction of patients; taken from the training part if the card has no validation part"
    )
    test: float = Field(0.2, ge=0, lt=1, description="fraction of patients, for a random split")
    folds: int | None = Field(None, ge=2, description="number of cross-validation folds over the training part; null: no cross-validation")
    fold: int = Field(0, ge=0, description="index of the held-out fold, from 0")
    fold_part: Literal["validation", "test"] = Field(
        "validation",
        description="use of the held-out fold; test: it is only tested, and the next fold chooses epoch and thresholds",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="maximum number of training patients (with one seed, a smaller set is a subset of a larger one); null: all",
    )
    train_patients: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="patients to train on, named as in split.json; null: all who are in no other part",
    )
    validation_patients: tuple[str, ...] | None = Field(
        None, min_length=1, description="patients for validation, in place of a fraction or of the card's validation part"
    )
    near_duplicates: Literal["fail", "drop_from_train"] = Field(
        "fail", description="what the leakage guard does when two parts contain the same or a near-identical image"
    )

    @property
    def named(self) -> set[str]:
        """The patients whose part is said by name."""
        return {*(self.train_patients or ()), *(self.validation_patients or ())}

    @model_validator(mode="after")
    def _fits(self) -> SplitConfig:
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds} folds; folds count from 0")
        if self.fold_part == "test" and (self.folds is None or self.folds < 3 or (self.source == "random" and self.test > 0)):
            raise ValueError("fold_part test needs at least 3 folds and, with a random split, test: 0, because the fold is the test part")
        if self.folds is not None and self.named:
            raise ValueError("folds part all patients, so that train_patients and validation_patients must be null")
        twice = sorted(set(self.train_patients or ()) & set(self.validation_patients or ()))
        if twice:
            raise ValueError(f"patient {twice[0]} stands in train_patients and in validation_patients")
        if self.source == "random" and self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing to train on")
        return self


@dataclass(frozen=True)
class Split:
    """The cases of each part, each sorted; no case stands in two parts. ``unreadable``: cases that belong to none because their files
    could not be read (data.skip_unreadable)."""

    train: tuple[CaseKey, ...]
    validation: tuple[CaseKey, ...]
    test: tuple[CaseKey, ...]
    unreadable: tuple[CaseKey, ...] = ()

    def __post_init__(self) -> None:
        everyone = [*self.train, *self.validation, *self.test]
        if len(set(everyone)) != len(everyone):
            twice = sorted({str(key) for key in everyone if everyone.count(key) > 1})
            raise ValueError(f"cases stand in the split twice: {', '.join(twice[:3])}")

    def __iter__(self) -> Iterator[tuple[Part, tuple[CaseKey, ...]]]:
        yield from ((part, getattr(self, part)) for part in PARTS)

    def to_json(self) -> dict[str, list[str]]:
        parts = {part: [str(key) for key in keys] for part, keys in self}
        return parts | ({"unreadable": [str(key) for key in self.unreadable]} if self.unreadable else {})

    def without(self, unreadable: Collection[CaseKey]) -> Split:
        """The same less these cases.

        Raises
        ------
        NothingUsableError: a part of which none is left.
        """
        parts = {part: tuple(key for key in keys if key not in unreadable) for part, keys in self}
        for part, keys in self:
            if keys and not parts[part]:
                raise NothingUsableError(f"none of the {len(keys)} {part} cases can be read, such as {keys[0]}; look at their files")
        return Split(**parts, unreadable=tuple(sorted(unreadable)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Split:
        lists = [*(data[part] for part in PARTS), data.get("unreadable", ())]
        return cls(*(tuple(CaseKey.parse(text) for text in texts) for texts in lists))

    def save(self, path: Path) -> None:
        """Write atomically."""
        write_text(path, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Split:
        """Raises ConfigError where the file is not a split."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path.name}: not a split file of ocuseg ({error.__class__.__name__}); a run writes split.json") from None


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Case(Protocol):
    @property
    def key(self) -> CaseKey: ...
    @property
    def part(self) -> Part | None: ...


def make_split(card: _Named, cases: Sequence[_Case], config: SplitConfig, seed: int) -> Split:
    """Part cases by patient: the same card, cases, config and seed always give the same split.

    Patients are ordered by a hash of seed and name, so a patient who joins later moves few others.

    Raises
    ------
    ConfigError: no official parts where they are asked for, or too few patients.
    """
    if config.source == "official":
        parts: dict[str, list[CaseKey]] = {part: [] for part in PARTS}
        for case in cases:
            if case.part is None:
                raise ConfigError(
                    f"data.split.source: card {card.name} names no official part for case {case.key}; complete it, or set random"
                )
            parts[case.part].append(case.key)
        pool, validation, test = parts["train"], parts["validation"], parts["test"]
    else:
        pool, validation, test = [case.key for case in cases], [], []
    patients = _shuffled({key.patient for key in pool}, seed)
    everyone = len(patients)
    unknown = sorted(config.named - {key.patient for key in (*pool, *validation)})
    if unknown:
        raise ConfigError(
            f"data.split: patient {unknown[0]} is not in the training part of card {card.name}; its {everyone} patient(s) are "
            f"{_few(sorted({key.patient for key in pool}))}"
        )
    if config.source == "random" and config.test > 0:
        held = set([p for p in patients if p not in config.named][: _count(config.test, everyone)])
        test, pool = _part(pool, held)
        patients = [p for p in patients if p not in held]
    if config.folds is not None:
        # An official validation part joins the pool: every training patient is held out exactly once over the folds.
        pool = [*pool, *validation]
        patients = _shuffled({key.patient for key in pool}, seed)
        if len(patients) < config.folds:
            raise ConfigError(f"data.split.folds: {config.folds} folds need as many patients, and the training part has {len(patients)}")
        held_out, pool = _part(pool, set(patients[config.fold :: config.folds]))
        if config.fold_part == "test":
            test = held_out
            validation, pool = _part(pool, set(patients[(config.fold + 1) % config.folds :: config.folds]))
        else:
            validation = held_out
    elif config.validation_patients is not None:
        # Whom the card would have validated, and nobody names, is trained on.
        validation, pool = _part([*pool, *validation], set(config.validation_patients))
    elif not validation and config.validation > 0:
        held = set([p for p in patients if p not in config.named][: _count(config.validation, everyone)])
        validation, pool = _part(pool, held)
    if config.train_patients is not None:
        chosen = set(config.train_patients)
        (pool, _), (_, validation) = _part([*pool, *validation], chosen), _part(validation, chosen)
    if not pool:
        raise ConfigError(f"data.split: card {card.name} has {everyone} patient(s), which leaves no one to train on; lower the fractions")
    if config.limit is not None:
        order = _shuffled({key.patient for key in pool}, seed)
        pool, _ = _part(pool, set(order[: config.limit]))
    return Split(tuple(sorted(pool)), tuple(sorted(validation)), tuple(sorted(test)))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _count(fraction: float, patients: int) -> int:
    return max(1, round(fraction * patients))


def _part(keys: Sequence[CaseKey], patients: set[str]) -> tuple[list[CaseKey], list[CaseKey]]:
    return [k for k in keys if k.patient in patients], [k for k in keys if k.patient not in patients]


def _shuffled(patients: set[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())


def guard(
    split: Split,
    fingerprints: Mapping[CaseKey, npt.NDArray[np.float32]],
    hashes: Mapping[CaseKey, str] | None = None,
    near_duplicates: Literal["fail", "drop_from_train"] = "fail",
) -> Split:
    """Make sure that no patient, no file and no picture stands on two sides of the split.

    Parameters
    ----------
    fingerprints: of every case (datasets/fingerprint.py). hashes: SHA-256 of every image file, where known.
    near_duplicates: "drop_from_train" takes the copy out of the side that matters less (train before validation before test)
        and logs it; a patient on two sides always fails, because then the split itself is wrong.

    Returns
    -------
    The split itself, or one without the dropped cases.

    Raises
    ------
    LeakError: names both cases of every leak (the first few).
    """
    sides = dict(split)
    pairs: tuple[tuple[Part, Part], ...] = (("train", "validation"), ("train", "test"), ("validation", "test"))
    leaks: list[str] = []
    for first, second in pairs:
        there = {key.patient: key for key in reversed(sides[second])}
        seen: set[str] = set()
        for key in sides[first]:
            if key.patient in there and key.patient not in seen:
                seen.add(key.patient)
                leaks.append(f"patient {key.patient} stands in {first} (case {key}) and in {second} (case {there[key.patient]})")
    if leaks:
        raise LeakError(_several(leaks, "split by patient, or correct the card's parts"))
    dropped: set[CaseKey] = set()
    for first, second in pairs:
        for one, other, why in _copies(sides[first], sides[second], fingerprints, hashes or {}):
            leaks.append(f"{first} case {one} and {second} case {other} {why}")
            dropped.add(one)
    if not leaks:
        return split
    if near_duplicates == "fail":
        raise LeakError(_several(leaks, "remove one of each pair, or set data.split.near_duplicates: drop_from_train"))
    for leak in leaks:
        log.warning("leak: %s; the first one is left out", leak)
    kept = Split(*(tuple(key for key in keys if key not in dropped) for _, keys in split))
    if not kept.train:
        raise LeakError(_several(leaks, "nothing is left to train on without the copies"))
    return kept


def _copies(
    first: Sequence[CaseKey],
    second: Sequence[CaseKey],
    fingerprints: Mapping[CaseKey, npt.NDArray[np.float32]],
    hashes: Mapping[CaseKey, str],
) -> Iterator[tuple[CaseKey, CaseKey, str]]:
    told: set[tuple[CaseKey, CaseKey]] = set()
    files: dict[str, CaseKey] = {hashes[key]: key for key in second if key in hashes}
    for key in first:
        if key in hashes and hashes[key] in files:
            told.add((key, files[hashes[key]]))
            yield key, files[hashes[key]], "are the same file"
    for i, j, correlation in same_pictures([fingerprints[key] for key in first], [fingerprints[key] for key in second]):
        if (first[i], second[j]) not in told:
            yield first[i], second[j], f"show the same picture (correlation {correlation:.3f})"


def _several(leaks: Sequence[str], remedy: str) -> str:
    more = f"; and {len(leaks) - 5} more" if len(leaks) > 5 else ""
    return f"the split leaks: {'; '.join(leaks[:5])}{more}; {remedy}"

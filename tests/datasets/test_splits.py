"""Splits by patient, and the guard that no picture stands on two sides."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.fingerprint import SAME_PICTURE, fingerprint, same_pictures
from pipeline.datasets.splits import Split, SplitConfig, guard, make_split
from pipeline.errors import ConfigError, LeakError
from pipeline.types import CaseKey
from tests.cards.conftest import picture
from tests.conftest import shared_data


@dataclass(frozen=True)
class Case:
    key: CaseKey
    part: Any = None


@dataclass(frozen=True)
class Card:
    name: str = "small"


def cases_of(patients: int, eyes: str = "RL", parts: dict[int, str] | None = None) -> list[Case]:
    return [Case(CaseKey(f"p{n:03}", eye, "0", "x"), (parts or {}).get(n)) for n in range(patients) for eye in eyes]  # type: ignore[arg-type]


def patients_of(keys: tuple[CaseKey, ...]) -> set[str]:
    return {key.patient for key in keys}


@given(st.integers(4, 40), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.2, 0.4]), st.sampled_from([0.0, 0.1, 0.3]))
def test_a_random_split_parts_patients_and_loses_none(patients: int, seed: int, validation: float, test: float) -> None:
    cases = cases_of(patients)
    config = SplitConfig(source="random", validation=validation, test=test)
    split = make_split(Card(), cases, config, seed)
    sides = [patients_of(keys) for _, keys in split]
    assert sum(map(len, sides)) == patients == len(set.union(*sides))
    assert sum(len(keys) for _, keys in split) == len(cases)
    assert len(sides[1]) == (max(1, round(validation * patients)) if validation else 0)
    assert len(sides[2]) == (max(1, round(test * patients)) if test else 0)
    assert split == make_split(Card(), cases[::-1], config, seed), "the order of the files does not matter"


def test_fewer_training_patients_are_among_more_and_the_other_parts_stay() -> None:
    def limited(limit: int | None) -> Split:
        return make_split(Card(), cases_of(20), SplitConfig(source="random", limit=limit), seed=3)

    few, more, everyone = limited(4), limited(9), limited(None)
    assert [len(patients_of(split.train)) for split in (few, more, everyone)] == [4, 9, 12]
    assert len(few.train) == 8  # both eyes of each
    assert set(few.train) < set(more.train) < set(everyone.train)
    assert few.validation == everyone.validation
    assert few.test == everyone.test
    assert limited(50) == everyone


@pytest.mark.parametrize("source", ["official", "random"])
def test_patients_may_be_named(source: str) -> None:
    cases = cases_of(10, parts={n: "test" if n > 7 else "validation" if n == 7 else "train" for n in range(10)})

    def named(**settings: Any) -> Split:
        return make_split(Card(), cases, SplitConfig(source=source, test=0.2, **settings), seed=3)

    chosen = named(train_patients=("p000", "p003"), validation_patients=("p004",))
    assert patients_of(chosen.train) == {"p000", "p003"}
    assert len(chosen.train) == 4, "both eyes of each"
    assert patients_of(chosen.validation) == {"p004"}
    assert len(patients_of(chosen.test)) == 2

    validated = named(validation_patients=("p004",))
    assert patients_of(validated.validation) == {"p004"}
    assert len(patients_of(validated.train)) == 7, "all the others but those of the test part, the card's own validation patient among them"

    trained = named(train_patients=("p000", "p003"))
    assert patients_of(trained.train) == {"p000", "p003"}
    assert trained.validation
    assert not patients_of(trained.validation) & {"p000", "p003"}

    assert patients_of(named(train_patients=("p000", "p007"), validation_patients=("p001",)).train) == {"p000", "p007"}


def test_names_that_fit_nowhere_are_told() -> None:
    cases = cases_of(10, parts={n: "train" if n < 8 else "test" for n in range(10)})
    for name in ("p009", "p100"):
        with pytest.raises(ConfigError, match=f"patient {name} is not in the training part of card small; its 8 patient.s. are p000, p001"):
            make_split(Card(), cases, SplitConfig(validation_patients=(name,)), seed=0)
    with pytest.raises(ValueError, match="p001 stands in train_patients and in validation_patients"):
        SplitConfig(train_patients=("p001",), validation_patients=("p001",))
    with pytest.raises(ValueError, match="folds part all patients"):
        SplitConfig(train_patients=("p001",), folds=3)


def test_seeds_differ_and_a_new_patient_moves_few() -> None:
    config = SplitConfig(source="random")
    first, other = (make_split(Card(), cases_of(50), config, seed) for seed in (0, 1))
    assert first.test != other.test
    more = make_split(Card(), cases_of(51), config, 0)
    assert len(patients_of(first.test) - patients_of(more.test)) <= 1


def test_official_parts_are_honoured_and_validation_comes_from_training() -> None:
    cases = cases_of(10, parts={n: "train" if n < 7 else "test" for n in range(10)})
    split = make_split(Card(), cases, SplitConfig(), 0)
    assert patients_of(split.test) == {"p007", "p008", "p009"}
    assert len(patients_of(split.validation)) == 1
    assert not patients_of(split.validation) & patients_of(split.train)
    official = cases_of(10, parts={n: ("train", "validation", "test")[min(n // 4, 2)] for n in range(10)})
    assert patients_of(make_split(Card(), official, SplitConfig(), 0).validation) == {"p004", "p005", "p006", "p007"}


def test_folds_hold_out_each_training_patient_once() -> None:
    cases = cases_of(11, parts={n: "train" if n < 9 else "test" for n in range(11)})
    splits = [make_split(Card(), cases, SplitConfig(folds=4, fold=k), 3) for k in range(4)]
    held = [patient for split in splits for patient in patients_of(split.validation)]
    assert sorted(held) == [f"p{n:03}" for n in range(9)]
    assert all(patients_of(split.test) == {"p009", "p010"} for split in splits)
    assert all(not patients_of(split.train) & patients_of(split.validation) for split in splits)


@pytest.mark.parametrize(
    ("cases", "config", "said"),
    [
        (cases_of(3), SplitConfig(), "names no official part for case p000_R_0_x"),
        (cases_of(1), SplitConfig(source="random"), "leaves no one to train on"),
        (cases_of(3), SplitConfig(source="random", folds=5), "5 folds need as many patients"),
    ],
)
def test_what_cannot_be_parted_says_why(cases: list[Case], config: SplitConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_split(Card(), cases, config, 0)


def test_a_tested_fold_is_chosen_by_the_fold_after_it() -> None:
    cases = cases_of(9)
    settings = {"source": "random", "test": 0.0, "validation": 0.0, "folds": 3, "fold_part": "test"}
    splits = [make_split(Card(), cases, SplitConfig(**settings, fold=k), 3) for k in range(3)]
    for k, split in enumerate(splits):
        assert split.validation == splits[(k + 1) % 3].test
        assert patients_of(split.train) == {c.key.patient for c in cases} - patients_of(split.validation) - patients_of(split.test)
    assert sorted(key for split in splits for key in split.test) == sorted(c.key for c in cases)


@pytest.mark.parametrize("wrong", [{"folds": None}, {"folds": 2}, {"folds": 5, "source": "random", "test": 0.2}])
def test_a_tested_fold_needs_three_and_no_other_test_part(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 3 folds"):
        SplitConfig(fold_part="test", **wrong)


@pytest.mark.parametrize("wrong", [{"folds": 3, "fold": 3}, {"source": "random", "validation": 0.5, "test": 0.5}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fold|nothing"):
        SplitConfig(**wrong)


def test_a_split_is_frozen_to_a_file(tmp_path: Path) -> None:
    split = make_split(Card(), cases_of(9), SplitConfig(source="random"), 0)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    assert [p.name for p in tmp_path.iterdir()] == ["split.json"]
    (tmp_path / "split.json").write_text('{"train": ["x"]}')
    with pytest.raises(ConfigError, match="not a split file"):
        Split.load(tmp_path / "split.json")
    with pytest.raises(ValueError, match="twice"):
        Split(split.train, split.train[:1], ())


def key(patient: str, eye: str = "R") -> CaseKey:
    return CaseKey(patient, eye, "0", "x")  # type: ignore[arg-type]


def as_scan(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(image, -1, 0)


def test_two_eyes_of_one_patient_on_both_sides_are_named() -> None:
    split = Split((key("a"), key("b")), (), (key("a", "L"),))
    prints = {k: fingerprint(as_scan(picture(n))) for n, k in enumerate([*split.train, *split.test])}
    for remedy in ("fail", "drop_from_train"):
        with pytest.raises(LeakError, match=r"patient a .*a_R_0_x.*a_L_0_x"):
            guard(split, prints, near_duplicates=remedy)  # type: ignore[arg-type]


def test_a_copy_on_both_sides_is_named_or_dropped(caplog: pytest.LogCaptureFixture) -> None:
    split = Split((key("a"), key("b")), (key("c"),), (key("d"),))
    images = {key("a"): picture(1), key("b"): picture(2), key("c"): picture(3), key("d"): picture(2)[:, ::-1]}
    prints = {k: fingerprint(as_scan(image)) for k, image in images.items()}
    with pytest.raises(LeakError, match=r"train case b_R_0_x and test case d_R_0_x show the same picture"):
        guard(split, prints)
    with caplog.at_level(logging.WARNING):
        kept = guard(split, prints, near_duplicates="drop_from_train")
    assert kept == Split((key("a"),), split.validation, split.test)
    assert "b_R_0_x" in caplog.text
    clean = Split((key("a"),), (key("c"),), (key("d"),))
    assert guard(clean, prints) is clean


def test_the_same_file_is_found_even_where_a_picture_has_no_content() -> None:
    split = Split((key("a"),), (), (key("b"),))
    blank = fingerprint(np.full((1, 40, 60), 7, np.uint8))
    assert not blank.any()
    prints = {key("a"): blank, key("b"): blank}
    assert guard(split, prints, {key("a"): "1", key("b"): "2"}) == split
    with pytest.raises(LeakError, match="are the same file"):
        guard(split, prints, {key("a"): "1", key("b"): "1"})


def test_when_only_copies_were_to_be_trained_on() -> None:
    split = Split((key("a"),), (), (key("b"),))
    print_ = fingerprint(as_scan(picture(1)))
    with pytest.raises(LeakError, match="nothing is left"):
        guard(split, {key("a"): print_, key("b"): print_}, near_duplicates="drop_from_train")


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return next(same_pictures([fingerprint(first)], [fingerprint(second)], threshold=-2))[2]


def test_fingerprints_know_a_picture_after_what_happens_to_pictures() -> None:
    image = as_scan(picture(5, (240, 336)))
    for name, changed in {
        "itself": image,
        "mirrored": image[:, :, ::-1],
        "upside down": image[:, ::-1],
        "half the size": image[:, ::2, ::2],
        "darker": (image * 0.7).astype(np.uint8),
        "16 bit": image.astype(np.uint16) * 257,
        "noisy": (image + np.random.default_rng(0).normal(scale=3, size=image.shape)).clip(0, 255).astype(np.uint8),
    }.items():
        assert correlation(image, changed) > SAME_PICTURE, name
    assert correlation(image, as_scan(picture(6, (240, 336)))) < 0.6


def test_a_volume_is_known_by_its_middle_slice() -> None:
    volume = np.random.default_rng(0).normal(size=(1, 5, 60, 80)).cumsum(axis=-1)
    assert np.array_equal(fingerprint(volume), fingerprint(volume[:, 2]))


def test_the_two_leaks_of_rossa_are_found_and_no_others() -> None:
    root = shared_data("rossa_octa")
    card = load_card("rossa_octa")
    cases = find_cases(card, root)
    split = make_split(card, cases, SplitConfig(), 0)
    prints = {case.key: fingerprint(read_scan(card, case).pixels) for case in cases}
    with pytest.raises(LeakError) as caught:
        guard(split, prints)
    assert str(caught.value).count("show the same picture") == 2
    for pair in ("train case 42_U_0_42 and validation case 168_U_0_168", "train case 68_U_0_68 and validation case 131_U_0_131"):
        assert pair in str(caught.value)
    kept = guard(split, prints, near_duplicates="drop_from_train")
    assert {k.image for k in split.train} - {k.image for k in kept.train} == {"42", "68"}


@pytest.mark.parametrize(("name", "folder"), [("chase_db1", "chase_db1"), ("hrf", "hrf_half")])
def test_no_false_alarm_on_photographs_of_different_people(name: str, folder: str) -> None:
    root = shared_data(folder)
    card = load_card(name)
    cases = find_cases(card, root)
    prints = [fingerprint(read_scan(card, case).pixels) for case in cases]
    found = {(i, j) for i, j, _ in same_pictures(prints, prints) if i < j}
    assert not found
    assert guard(make_split(card, cases, SplitConfig(), 0), {c.key: p for c, p in zip(cases, prints, strict=True)})

"""Who is who in a card's cases: eyes in names, one name for everybody, and what a training says of it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.cards.card import CardCase, DataCard, parse_card
from pipeline.cards.check import check_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.people import check_people
from pipeline.datasets.splits import SplitConfig
from pipeline.errors import CardError
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from tests.scans.make import dicom, ramp, saved

CARD = """---
name: eyes
title: drawn
modality: fundus
identifiers: {identifiers}
licence: none
citation: none
source: drawn
how_to_get: drawn
classes:
  - {{name: vessel, colour: [86, 180, 233]}}
images: {{file: "{pattern}"}}
---
"""


def _cases(
    root: Path, names: list[str], pattern: str = "{name}.png", identifiers: str = "public", table: str = ""
) -> tuple[DataCard, list[CardCase]]:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, ramp(6, 11) + np.uint8(number))
    card = parse_card(CARD.format(identifiers=identifiers, pattern=pattern).replace("}\n---", f"{table}}}\n---"))
    return card, find_cases(card, root, pseudonyms=Pseudonyms(b"site"))


@pytest.mark.parametrize("identifiers", ["public", "private"])
@pytest.mark.parametrize(
    ("right", "left"), [("OD", "OS"), ("_OD", "_OI"), ("_RE", "_LE"), ("-right", "-left"), ("_D", "_G"), ("R", "L"), ("_droit", "_gauche")]
)
def test_both_eyes_in_the_names_are_one_patient(right: str, left: str, identifiers: str, tmp_path: Path) -> None:
    names = [f"RET{number:03}{side}.png" for number in (2, 4, 5) for side in (right, left)]
    card, cases = _cases(tmp_path, names, identifiers=identifiers)
    assert Counter(case.key.eye for case in cases) == {"R": 3, "L": 3}
    assert sorted(Counter(case.key.patient for case in cases).values()) == [2, 2, 2]
    assert {case.image.name for case in cases if case.key.eye == "R"} == {name for name in names if right + "." in name}
    check_people(card, cases, SplitConfig())


def test_people_whose_names_differ_in_a_letter_that_no_file_name_keeps_are_different_people(tmp_path: Path) -> None:
    long = "x" * 70
    people = ["Muller", "Müller", "M-ller", "José", "Jose", "Jos", "김", "李", "a+b", "a-b", f"{long}1", f"{long}2"]
    _, cases = _cases(tmp_path, [f"{name}/{number}.png" for number, name in enumerate(people)], "{patient}/{name}.png")
    of = {case.image.parent.name: case.key.patient for case in cases}
    assert len(set(of.values())) == len(people)
    assert (of["Muller"], of["a-b"]) == ("Muller", "a-b")
    decomposed = unicodedata.normalize("NFD", "Müller")
    _, (again, same) = _cases(tmp_path / "again", ["Müller/1.png", f"{decomposed}/2.png"], "{patient}/{name}.png")
    assert again.key.patient == same.key.patient == of["Müller"], "one name, whichever others are there and whoever wrote it"


def test_the_names_of_a_public_set_with_eyes_glued_to_numbers(tmp_path: Path) -> None:
    _, cases = _cases(tmp_path, [f"images/RET{number}{eye}.png" for number in ("002", "004") for eye in ("OD", "OS")], "images/{name}.png")
    assert {(case.key.patient, case.key.eye) for case in cases} == {("RET002", "R"), ("RET002", "L"), ("RET004", "R"), ("RET004", "L")}


@pytest.mark.parametrize(("one", "two", "field"), [("_r", "_l", "eye"), ("_1", "_2", "shot"), ("a", "b", "shot")])
@pytest.mark.parametrize("identifiers", ["public", "private"])
def test_names_in_pairs_that_are_not_understood_stop_a_training(one: str, two: str, field: str, identifiers: str, tmp_path: Path) -> None:
    names = [f"img{number:02}{side}.png" for number in (7, 8, 9) for side in (one, two)]
    card, cases = _cases(tmp_path, names, identifiers=identifiers)
    with pytest.raises(CardError, match=rf"are these two eyes.*\{{{field}:") as asked:
        check_people(card, cases, SplitConfig())
    assert ("img07" in str(asked.value)) == (identifiers == "public")
    assert (str(cases[0].key) in str(asked.value) or "img" in str(asked.value)) is True
    assert any("are these two eyes" in problem.message for problem in check_card(card, tmp_path))
    # Both answers that the question names settle it.
    letters = f"{one.strip('_')}|{two.strip('_')}"
    joint = "_" if one.startswith("_") else ""
    for pattern, patients in ((f"{{patient}}{joint}{{{field}:{letters}}}.png", 3), ("{patient}.png", 6)):
        card = parse_card(CARD.format(identifiers=identifiers, pattern=pattern))
        cases = find_cases(card, tmp_path, pseudonyms=Pseudonyms(b"site"))
        check_people(card, cases, SplitConfig())
        assert len({case.key.patient for case in cases}) == patients


@pytest.mark.parametrize(
    ("names", "pattern", "why"),
    [
        ([f"all/{n}.png" for n in range(6)], "{path}.png", "below one folder"),
        ([f"{n}_x.png" for n in range(6)], "{name:\\\\d}_{patient}.png", "one value throughout"),
        (["left.png", "x_left.png"], "{patient:x}{name:_left}.png", None),
    ],
)
def test_everybody_under_one_name_is_refused_with_the_remedy(names: list[str], pattern: str, why: str | None, tmp_path: Path) -> None:
    card, cases = _cases(tmp_path, names, pattern)
    if why is None:
        check_people(card, cases, SplitConfig())  # one image is one patient
        return
    with pytest.raises(CardError, match=why) as refused:
        check_people(card, cases, SplitConfig())
    assert "{patient}" in str(refused.value)
    assert any(why in problem.message for problem in check_card(card, tmp_path))
    check_people(card, cases, SplitConfig(validation=0, test=0, source="random"))  # nothing is parted, so nothing can leak


def test_one_patient_id_in_all_tags_is_refused_and_a_placeholder_leaves_it_to_the_names(tmp_path: Path) -> None:
    for patient_id, why in (("DEMO-1", "Patient ID"), ("ANONYMOUS", None)):
        root = tmp_path / patient_id
        root.mkdir()
        for number in range(6):
            saved(dicom(ramp(6, 11) + np.uint8(number), PatientID=patient_id, ImageLaterality="R"), root / f"p{number}.dcm")
        card, cases = _cases(root, [], "{name}.dcm", "private")
        if why is None:
            assert len({case.key.patient for case in cases}) == 6
            check_people(card, cases, SplitConfig())
            continue
        with pytest.raises(CardError, match=why):
            check_people(card, cases, SplitConfig())
        card, cases = _cases(root, [], "{patient}.dcm", "private")  # the remedy
        check_people(card, cases, SplitConfig())


def test_one_patient_among_many_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"P{n:02}/a.png" for n in range(3)] + [f"shared/{n:02}.png" for n in range(21)]
    card, cases = _cases(tmp_path, names, "{path}.png")
    check_people(card, cases, SplitConfig())
    assert "patient shared holds 21 of 24 images" in caplog.text


def test_folders_of_eyes_and_dates_are_no_patients_of_a_card(tmp_path: Path) -> None:
    names = [f"{eye}/P{n}.png" for eye in ("OD", "OS") for n in range(3)] + [f"2024-01-0{n}/P{n}.png" for n in (1, 2)]
    _, cases = _cases(tmp_path, names, "{path}.png")
    assert Counter((case.key.patient, case.key.eye) for case in cases if case.key.visit == "0") == {
        (f"P{n}", eye): 1 for n in range(3) for eye in "RL"
    }
    assert {(case.key.patient, case.key.visit) for case in cases if case.key.visit != "0"} == {("P1", "20240101"), ("P2", "20240102")}


def test_an_eye_column_that_is_not_understood_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list.csv").write_text("image,patient,eye\n" + "".join(f"{n}.png,P{n},{n % 2}\n" for n in range(4)))
    _, cases = _cases(tmp_path, [f"{n}.png" for n in range(4)], "{image}", table=", table: list.csv")
    assert {case.key.eye for case in cases} == {"U"}
    assert "of 4 images the field {eye} is not understood (0, 1)" in caplog.text


def test_an_extension_in_capitals_is_pointed_out(tmp_path: Path) -> None:
    write_png(tmp_path / "a_R.PNG", ramp(6, 11))
    card = parse_card(CARD.format(identifiers="public", pattern="{name}.png"))
    assert "'a_R.PNG' would but for upper and lower case" in check_card(card, tmp_path)[0].message

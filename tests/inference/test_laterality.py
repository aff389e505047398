"""Which eye a picture shows: a side that nobody stated is taken from it, a conflict is told and nothing is changed."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.inference.answers import Answer
from pipeline.inference.laterality import with_side
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Laterality, Scan

EYES = LabelMap((LabelClass(1, "OD", (0, 0, 255), role="right_eye"), LabelClass(2, "OS", (255, 0, 0), role="left_eye")))


def answer(right: float, label_map: LabelMap = EYES) -> Answer:
    return Answer("eyes", label_map, np.array([right, 1 - right], np.float32), (0.7, 0.7), "b")


def scan(side: Laterality | None) -> Scan:
    geometry = Geometry((4, 6), laterality=side, laterality_source="unknown" if side is None else "filename")
    return Scan(np.zeros((1, 4, 6), np.uint8), geometry, "fundus", CaseKey("p", "U", "1", "i"), "0" * 64)


def test_a_side_that_nobody_stated_is_the_one_found_in_the_picture() -> None:
    found, warnings = with_side(scan(None), (answer(0.1),))
    assert (found.geometry.laterality, found.geometry.laterality_source, warnings) == ("L", "picture", ())


def test_a_conflict_is_told_and_what_is_stated_stays() -> None:
    found, (warning,) = with_side(scan("L"), (answer(0.9),))
    assert (found.geometry.laterality, found.geometry.laterality_source) == ("L", "filename")
    assert warning == (
        "the picture shows a right eye (eyes, probability 0.90), but a left one is stated (by the file's name); look which it is"
    )


def test_models_that_disagree_are_told() -> None:
    found, (warning,) = with_side(scan(None), (answer(0.9), answer(0.2)))
    assert (found.geometry.laterality, found.geometry.laterality_source) == ("R", "picture")
    assert "shows a left eye (eyes, probability 0.80), but a right one is stated (by another model)" in warning


@pytest.mark.parametrize("own", [answer(0.6), answer(0.9, EYES.renamed({"OD": "x"}).only(["x", "OS"]))])
def test_an_unsure_answer_changes_nothing_and_roles_count_not_names(own: Answer) -> None:
    found, warnings = with_side(scan(None), (own,))
    assert found.geometry.laterality == (None if own.answer is None else "R")
    assert not warnings


def test_a_probability_just_below_the_threshold_is_no_answer() -> None:
    below, above = np.nextafter(np.float32(0.8), np.float32(0)), np.float32(0.8)
    least = (float(below) + float(above)) / 2  # as validation chooses it; in float32 it would be one of the two
    chances = (np.array([chance, 1 - chance], np.float32) for chance in (below, above))
    assert [Answer("eyes", EYES, own, (least, least), "b").answer for own in chances] == [None, "OD"]


def test_an_answer_about_something_else_says_nothing_of_the_side() -> None:
    other = LabelMap((LabelClass(1, "good", (0, 0, 255)), LabelClass(2, "poor", (255, 0, 0))))
    assert with_side(scan(None), (answer(0.9, other),))[0].geometry.laterality is None

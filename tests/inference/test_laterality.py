"""Which eye a picture shows: a side that nobody stated is taken from it, a conflict is told and nothing is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.inference.answers import Answer
from pipeline.inference.assess import assess
from pipeline.inference.case_files import CaseResult, write_case
from pipeline.inference.laterality import doubt_side, with_side, with_sides
from pipeline.inference.measured_case import measured_case
from pipeline.measurements.by_role import measure_case
from pipeline.quality.judge import FOVEA_SCORE, FOVEA_UNSEEN
from pipeline.scans.originals import Other
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Laterality, Scan
from pipeline.types.assessment import FlagRecord, QualityRecord
from pipeline.types.case_record import CaseRecord
from tests.quality.drawn import SIDE, circle, fundus

EYES = LabelMap((LabelClass(1, "OD", (0, 0, 255), role="right_eye"), LabelClass(2, "OS", (255, 0, 0), role="left_eye")))


def answer(right: float, label_map: LabelMap = EYES) -> Answer:
    return Answer("eyes", label_map, np.array([right, 1 - right], np.float32), (0.7, 0.7), "b")


def scan(side: Laterality | None) -> Scan:
    geometry = Geometry((4, 6), laterality=side, laterality_source="unknown" if side is None else "filename")
    return Scan(np.zeros((1, 4, 6), np.uint8), geometry, "fundus", CaseKey("p", "U", "1", "i"), "0" * 64)


def test_a_side_that_nobody_stated_is_the_one_found_in_the_picture() -> None:
    found, flags = with_side(scan(None), (answer(0.1),))
    assert (found.geometry.laterality, found.geometry.laterality_source, flags) == ("L", "picture", ())


def test_a_conflict_is_told_and_what_is_stated_stays() -> None:
    found, (flag,) = with_side(scan("L"), (answer(0.9),))
    assert (found.geometry.laterality, found.geometry.laterality_source) == ("L", "filename")
    assert (flag.code, flag.withholds) == ("side_conflict", False)
    assert flag.text == (
        "the picture looks like OD, a right eye (eyes, probability 0.90), but the file's name says OS, a left eye; look which it is"
    )


def test_models_that_disagree_are_told() -> None:
    found, (flag,) = with_side(scan(None), (answer(0.9), answer(0.2)))
    assert (found.geometry.laterality, found.geometry.laterality_source) == ("R", "picture")
    assert "looks like OS, a left eye (eyes, probability 0.80), but another model says OD, a right eye" in flag.text


@pytest.mark.parametrize("own", [answer(0.6), answer(0.9, EYES.renamed({"OD": "x"}).only(["x", "OS"]))])
def test_an_unsure_answer_changes_nothing_and_roles_count_not_names(own: Answer) -> None:
    found, flags = with_side(scan(None), (own,))
    assert found.geometry.laterality == (None if own.answer is None else "R")
    assert not flags


def test_a_probability_just_below_the_threshold_is_no_answer() -> None:
    below, above = np.nextafter(np.float32(0.8), np.float32(0)), np.float32(0.8)
    least = (float(below) + float(above)) / 2  # as validation chooses it; in float32 it would be one of the two
    chances = (np.array([chance, 1 - chance], np.float32) for chance in (below, above))
    assert [Answer("eyes", EYES, own, (least, least), "b").answer for own in chances] == [None, "OD"]


def test_an_answer_about_something_else_says_nothing_of_the_side() -> None:
    other = LabelMap((LabelClass(1, "good", (0, 0, 255)), LabelClass(2, "poor", (255, 0, 0))))
    assert with_side(scan(None), (answer(0.9, other),))[0].geometry.laterality is None


DISC = LabelMap((LabelClass(1, "disc", (0, 158, 115), role="optic_disc"),))


def photographed(side: Laterality | None, x: float, y: float = 0.0, diameter: float = 0.14, source: str = "tag") -> CaseResult:
    """A round field of 200 px with a disc at (x, y) from its centre, in diameters of the field: what the tag says, what is found."""
    down, across = np.mgrid[:240, :260] - np.array([120, 130])[:, None, None]
    field = np.hypot(down, across) <= 100
    disc = np.hypot(down - 200 * y, across - 200 * x) <= 100 * diameter
    geometry = Geometry((240, 260), laterality=side, laterality_source="unknown" if side is None else source)  # type: ignore[arg-type]
    pixels = np.where(field, np.array([180, 90, 50])[:, None, None], 0).astype(np.uint8)
    own = Scan(pixels, geometry, "fundus", CaseKey("p", side or "U", "1", "i"), "0" * 64)
    return CaseResult(own, str(own.case), DISC, disc.astype(np.uint8), None, (), "b", 0.0)


def flags(result: CaseResult) -> list[tuple[str, str]]:
    return [(flag.code, flag.text) for flag in with_sides(result).assessment.flags]


@pytest.mark.parametrize(("side", "nasal"), [("R", 1), ("L", -1)], ids=["right eye", "left eye"])
def test_a_disc_on_the_wrong_side_is_a_flag_and_nothing_is_changed(side: Laterality, nasal: int) -> None:
    assert flags(photographed(side, 0.3 * nasal)) == []
    wrong = photographed(side, -0.3 * nasal)
    ((code, text),) = flags(wrong)
    shown, told = ("OS", "OD") if side == "R" else ("OD", "OS")
    assert code == "side_conflict"
    assert text.startswith(f"The picture looks like {shown}, ")
    assert text.endswith(".")
    assert f"but the file's header says {told}, " in text
    assert f"the optic disc lies {'left' if side == 'R' else 'right'} of the centre" in text
    assert with_sides(wrong).scan.geometry == wrong.scan.geometry


@pytest.mark.parametrize("nasal", [1, -1])
def test_what_shows_no_side_is_no_conflict(nasal: int) -> None:
    """Centred on the disc, an upper or lower field, no disc by its size, nobody's word to hold against, no disc at all."""
    side: Laterality = "R" if nasal < 0 else "L"
    for silent in (
        photographed(side, 0.08 * nasal),
        photographed(side, 0.3 * nasal, 0.3),
        photographed(side, 0.3 * nasal, diameter=0.03),
        photographed(side, 0.25 * nasal, diameter=0.4),
        photographed(None, 0.3 * nasal),
        photographed(side, 0.3 * nasal, diameter=-1.0),
    ):
        assert flags(silent) == []


def test_one_conflict_is_one_flag_and_a_side_found_in_the_picture_is_not_held_against_it() -> None:
    both = replace(photographed("L", 0.3), answers=(answer(0.9),))
    assert len(flags(both)) == 1
    found = with_sides(replace(photographed(None, -0.3), answers=(answer(0.9),)))
    assert (found.scan.geometry.laterality_source, found.assessment.flags) == ("picture", ())


def test_what_the_reader_doubted_is_a_flag() -> None:
    doubted = photographed("R", 0.3)
    own = replace(doubted, scan=replace(doubted.scan, doubts=(("spacing_conflict", "7 um by one, 14 um by the other"),)))
    assert flags(own) == [("spacing_conflict", "7 um by one, 14 um by the other.")]


def test_a_picture_that_lies_there_under_both_eyes_loses_what_hangs_on_its_side(tmp_path: Path) -> None:
    """Of the same bytes one case is kept: the side in its name is one of two."""
    own = with_sides(photographed("R", 0.3))
    cup = LabelMap((*DISC.classes, LabelClass(2, "cup", (213, 94, 0), role="optic_cup")))
    inner = np.zeros_like(own.mask)
    rows, columns = np.nonzero(own.mask)
    inner[int(rows.mean()) - 5 : int(rows.mean()) + 6, int(columns.mean()) - 5 : int(columns.mean()) + 6] = 1
    result = replace(own, label_map=cup, mask=own.mask + inner)
    rim = measure_case(measured_case(result))
    in_doubt = replace(result, assessment=replace(result.assessment, flags=(FlagRecord(code="side_conflict", text="."),)))
    expected = {one.key: one.value for one in measure_case(measured_case(in_doubt))}
    assert sum(value is None for value in expected.values()) > sum(one.value is None for one in rim)
    (tmp_path / "cases").mkdir()
    quality = QualityRecord(grade="good", reasons=(FOVEA_UNSEEN,), scores={"sharpness": 1.0, FOVEA_SCORE: 0.1})
    write_case(tmp_path, replace(result, assessment=replace(result.assessment, measures=rim, quality=quality)))
    kept = Other("same_content", "t", result.case)
    before = (tmp_path / "cases" / result.case / "case.json").read_bytes()
    for same in ("p_R_2_j", "p_U_2_j"):
        assert doubt_side(tmp_path, kept, same) == ""
    assert (tmp_path / "cases" / result.case / "case.json").read_bytes() == before
    told = [doubt_side(tmp_path, kept, "p_L_2_j") for _ in range(2)]
    assert told == [", there under the name of the other eye; look which eye it is"] * 2
    record = CaseRecord.read(tmp_path / "cases" / result.case)
    assert [flag.code for flag in record.flags] == ["side_conflict"], "once"
    assert {one.key: one.value for one in record.measures} == expected, "as of a side in doubt"
    assert record.quality == QualityRecord(grade="good", reasons=(), scores={"sharpness": 1.0}), "where the fovea is hangs on the side"
    assert doubt_side(tmp_path, Other("same_content", "t", "p_R_9_none"), "p_L_2_j") == told[0], "a slice has no folder yet"


def test_where_the_fovea_is_hangs_on_an_eye_that_is_not_in_doubt() -> None:
    pixels = np.moveaxis(fundus(), -1, 0)
    disc = circle(SIDE / 2, SIDE * 0.3, 0.06 * SIDE).astype(np.uint8)

    def stated(eye: Laterality) -> CaseResult:
        own = Scan(pixels, Geometry((SIDE, SIDE), laterality=eye, laterality_source="tag"), "fundus", CaseKey("p", eye, "1", "i"), "0" * 64)
        return CaseResult(own, str(own.case), DISC, disc, None, (), "b", 0.0)

    sure, contested = stated("L"), stated("R")
    assert FOVEA_SCORE in quality_of(assess(with_sides(sure))).scores
    judged = assess(with_sides(contested))
    assert [flag.code for flag in judged.assessment.flags].count("side_conflict") == 1
    assert FOVEA_SCORE not in quality_of(judged).scores
    assert FOVEA_UNSEEN not in quality_of(judged).reasons
    assert judged.scan.geometry.laterality == "R", "what was stated stays"


def quality_of(result: CaseResult) -> QualityRecord:
    assert result.assessment.quality is not None
    return result.assessment.quality

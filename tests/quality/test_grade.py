"""A good photograph is called good, a spoilt one is called worse the more it is spoilt, and what is none has no grade to measure by."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from pipeline.phantoms.degrade import DEGRADATIONS
from pipeline.phantoms.others import OTHERS
from pipeline.quality.grade import SCALES, photograph_quality
from pipeline.quality.judge import Opinion, judge, with_opinion
from pipeline.quality.scales import GOOD, POOR, USABLE, Scale, grade_of
from pipeline.quality.view import view_of
from pipeline.types import CaseKey, Geometry, LabelMap, Scan
from pipeline.types.assessment import QualityGrade, QualityRecord
from tests.quality.drawn import FIELD, fundus, scan_of

GRADES = get_args(QualityGrade)
NOTHING = LabelMap(())


def graded(picture: np.ndarray) -> QualityRecord:
    return photograph_quality(view_of(np.moveaxis(picture, -1, 0)))


def test_a_good_photograph_is_good_and_nothing_is_said_against_it() -> None:
    record = graded(fundus())
    assert (record.grade, record.reasons) == ("good", ())
    assert {"sharpness", "exposure", "contrast", "haze", "field_of_view", "artefacts", "structure", "kind"} <= set(record.scores)


@pytest.mark.parametrize("what", DEGRADATIONS)
def test_the_more_it_is_spoilt_the_worse_it_is_called(what: str) -> None:
    spoilt = [graded(DEGRADATIONS[what](fundus(), amount, np.random.default_rng(1))) for amount in (0.0, 0.4, 1.0)]
    worst = [min(record.scores.values()) for record in spoilt]
    assert worst == sorted(worst, reverse=True)
    assert worst[2] < USABLE <= GOOD <= worst[0]
    grades = [GRADES.index(record.grade) for record in spoilt]
    assert grades == sorted(grades)
    assert grades[-1] >= GRADES.index("poor")
    assert spoilt[-1].reasons


def test_a_photograph_at_another_size_has_nearly_the_same_scores() -> None:
    double = fundus().repeat(2, axis=0).repeat(2, axis=1)
    small, large = graded(fundus()).scores, graded(double).scores
    assert all(abs(small[name] - large[name]) < 0.15 for name in small if name != "resolution")


def test_mirrored_or_turned_it_is_the_same_photograph() -> None:
    first = graded(fundus())
    for other in (fundus()[:, ::-1], np.rot90(fundus())):
        record = graded(np.ascontiguousarray(other))
        assert record.grade == first.grade
        assert all(abs(record.scores[name] - first.scores[name]) < 0.05 for name in first.scores)


@pytest.mark.parametrize("what", OTHERS)
def test_what_shows_no_retina_is_not_measurable(what: str) -> None:
    record = graded(OTHERS[what](300, 400, np.random.default_rng(0)))
    assert record.grade == "not_measurable"
    assert record.reasons


def test_a_nearly_black_photograph_is_too_dark() -> None:
    record = graded((fundus() * 0.04).astype(np.uint8))
    assert record.grade == "not_measurable"
    assert record.scores["exposure"] < POOR


def test_a_tiny_photograph_has_too_few_pixels() -> None:
    assert graded(np.ascontiguousarray(fundus()[::8, ::8])).grade == "not_measurable"


def test_a_scale_is_linear_between_its_values_whichever_way_it_runs() -> None:
    rising, falling = Scale(10, 8, 6, 4, 0), Scale(0, 2, 4, 6, 10)
    for value, score in ((12, 1), (10, 1), (8, GOOD), (7, 0.625), (6, USABLE), (4, POOR), (2, 0.125), (0, 0), (-3, 0)):
        assert rising.score(value) == pytest.approx(score)
        assert falling.score(10 - value) == pytest.approx(score)
    for scale in SCALES.values():
        values = (scale.best, scale.good, scale.usable, scale.poor, scale.worst)
        assert list(values) in (sorted(values), sorted(values, reverse=True))


def test_the_worst_score_grades() -> None:
    assert [grade_of(score) for score in (1, GOOD, 0.74, USABLE, 0.49, POOR, 0.24, 0)] == [
        "good", "good", "usable", "usable", "poor", "poor", "not_measurable", "not_measurable"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chances", "grade"),
    [
        ({"poor": 0.9, "usable": 0.1, "good": 0.0}, "poor"),
        ({"poor": 0.6, "usable": 0.3, "good": 0.1}, "good"),
        ({"poor": 0.0, "usable": 0.1, "good": 0.9}, "good"),
        ({"fundus": 0.02, "oct": 0.0, "octa": 0.0, "other": 0.98}, "not_measurable"),
        ({"fundus": 0.02, "oct": 0.98, "octa": 0.0, "other": 0.0}, "not_measurable"),
        ({"fundus": 0.9, "oct": 0.0, "octa": 0.0, "other": 0.1}, "good"),
        ({"right": 0.99, "left": 0.01}, "good"),
        ({"poor": 0.99, "fluent": 0.01}, "good"),
    ],
    ids=["poor", "unsure", "good", "no eye", "another kind", "the kind it is", "of something else", "of other classes"],
)
def test_a_network_that_is_sure_can_only_make_it_worse(chances: dict[str, float], grade: str) -> None:
    known = QualityRecord(grade="good", scores={"contrast": 0.9})
    record = with_opinion(known, Opinion(chances), "fundus")
    assert record.grade == grade
    assert bool(record.reasons) == (grade != "good")
    assert with_opinion(known.model_copy(update={"grade": "not_measurable"}), Opinion(chances), "fundus").grade == "not_measurable"


def test_an_empty_picture_of_any_kind_is_not_measurable_and_others_are_not_judged() -> None:
    plane = np.zeros((40, 40, 3), np.uint8)
    assert judge(scan_of(plane, "octa"), NOTHING, np.zeros((40, 40), np.uint8), None)[0].grade == "not_measurable"
    plane[5:20] = 90
    quality, flags = judge(scan_of(plane, "octa"), NOTHING, np.zeros((40, 40), np.uint8), None)
    assert (quality.grade, flags) == ("usable", ())
    assert "not judged" in quality.reasons[0]


def test_the_drawn_field_is_what_is_judged() -> None:
    view = view_of(np.moveaxis(fundus(), -1, 0))
    assert (view.valid == FIELD).mean() > 0.99
    assert view.circle is not None


@pytest.mark.parametrize("modality", ["fundus", "oct", "octa", "unknown"])
@pytest.mark.parametrize(
    "pixels",
    [
        np.full((1, 1, 1), 7, np.uint8),
        np.random.default_rng(0).integers(0, 65536, (3, 2, 300)).astype(np.uint16),
        np.full((1, 30, 40), np.nan, np.float32),
        np.eye(50, dtype=bool)[None],
        np.random.default_rng(0).normal(size=(1, 2, 40, 30)),
    ],
    ids=["one pixel", "a strip of 16 bits", "no numbers", "yes and no", "a volume of floats"],
)
def test_any_picture_gets_a_grade(pixels: np.ndarray, modality: str) -> None:
    scan = Scan(pixels, Geometry(pixels.shape[1:]), modality, CaseKey("a", "U", "v", "i"), "0" * 64)  # type: ignore[arg-type]
    quality, flags = judge(scan, NOTHING, np.zeros(pixels.shape[1:], np.uint8), None)
    assert quality.grade in GRADES
    assert flags == ()

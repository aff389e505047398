"""The fovea is looked for temporally of the disc, and its absence is said without making the picture any worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.quality.fovea import ANGLE, DISTANCE, fovea_in_view
from pipeline.quality.judge import judge
from pipeline.types import Scan
from pipeline.types.quality import QualityRecord
from pipeline.types.scan import Laterality
from tests.quality.drawn import DISC_CUP_VESSEL, FIELD, SIDE, circle, fundus, scan_of, vessels

UNSEEN = "The fovea may lie outside the field of view, by the place and size of the optic disc."


@pytest.mark.parametrize("eye", ["R", "L"])
def test_it_lies_temporally_and_a_little_below(eye: Laterality) -> None:
    """In a picture whose disc lies in the middle, the field is a small circle that is moved about."""
    temporal, angle = (-1 if eye == "R" else 1), np.deg2rad(ANGLE[0])
    row, column = 400 + 60 * DISTANCE[0] * np.sin(angle), 400 + temporal * 60 * DISTANCE[0] * np.cos(angle)

    def chance(y: float, x: float) -> float:
        return fovea_in_view((400, 400), 60, eye, circle(y, x, 70, 800))

    assert chance(row, column) > 0.95
    assert chance(row, 800 - column) == 0
    falling = [chance(row, column + temporal * away) for away in range(0, 181, 20)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 0
    assert chance(row + 20, column) > chance(row - 20 - 40 * np.sin(angle), column)


def judged(column: float, laterality: Laterality | None, disc: float = 0.06) -> QualityRecord:
    scan: Scan = scan_of(fundus())
    source = "unknown" if laterality is None else "user"
    scan = replace(scan, geometry=replace(scan.geometry, laterality=laterality, laterality_source=source))
    layers = np.stack([circle(SIDE / 2, column, disc * SIDE), np.zeros_like(FIELD), vessels()])
    return judge(scan, DISC_CUP_VESSEL, DISC_CUP_VESSEL.mask(layers), None)[0]


def test_a_picture_without_it_says_so_and_keeps_its_grade() -> None:
    seen, unseen, unknown = judged(SIDE * 0.25, "L"), judged(SIDE * 0.25, "R"), judged(SIDE * 0.25, None)
    assert seen.scores["fovea_in_view"] > 0.99
    assert unseen.scores["fovea_in_view"] < 0.05
    assert unseen.reasons == (*seen.reasons, UNSEEN)
    assert unseen.grade == seen.grade == unknown.grade
    assert "fovea_in_view" not in unknown.scores


def test_a_disc_that_cannot_be_one_says_nothing_of_the_fovea() -> None:
    assert "fovea_in_view" not in judged(SIDE * 0.3, "R", disc=0.015).scores

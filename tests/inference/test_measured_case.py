"""Which slice of a volume lies higher follows from the places that a file states, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.inference.measured_case import slices_run
from pipeline.types import CaseKey, Geometry, Modality, Scan
from pipeline.types.quality import FlagRecord, QualityRecord, withheld

AHEAD = np.diag([0.01, 0.004, -0.2, 1.0])
"""Columns to the patient's left, rows into the eye, slices from superior to inferior (LPS)."""


def scan(affine: np.ndarray | None, modality: Modality = "oct") -> Scan:
    geometry = Geometry((3, 4, 5), (0.2, 0.004, 0.01), "tag", affine)
    return Scan(np.zeros((1, 3, 4, 5), np.uint8), geometry, modality, CaseKey("p", "R", "v", "i"), "0" * 64)


@pytest.mark.parametrize(
    ("affine", "run"),
    [
        (AHEAD, "down"),
        (AHEAD * [1, 1, -1, 1], "up"),
        (AHEAD * [-1, 1, 1, 1], "unknown"),  # columns to the right: no photograph shows the eye so
        (AHEAD * [1, -1, 1, 1], "unknown"),  # A-scans out of the eye
        (AHEAD[:, [0, 2, 1, 3]], "unknown"),  # A-scans downwards
        (None, "unknown"),
    ],
    ids=["down", "up", "mirrored", "from below", "head", "no places"],
)
def test_slices_run_as_their_places_say(affine: np.ndarray | None, run: str) -> None:
    assert slices_run(scan(affine)) == run
    assert slices_run(scan(affine, "octa")) == "unknown"


def test_the_weightiest_reason_withholds_a_class_and_a_flag_without_classes_all() -> None:
    form = QualityRecord(grade="not_measurable", reasons=("a form", "dark"))
    two, look = FlagRecord(code="two", text="two discs", withholds=True, classes=("disc",)), FlagRecord(code="look", text="look")
    other = FlagRecord(code="other", text="mirrored", withholds=True)
    assert withheld(form, (two,), ("disc", "cup")) == {"disc": "a form", "cup": "a form"}
    assert withheld(None, (look, two), ("disc", "cup")) == {"disc": "two discs"}
    assert withheld(QualityRecord(grade="poor", reasons=("dark",)), (two, other), ("disc", "cup")) == {
        "disc": "two discs",
        "cup": "mirrored",
    }
    assert withheld(None, (look,), ("disc", "cup")) == {}

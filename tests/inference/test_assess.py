"""What is judged of a case whose disc is a box and no mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.inference.assess import assess
from pipeline.inference.case_files import CaseResult
from pipeline.inference.object_files import FoundObject, FoundObjects
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.array import scan_of_array
from pipeline.types import LabelClass, LabelMap

DISC = LabelMap((LabelClass(1, "papilla", (0, 114, 178), role="optic_disc"),))


@pytest.fixture(scope="module")
def boxed() -> CaseResult:
    """A drawn eye, and the box around its disc."""
    eye = draw_fundus(7, "R", (320, 352), severity=0.0)
    rows, columns = (np.flatnonzero(eye.masks["disc"].any(axis=axis)) for axis in (1, 0))
    box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    scan = scan_of_array(eye.image, "fundus", None)
    found = FoundObjects((FoundObject(0, 1, 0.9, box, None),), False, {"papilla": 0.5})
    return CaseResult(scan, str(scan.case), DISC, np.zeros(scan.geometry.shape, np.uint8), None, (), "b", 0.0, found)


def codes(result: CaseResult) -> set[str]:
    return {flag.code for flag in assess(result).assessment.flags}


def test_a_disc_that_is_a_box_is_there(boxed: CaseResult) -> None:
    assert codes(boxed) == set()


def test_a_box_below_its_threshold_is_no_disc_and_one_as_large_as_the_field_none_either(boxed: CaseResult) -> None:
    assert boxed.found is not None
    assert codes(replace(boxed, found=replace(boxed.found, thresholds={"papilla": 0.95}))) == {"disc_missing"}
    wide = replace(boxed.found.objects[0], box=(20.0, 20.0, 330.0, 300.0))
    assert "disc_size" in codes(replace(boxed, found=replace(boxed.found, objects=(wide,))))

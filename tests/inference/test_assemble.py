"""What several networks found of one scan is one case, whichever of them comes first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.inference.answers import Answer
from pipeline.inference.assemble import merge
from pipeline.inference.assess import assess
from pipeline.inference.case_files import CaseResult
from pipeline.inference.model_set import PreparedCase
from pipeline.measurements.surfaces import find_surfaces, together
from pipeline.scans.array import scan_of_array
from pipeline.types import LabelClass, LabelMap

LAYERS = LabelMap(
    (
        LabelClass(1, "upper", (0, 114, 178), role="layer"),
        LabelClass(2, "lower", (230, 159, 0), role="layer"),
    ),
    layered=("upper", "lower"),
)
GRADES = LabelMap((LabelClass(1, "wet", (0, 0, 0)), LabelClass(2, "dry", (9, 9, 9))))


@pytest.mark.parametrize("layers_first", [True, False])
def test_the_thickness_of_layers_is_kept_beside_a_network_that_only_answers(layers_first: bool) -> None:
    scan = scan_of_array(np.random.default_rng(0).integers(0, 200, (2, 64, 48), dtype=np.uint8), "oct", (0.2, 0.004, 0.01))
    chances = np.full((2, 2, 64, 48), 0.01, np.float32)
    chances[0, :, 20:30], chances[1, :, 30:50] = 0.98, 0.98
    mask = LAYERS.mask(chances > 0.5).astype(np.uint8)
    found = together([find_surfaces(chances[:, plane], LAYERS) for plane in range(2)])
    layered = CaseResult(scan, str(scan.case), LAYERS, mask, None, (), "layers", 0.0, surfaces=found, leaning=(mask, mask))
    answer = Answer("grade", GRADES, np.array([0.9, 0.1], np.float32), (0.5, 0.5), "grades")
    answering = replace(
        layered, label_map=LabelMap(()), mask=np.zeros_like(mask), bundle_id="grades", surfaces=None, leaning=(), answers=(answer,)
    )
    results = [layered, answering] if layers_first else [answering, layered]
    whole = assess(merge(results, PreparedCase(scan, (), (), LAYERS, True)))
    assert whole.surfaces is found
    assert {"thickness_upper", "thickness_lower"} <= {one.key for one in whole.assessment.measures}
    assert whole.found_by == {"upper": "layers", "lower": "layers"}
    assert [one.name for one in whole.answers] == ["grade"]

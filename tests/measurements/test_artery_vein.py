"""A vessel is artery or vein along all of its way, also where the network was in doubt and where it is crossed."""

from __future__ import annotations

import numpy as np

from pipeline.measurements.artery_vein import consistent_trees
from pipeline.metrics.artery_vein import centreline_accuracy
from tests.measurements.drawn import ray, tubes

SHAPE = (120, 160)


def test_segments_take_their_vote_through_a_crossing_and_a_doubtful_branch_follows_its_vessel() -> None:
    """An artery from left to right with a branch, crossed by a vein; the network errs on its last third and is not sure of the branch."""
    trunk, branch, crossing = ray((60.3, 10.0), 0, 140), ray((60.3, 40.0), 60, 50), ray((10.0, 100.4), 92, 100)
    artery, vein = tubes([(trunk, 6.0), (branch, 3.0)], SHAPE), tubes([(crossing, 5.0)], SHAPE)
    columns = np.arange(SHAPE[1])
    lead = artery * 0.8 - (vein & ~artery) * 0.9
    lead = np.where(artery & ~vein & (columns > 125), -0.4, lead)
    only_branch = tubes([(branch, 3.0)], SHAPE) & ~tubes([(trunk, 6.0)], SHAPE)
    lead = np.where(only_branch, -0.05, lead)
    said_artery, said_vein = (artery | vein) & (lead > 0), ((artery | vein) & (lead <= 0)) | (artery & vein)
    before = centreline_accuracy((said_artery, said_vein), (artery, vein), np.ones(SHAPE, dtype=bool))
    found = consistent_trees(said_artery, said_vein, lead)
    after = centreline_accuracy(found, (artery, vein), np.ones(SHAPE, dtype=bool))
    assert before.accuracy is not None
    assert before.accuracy < 0.8
    assert after.accuracy is not None
    assert after.accuracy > 0.97
    np.testing.assert_array_equal(found[0] | found[1], artery | vein)
    assert (found[0] & found[1])[58:63, 98:102].any(), "where they cross, both"
    assert not (found[0] & found[1])[:40].any()


def test_islands_and_empty_masks_stay_as_they_are() -> None:
    dot, nothing = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    dot[5:8, 5:8] = True
    line = tubes([(ray((60.0, 20.0), 10, 110), 4.0)], SHAPE)
    for artery, vein in ((dot, nothing), (nothing, nothing), (dot, line)):
        found = consistent_trees(artery, vein, np.where(dot, -1.0, -0.5))
        np.testing.assert_array_equal(found, (artery, vein))


def test_accuracy_counts_centrelines_that_are_found_and_known() -> None:
    line = np.zeros(SHAPE, dtype=bool)
    line[50, 20:120] = True
    artery, vein = line & (np.arange(160) < 80), line & (np.arange(160) >= 80)
    known = np.ones(SHAPE, dtype=bool)
    known[:, 110:] = False
    found = centreline_accuracy((artery, artery & (np.arange(160) < 30)), (artery, vein), known)
    assert (found.pixels, found.found, found.right) == (90, 60, 50)
    assert centreline_accuracy((~known, ~known), (artery, vein), known).accuracy is None

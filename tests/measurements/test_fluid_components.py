"""A component has one number on all of its slices."""

from __future__ import annotations

import numpy as np

from pipeline.measurements.fluid_components import FluidComponent, find_fluid_components


def test_parts_are_numbered_by_size_through_all_slices() -> None:
    present = np.zeros((4, 6, 9), dtype=bool)
    present[0, 0, 0] = True
    present[3, 5, 0:2] = True
    # Three slices, each a corner away from the one before: one component.
    present[0, 3, 5], present[1, 4, 6], present[2, 3:5, 7] = True, True, True
    numbers, found = find_fluid_components(present)
    assert found == [FluidComponent(1, 4, 0, 2), FluidComponent(2, 2, 3, 3), FluidComponent(3, 1, 0, 0)]
    assert (numbers > 0).tolist() == present.tolist()
    assert [int(numbers[at]) for at in ((0, 3, 5), (1, 4, 6), (2, 3, 7), (2, 4, 7), (3, 5, 1), (0, 0, 0))] == [1, 1, 1, 1, 2, 3]


def test_numbers_go_on_and_nothing_is_no_component() -> None:
    present = np.zeros((2, 3, 4), dtype=bool)
    assert find_fluid_components(present)[1] == []
    assert not find_fluid_components(present)[0].any()
    present[:, 1, 1] = present[0, 1, 3] = True
    numbers, found = find_fluid_components(present, start=8)
    assert [c.number for c in found] == [8, 9]
    assert numbers[1, 1, 1] == 8
    assert numbers[0, 1, 3] == 9

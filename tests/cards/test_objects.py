"""Objects cut to their boxes move as whole masks do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.cards.object_files import from_components
from pipeline.cards.objects import Objects, PackedObjects
from pipeline.datasets.geometric import boxes_of
from pipeline.datasets.normalise import NormaliseConfig, to_working, working_placement
from pipeline.errors import CardError
from pipeline.types import LabelClass, LabelMap, Placement
from tests.datasets.samples import Sample, reference_cut

ROWS, COLUMNS = 50, 71


def lesions(seed: int, label: int = 1) -> Objects:
    """Some components of smoothed noise."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)), 2.5)
    return from_components(noise > 1.3 * noise.std(), label)


def without_masks(objects: Objects) -> Objects:
    return Objects(objects.plane, objects.boxes, objects.labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.booleans(), st.integers(-20, 60), st.integers(-20, 80), st.integers(5, 70), st.integers(5, 90))
def test_a_window_is_what_is_cut_from_whole_masks(seed: int, masks: bool, top: int, left: int, rows: int, columns: int) -> None:
    assume(top + rows > 0 and left + columns > 0 and top < ROWS and left < COLUMNS)
    objects = lesions(seed) if masks else without_masks(lesions(seed))
    target = objects.target()
    image = torch.zeros(1, ROWS, COLUMNS)
    expected = reference_cut(Sample(image, image[0] > -1, target), top, left, rows, columns).target
    found = objects.window(top, left, rows, columns).target()
    assert torch.equal(found.boxes, expected.boxes)  # type: ignore[arg-type]
    assert torch.equal(found.labels, expected.labels)  # type: ignore[arg-type]
    if masks:
        assert torch.equal(found.instance_masks, expected.instance_masks)  # type: ignore[arg-type]
    else:
        assert found.instance_masks is expected.instance_masks is None


@pytest.mark.parametrize(
    "config",
    [
        NormaliseConfig(),
        NormaliseConfig(working_size=(33, 40)),
        NormaliseConfig(working_size=(140, 90)),
        NormaliseConfig(working_diameter_px=64),
        NormaliseConfig(working_diameter_px=173),
    ],
    ids=str,
)
def test_in_the_working_frame_masks_take_the_pixels_of_the_semantic_mask(config: NormaliseConfig) -> None:
    placement = working_placement(np.ones((ROWS, COLUMNS), dtype=bool), config)
    for seed in range(6):
        objects = lesions(seed)
        assert len(objects) > 2
        label_map = LabelMap((LabelClass(1, "lesion", (1, 2, 3)),))
        moved = objects.to_working(placement)
        assert moved.plane == placement.net
        assert np.array_equal(moved.codes(label_map), to_working(objects.codes(label_map).astype(np.int8), placement))
        target = moved.target()
        assert target.instance_masks is not None
        assert torch.equal(boxes_of(target.instance_masks), target.boxes)  # type: ignore[arg-type]
        assert len(moved) <= len(objects)
        bare = without_masks(objects).to_working(placement)
        for box, expected in zip(bare.boxes, placement.boxes_to_net(torch.from_numpy(objects.boxes)), strict=False):
            assert len(bare) < len(objects) or np.array_equal(box, expected.numpy())


def test_what_shrinks_below_a_pixel_is_dropped() -> None:
    placement = Placement((ROWS, COLUMNS), (0, 0, ROWS, COLUMNS), (ROWS // 5, COLUMNS // 5))
    boxes = Objects.make((ROWS, COLUMNS), [(0, 0, 4, 20), (10, 10, 30, 30), (5, 5, 9, 9)], [1, 2, 1])
    assert boxes.to_working(placement).labels.tolist() == [2]
    ellipses = boxes.with_ellipses().to_working(placement)
    assert 2 in ellipses.labels.tolist()
    assert all(mask.any() for mask in ellipses.masks or ())


def test_an_ellipse_fills_pi_quarters_of_its_box_and_touches_its_edges() -> None:
    objects = Objects.make(
        (400, 600), [(100, 50, 300, 350), (10.25, 20.5, 10.5, 20.75), (590.5, 396.2, 600, 400)], [1, 1, 1]
    ).with_ellipses()
    assert objects.masks is not None
    large, point, corner = objects.masks
    assert large.shape == (300, 200)
    assert abs(large.mean() - np.pi / 4) < 0.002
    assert all(edge.any() for edge in (large[0], large[-1], large[:, 0], large[:, -1]))
    assert np.array_equal(large, large[::-1, ::-1])
    assert np.array_equal(large, large[:, ::-1])
    assert (point.shape, point.sum()) == ((1, 1), 1), "however small, it has a pixel"
    assert corner.shape == (4, 10)
    assert objects.boxes[1].tolist() == [10.25, 20.5, 10.5, 20.75], "the box stays as it was labelled"
    again = objects.with_ellipses()
    assert again is objects


def test_an_ellipse_may_be_smaller_than_its_box_by_the_margin_that_boxes_are_drawn_with() -> None:
    objects = Objects.make((400, 600), [(100, 50, 300, 350)], [1])
    (whole,), (smaller,) = objects.with_ellipses().masks or (), objects.with_ellipses(0.9).masks or ()
    assert smaller.shape == whole.shape
    assert not (smaller & ~whole).any()
    assert abs(smaller.sum() / whole.sum() - 0.81) < 0.002
    assert np.flatnonzero(smaller.any(axis=1))[[0, -1]].tolist() == [15, 284]  # of 300 rows the middle 270


def test_packing_loses_nothing_and_unpacks_slice_by_slice() -> None:
    slices = [lesions(1), Objects.make((ROWS, COLUMNS), [], [], ()), Objects.join((ROWS, COLUMNS), [lesions(2, 2), lesions(3)])]
    packed = PackedObjects.pack(slices)
    for index, expected in enumerate(slices):
        found = packed.unpack(index, (ROWS, COLUMNS))
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.labels, expected.labels)
        assert found.masks is not None
        assert expected.masks is not None
        assert len(found.masks) == len(expected.masks)
        assert all(np.array_equal(a, b) for a, b in zip(found.masks, expected.masks, strict=True))
    bare = PackedObjects.pack([without_masks(part) for part in slices]).unpack(0, (ROWS, COLUMNS))
    assert bare.masks is None
    nothing = PackedObjects.pack([slices[1]]).unpack(0, (ROWS, COLUMNS)).target()
    assert (nothing.boxes.shape, nothing.labels.shape, nothing.instance_masks.shape) == ((0, 4), (0,), (0, ROWS, COLUMNS))  # type: ignore[union-attr]


def test_the_union_of_masks_is_the_semantic_mask() -> None:
    classes = (LabelClass(1, "disc", (1, 2, 3)), LabelClass(2, "cup", (3, 2, 1)))
    boxes = Objects.make((6, 8), [(1, 1, 5, 5), (2, 2, 4, 4)], [1, 2], (np.ones((4, 4), bool), np.ones((2, 2), bool)))
    exclusive, overlapping = boxes.codes(LabelMap(classes)), boxes.codes(LabelMap(classes, overlapping=True))
    assert (int((exclusive == 1).sum()), int((exclusive == 2).sum())) == (12, 4)
    assert (int((overlapping == 1).sum()), int((overlapping == 3).sum())) == (12, 4)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((1, 2, float("nan"), 4), "is not finite"),
        ((1, 2, float("inf"), 4), "is not finite"),
        ((5, 5, 5, 9), "has no area"),
        ((5, 9, 8, 9), "has no area"),
        ((9, 5, 7, 9), "has no area"),
        ((50, 10, 74, 20), "reaches outside its image of 71 x 50 pixels"),
        ((-3, 10, 4, 20), "reaches outside"),
        ((80, 10, 90, 20), "reaches outside"),
        ((10, 50, 20, 50.5), "has no area"),
    ],
)
def test_degenerate_boxes_are_refused(box: tuple[float, ...], said: str) -> None:
    good = (1, 1, 5, 5)
    with pytest.raises(CardError, match=f"box 2 .*{said}"):
        Objects.make((ROWS, COLUMNS), [good, box], [1, 1]).checked()


def test_a_box_that_slipped_past_the_edge_is_clipped() -> None:
    slipped = Objects.make((ROWS, COLUMNS), [(-0.5, -1, 10, 20), (60, 40, 71.9, 50.9)], [1, 1]).checked()
    assert slipped.boxes.tolist() == [[0, 0, 10, 20], [60, 40, 71, 50]]

"""Selective search on drawn shapes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.matching import box_overlaps
from pipeline.models.selective_search import Regions, SelectiveSearchConfig, grouped, neighbours, selective_search

SHAPES = [(20, 30, 52, 50), (90, 15, 130, 85), (40, 80, 60, 100)]


def drawn(rows: int = 120, columns: int = 160) -> np.ndarray:
    """Three rectangles of one colour each on grey, uint8 (3, rows, columns)."""
    image = np.full((3, rows, columns), 100, np.uint8)
    for (left, top, right, bottom), colour in zip(SHAPES, ((220, 40, 40), (40, 200, 60), (30, 60, 230)), strict=True):
        image[:, top:bottom, left:right] = np.array(colour)[:, None, None]
    return image


def test_each_drawn_shape_and_the_whole_picture_have_a_box() -> None:
    boxes = selective_search(drawn())
    assert box_overlaps(boxes, SHAPES).max(0).min() > 0.85
    assert box_overlaps(boxes, [(0, 0, 160, 120)]).max() == 1
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= [160, 120, 160, 120]).all()


def test_offset_and_scale_of_the_values_do_not_matter_and_one_image_has_one_answer() -> None:
    image = drawn()
    boxes = selective_search(image)
    np.testing.assert_array_equal(selective_search(image), boxes)
    np.testing.assert_array_equal(selective_search(image.astype(np.float32) * 0.25 - 3), boxes)


def test_boxes_of_a_reduced_picture_are_in_the_pixels_of_the_image() -> None:
    large = drawn().repeat(4, axis=1).repeat(4, axis=2)
    boxes = selective_search(large, SelectiveSearchConfig(side=120))
    assert box_overlaps(boxes, np.array(SHAPES) * 4).max(0).min() > 0.85


def test_the_number_of_boxes_and_their_sides_are_limited() -> None:
    image = drawn() + np.random.default_rng(0).integers(0, 60, (3, 120, 160)).astype(np.uint8)
    boxes = selective_search(image, SelectiveSearchConfig(boxes=15, min_side=20))
    assert len(boxes) == 15
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 20


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels: int) -> None:
    image = np.concatenate([drawn(), drawn()])[:channels]
    assert box_overlaps(selective_search(image), SHAPES).max(0).min() > 0.85


def test_a_picture_of_one_colour_is_one_box() -> None:
    np.testing.assert_array_equal(selective_search(np.full((3, 40, 60), 7, np.uint8)), [(0, 0, 60, 40)])


def stripes() -> tuple[Regions, np.ndarray]:
    """Four stripes, 4, 4, 8 and 16 pixels wide, 2 high; the first two and the last two have a bin in common."""
    labels = np.repeat([0, 1, 2, 3], [4, 4, 8, 16])[None].repeat(2, axis=0)
    bins = np.repeat([3, 3, 7, 7], [4, 4, 8, 16])[None, None].repeat(2, axis=1).astype(np.uint8)
    return Regions.of(labels, bins, np.zeros((1, 2, 32), np.uint8)), neighbours(labels)


def test_similarities_are_those_of_the_paper() -> None:
    regions, edges = stripes()
    np.testing.assert_array_equal(edges, [(0, 1), (1, 2), (2, 3)])
    np.testing.assert_allclose(regions.alike(edges, ("colour",)), [1, 0, 1])
    np.testing.assert_allclose(regions.alike(edges, ("texture",)), [1, 1, 1])
    np.testing.assert_allclose(regions.alike(edges, ("size",)), [1 - 8 / 32, 1 - 12 / 32, 1 - 24 / 32])
    np.testing.assert_allclose(regions.alike(edges, ("fill",)), [1, 1, 1])
    np.testing.assert_allclose(regions.alike(np.array([(0, 3)]), ("fill",)), [1 - (32 - 20) / 32])
    np.testing.assert_allclose(regions.alike(edges, ("colour", "size")), [1.75, 0.625, 1.25])


def test_neighbours_merge_into_a_hierarchy_the_most_similar_first() -> None:
    regions, edges = stripes()
    boxes, levels = grouped(regions, edges, ("colour", "texture", "size", "fill"))
    expected = [(0, 0, 4, 2), (4, 0, 8, 2), (8, 0, 16, 2), (16, 0, 32, 2), (0, 0, 8, 2), (8, 0, 32, 2), (0, 0, 32, 2)]
    np.testing.assert_array_equal(boxes, expected)
    assert levels.tolist() == [1, 1, 1, 1, 2, 2, 3]


def test_counts_of_a_merged_region_are_the_sum_of_its_parts() -> None:
    regions, _ = stripes()
    room = regions.room_for(5)
    room.merge(np.array([(1, 2)]), 4)
    assert room.sizes[4] == 24
    assert room.colours[4][[3, 7]].tolist() == [8, 16]
    assert room.textures[4].sum() == 24


def test_small_regions_tend_to_come_first() -> None:
    noisy = drawn() + np.random.default_rng(0).integers(0, 60, (3, 120, 160)).astype(np.uint8)
    boxes = selective_search(noisy, SelectiveSearchConfig(min_size=20))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    half = len(boxes) // 2
    assert np.median(areas[:half]) < 0.8 * np.median(areas[half:])

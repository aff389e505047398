"""An object on a seam is found exactly once; a lesion of few pixels is found at native scale."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.detector import Detections
from pipeline.tasks.detection import DetectionConfig, DetectionTask
from pipeline.tasks.tiles import Tile, grid, merge
from pipeline.types import Batch, CaseKey, Placement, Prediction
from tests.tasks.blobs import LESIONS, BlobFinder, drawn

ROWS, COLUMNS = 150, 260


def predicted(
    image: Tensor, placement: Placement | None = None, least: int = 1, valid: Tensor | None = None, **settings: object
) -> Prediction:
    task = DetectionTask(DetectionConfig.model_validate(settings), BlobFinder(least), LESIONS)
    size = int(image.shape[-2]), int(image.shape[-1])
    inside = torch.ones(size, dtype=torch.bool) if valid is None else valid
    (prediction,) = task.predict(Batch([image], [inside], [placement or Placement.identity(*size)], [CaseKey("p", "L", "1", "i")]))
    return prediction


@pytest.mark.parametrize(
    ("rows", "columns", "tile", "overlap"),
    [
        (150, 260, (100, 100), 0.2),
        (99, 1000, (100, 100), 0.5),
        (101, 100, (100, 100), 0),
        (40, 30, (64, 64), 0.9),
        (150, 260, (60, 110), 0.2),
    ],
)
def test_tiles_cover_everything_and_share_what_was_asked(rows: int, columns: int, tile: tuple[int, int], overlap: float) -> None:
    covered = torch.zeros(rows, columns, dtype=torch.int64)
    tiles = grid(rows, columns, tile, overlap)
    for part in tiles:
        assert part.of(covered).shape == (part.rows, part.columns) == (min(tile[0], rows), min(tile[1], columns))
        part.of(covered).add_(1)
    assert covered.min() == 1
    lefts = sorted({part.left for part in tiles})
    assert all(after - before <= tile[1] * (1 - overlap) + 1 for before, after in itertools.pairwise(lefts))
    tops = sorted({part.top for part in tiles})
    assert (tops[0], tops[-1] + tiles[0].rows, lefts[-1] + tiles[0].columns) == (0, rows, columns)


# With tiles of 100 pixels that share at least 20 the columns begin at 0, 80 and 160, the rows at 0 and 50.
@pytest.mark.parametrize(
    "box",
    [
        (90, 10, 102, 22),  # cut by the first tile's right edge, whole in the second
        (74, 10, 86, 22),  # cut by the second tile's left edge, whole in the first
        (80, 10, 100, 30),  # exactly the overlap
        (78, 10, 102, 22),  # larger than the overlap: cut in both
        (60, 5, 140, 45),  # far larger: a piece in each
        (10, 60, 250, 90),  # through all three columns of both rows
        (60, 20, 140, 130),  # cut in all four tiles around a corner
        (5, 5, 255, 145),  # larger than any tile, cut by every inner seam
        (0, 0, 12, 12),  # at the image's own edge, which is no seam
        (248, 138, 260, 150),
    ],
)  # fmt: skip
def test_an_object_on_a_seam_is_found_exactly_once(box: tuple[int, int, int, int]) -> None:
    image = drawn(ROWS, COLUMNS, (*box, 1))
    found = predicted(image, tile=100, tile_overlap=0.2)
    assert found.boxes is not None
    assert found.boxes.tolist() == [list(box)]
    assert found.labels is not None
    assert found.labels.tolist() == [1]
    assert found.instance_masks is not None
    np.testing.assert_array_equal(found.instance_masks[0], image[0].numpy() > 0.5)


def test_tiles_find_what_the_whole_image_shows_and_nothing_else() -> None:
    """Blobs of both classes strewn over the image, some side by side, some on seams and corners."""
    generator = np.random.default_rng(3)
    objects = []
    for top in range(2, ROWS - 36, 38):
        for left in range(2, COLUMNS - 36, 38):
            height, width = generator.integers(4, 34, 2)
            objects.append((left, top, left + int(width), top + int(height), int(generator.integers(1, 3))))
    image = drawn(ROWS, COLUMNS, *objects)
    tiled = predicted(image, tile=100, tile_overlap=0.2)
    assert tiled.boxes is not None
    assert tiled.labels is not None
    found = sorted((*map(int, box), label) for box, label in zip(tiled.boxes.tolist(), tiled.labels.tolist(), strict=True))
    assert found == sorted(objects)
    assert len(found) > 15


def test_neighbours_of_another_class_are_not_joined() -> None:
    image = drawn(ROWS, COLUMNS, (60, 10, 89, 30, 1), (91, 10, 130, 30, 2))
    found = predicted(image, tile=100, tile_overlap=0.2)
    assert found.boxes is not None
    assert found.labels is not None
    assert sorted(zip(found.labels.tolist(), found.boxes.tolist(), strict=True)) == [(1, [60, 10, 89, 30]), (2, [91, 10, 130, 30])]


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = torch.tensor(rows).reshape(-1, 5)
    return Detections(table[:, :4], torch.ones(len(rows), dtype=torch.int64), table[:, 4])


LEFT, RIGHT = Tile(0, 0, 60, 100), Tile(0, 80, 60, 100)


def test_boxes_that_are_not_exact_are_still_one_object() -> None:
    """What a network says of a cut object ends a few pixels short of the seam."""
    whole = merge([LEFT, RIGHT], [detections((84, 10, 98.5, 30, 0.9)), detections((5.5, 11, 40, 31, 0.7))], (60, 180))
    assert whole.boxes.tolist() == [[85.5, 11, 120, 31]]
    assert whole.scores.tolist() == pytest.approx([0.7])
    pieces = merge([LEFT, RIGHT], [detections((40, 10, 98.5, 30, 0.9)), detections((1.5, 12, 50, 31, 0.6))], (60, 180))
    assert pieces.boxes.tolist() == [[40, 10, 130, 31]]
    assert pieces.scores.tolist() == pytest.approx([0.9])
    assert pieces.pieces == ((0, 1),)


def test_an_object_that_two_tiles_show_whole_keeps_its_likelier_box() -> None:
    found = merge([LEFT, RIGHT], [detections((83, 10, 95, 30, 0.6)), detections((3.5, 10, 15.5, 30, 0.8))], (60, 180))
    assert found.boxes.tolist() == [[83.5, 10, 95.5, 30]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_within_one_tile_the_networks_own_decision_stands() -> None:
    """Two boxes that overlap by three quarters: the network has kept both, and a tile is no reason to drop one."""
    found = merge([LEFT, RIGHT], [detections((10, 10, 50, 30, 0.9), (12, 10, 54, 30, 0.8)), detections()], (60, 180))
    assert len(found.boxes) == 2


def test_a_large_cut_object_is_not_lost_to_a_small_one_inside_it() -> None:
    found = merge([LEFT, RIGHT], [detections((20, 5, 100, 55, 0.6)), detections((5, 20, 15, 30, 0.9))], (60, 180))
    assert sorted(found.boxes.tolist()) == [[20, 5, 100, 55], [85, 20, 95, 30]]


def test_nothing_found_anywhere_is_an_empty_list() -> None:
    found = predicted(torch.zeros(1, ROWS, COLUMNS), tile=100)
    assert (found.boxes is not None and found.boxes.shape, found.instance_masks is not None and found.instance_masks.shape) == (
        (0, 4),
        (0, ROWS, COLUMNS),
    )


def test_tiles_outside_the_field_of_view_are_not_looked_at() -> None:
    valid = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    valid[:, :40] = True
    task = DetectionTask(DetectionConfig(tile=100, tile_overlap=0.2), BlobFinder(), LESIONS)
    task.predict(Batch([drawn(ROWS, COLUMNS)], [valid], [Placement.identity(ROWS, COLUMNS)], [CaseKey("p", "L", "1", "i")]))
    assert task.network.seen == [(100, 100)] * 2


def test_a_lesion_of_12_pixels_in_a_photograph_of_2000_is_found_at_native_scale_and_lost_when_shrunk() -> None:
    """The finder misses blobs below 8 pixels, as networks do whose finest map has a stride of 4 or 8."""
    lesion = (1193, 700, 1205, 712)
    photograph = drawn(1504, 2000, (*lesion, 1))
    native = predicted(photograph, least=8, tile=512, tile_overlap=0.1)
    assert native.boxes is not None
    assert native.boxes.tolist() == [list(lesion)]
    small = functional.interpolate(photograph[None], size=(376, 500), mode="bilinear", antialias=True)[0]
    placement = Placement(source=(1504, 2000), crop=(0, 0, 1504, 2000), resized=(376, 500))
    shrunk = predicted(small, placement, least=8, tile=512, tile_overlap=0.1)
    assert shrunk.boxes is not None
    assert shrunk.boxes.tolist() == []
    assert len(predicted(small, placement, least=1).boxes) == 1  # type: ignore[arg-type]  # it is there, only too small

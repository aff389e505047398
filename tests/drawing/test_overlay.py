"""Contours lie on the class's inner edge, in its colour and style."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.drawing.overlay import LINE_STYLES, draw_overlay, line_style
from pipeline.types import LabelClass, LabelMap

ONE = LabelMap((LabelClass(1, "vessel", (230, 159, 0)),))
TWO = LabelMap((LabelClass(1, "disc", (0, 158, 115)), LabelClass(2, "cup", (86, 180, 233))), overlapping=True)


def rectangle(rows: int, columns: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    layer = np.zeros((rows, columns), dtype=bool)
    layer[top:bottom, left:right] = True
    return layer


def test_a_solid_contour_is_exactly_the_inner_edge_on_a_dark_halo() -> None:
    image = np.full((40, 60, 3), 17, dtype=np.uint8)
    layer = rectangle(40, 60, 5, 10, 25, 50)
    out = draw_overlay(image, layer[None], ONE, notice=False)
    edge = layer & ~rectangle(40, 60, 6, 11, 24, 49)
    assert (out[edge] == (230, 159, 0)).all()
    halo = rectangle(40, 60, 4, 10, 26, 50) | rectangle(40, 60, 5, 9, 25, 51)  # a pixel at either side, and none across the corners
    halo &= ~edge & ~rectangle(40, 60, 7, 12, 23, 48)
    assert (out[halo] == 2).all()
    assert (out[~edge & ~halo] == 17).all()
    assert (image == 17).all(), "the input is not written to"


def test_no_halo_lies_on_the_contour_of_another_class() -> None:
    disc, cup = rectangle(40, 60, 5, 10, 25, 50), rectangle(40, 60, 6, 11, 24, 49)
    out = draw_overlay(np.full((40, 60, 3), 200, np.uint8), np.stack([disc, cup]), TWO, notice=False)
    assert (out[disc & ~cup] == (0, 158, 115)).all()


def test_width_grows_inwards_and_the_image_border_is_no_contour() -> None:
    image = np.zeros((30, 44, 3), dtype=np.uint8)
    layer = rectangle(30, 44, 0, 0, 20, 44)
    out = draw_overlay(image, layer[None], ONE, width=3, notice=False)
    expected = rectangle(30, 44, 17, 0, 20, 44)
    assert (out.any(axis=2) == expected).all()


def test_fill_blends_towards_the_colour() -> None:
    image = np.full((20, 30, 3), 100, dtype=np.uint8)
    out = draw_overlay(image, rectangle(20, 30, 4, 4, 16, 26)[None], ONE, fill=0.25, notice=False)
    assert tuple(out[10, 15]) == (132, 115, 75)  # 100 * .75 + (230, 159, 0) * .25, halves to even
    assert tuple(out[1, 1]) == (100, 100, 100)


def test_dashes_leave_gaps_on_edges_of_every_direction() -> None:
    image = np.zeros((200, 260, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:200, :260]
    disc = (rows - 100) ** 2 + (columns - 130) ** 2 < 80**2
    out = draw_overlay(image, np.stack([np.zeros_like(disc), disc]), TWO, notice=False)
    drawn = out.any(axis=2)
    edge = draw_overlay(image, disc[None], ONE, notice=False).any(axis=2)
    assert not (drawn & ~edge).any()
    angle = np.degrees(np.arctan2(rows - 100, columns - 130)) % 360
    for start in range(0, 360, 30):
        sector = edge & (angle >= start) & (angle < start + 30)
        assert 0.35 < drawn[sector].mean() < 0.85, f"dash share of 6/10 is lost in the sector from {start} degrees"


def test_every_class_has_its_own_style_until_six() -> None:
    assert len({line_style(i).dashes for i in range(1, 7)}) == len(LINE_STYLES) == 6
    assert line_style(7) == line_style(1)


def test_the_notice_changes_only_the_bottom_left() -> None:
    image = np.full((480, 640, 3), 90, dtype=np.uint8)
    out = draw_overlay(image, np.zeros((1, 480, 640), dtype=bool), ONE)
    assert (out[-20:, :40] == 0).any()
    assert (out[-20:, :200] > 200).any()
    assert (out[:440] == 90).all()
    assert (out[:, 400:] == 90).all()


@pytest.mark.parametrize("shape", [(37, 53), (8, 5), (1, 1)])
def test_small_pictures_are_drawn_too(shape: tuple[int, int]) -> None:
    out = draw_overlay(np.zeros((*shape, 3), dtype=np.uint8), np.ones((2, *shape), dtype=bool), TWO, fill=0.5)
    assert out.shape == (*shape, 3)


def test_what_does_not_belong_together_is_refused() -> None:
    image, layers = np.zeros((10, 12, 3), dtype=np.uint8), np.zeros((1, 10, 12), dtype=bool)
    with pytest.raises(ValueError, match="image must be uint8"):
        draw_overlay(image[..., 0], layers, ONE)
    with pytest.raises(ValueError, match="layers must be bool"):
        draw_overlay(image, layers.transpose(0, 2, 1), ONE)
    with pytest.raises(ValueError, match="layers must be bool"):
        draw_overlay(image, layers, TWO)
    with pytest.raises(ValueError, match="fill"):
        draw_overlay(image, layers, ONE, fill=1.5)


def test_a_box_runs_along_the_inside_of_the_pixels_it_touches() -> None:
    image = np.full((40, 60, 3), 17, dtype=np.uint8)
    boxes = np.array([[10.3, 5, 49.6, 25], [50, 30, 80, 50]], dtype=np.float32)
    out = draw_overlay(image, None, ONE, boxes=boxes, labels=np.array([1, 1]), notice=False)
    edges = rectangle(40, 60, 5, 10, 25, 50) & ~rectangle(40, 60, 6, 11, 24, 49)
    edges |= rectangle(40, 60, 30, 50, 40, 60) & ~rectangle(40, 60, 31, 51, 39, 59)
    assert (out[edges] == (230, 159, 0)).all()
    assert (out[~edges] == 17).all()
    dashed = draw_overlay(image, None, TWO, boxes=boxes[:1], labels=np.array([2]), notice=False)
    drawn = (dashed != 17).any(axis=2)
    assert not (drawn & ~edges).any()
    assert 0.4 < drawn[edges & rectangle(40, 60, 0, 0, 40, 50)].mean() < 0.8


def test_words_say_class_and_score_and_stay_in_the_picture() -> None:
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    boxes, labels = np.array([[100, 80, 160, 120], [270, 2, 298, 30]], dtype=np.float32), np.array([1, 2])
    plain, worded = (
        draw_overlay(image, None, TWO, boxes=boxes, labels=labels, scores=s, notice=False)
        for s in (None, np.array([0.93, 0.5], np.float32))
    )
    rows, columns = np.nonzero((plain != worded).any(axis=2))
    assert rows[columns < 200].max() < 80  # above the first box
    assert rows[columns >= 200].min() >= 30  # below the second, which leaves no room above
    red, green, _ = worded[rows, columns].astype(int).T
    assert (green > red + 90).any()  # letters in the class's colour, their edges softened
    with pytest.raises(ValueError, match="come together"):
        draw_overlay(image, None, TWO, boxes=boxes)
    nothing = draw_overlay(image, None, TWO, boxes=boxes[:0], labels=labels[:0], scores=np.zeros(0, np.float32), notice=False)
    assert (nothing == 90).all()

"""A mask on its grid becomes the source's own pixels, exactly where its box lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pipeline.tasks.paste as paste_module
from pipeline.tasks.paste import blank, paste, probabilities

FULL = torch.ones(1, 28, 28)


def pasted(boxes: list[list[float]], masks: torch.Tensor, size: tuple[int, int] = (40, 70)) -> np.ndarray:
    table = torch.tensor(boxes)
    return paste([(number,) for number in range(len(boxes))], table, masks, size, table)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10, 5, 30, 25], (10, 5, 30, 25)),
        ([10.4, 4.6, 30.4, 24.6], (10, 5, 30, 25)),  # a pixel belongs to a box that holds its centre
        ([10.6, 5.6, 12.6, 6.6], (11, 6, 13, 7)),
        ([-8, -3, 12, 9], (0, 0, 12, 9)),  # past the image's edge
        ([60, 30, 90, 55], (60, 30, 70, 40)),
    ],
)
def test_a_full_mask_fills_its_box_and_nothing_else(box: list[float], expected: tuple[int, int, int, int]) -> None:
    (found,) = pasted([box], FULL)
    left, top, right, bottom = expected
    wanted = np.zeros((40, 70), dtype=bool)
    wanted[top:bottom, left:right] = True
    np.testing.assert_array_equal(found, wanted)


def test_half_a_mask_is_half_a_box_whatever_the_scale() -> None:
    half = torch.zeros(1, 28, 28)
    half[:, :, :14] = 1
    for width in (12, 56, 640):
        (found,) = pasted([[3, 2, 3 + width, 32]], half, (40, 700))
        assert np.argwhere(found).min(0).tolist() == [2, 3]
        assert np.argwhere(found).max(0).tolist() == [31, 2 + width // 2]


def test_a_linear_mask_is_read_off_linearly() -> None:
    """Cell i of 4 holds (i + 1/2) / 4, so the mask at a place is the place's fraction of the box, to the outer half cells."""
    ramp = ((torch.arange(4) + 0.5) / 4).expand(4, 4)
    (found,) = probabilities(ramp[None], torch.tensor([[10.0, 0.0, 90.0, 8.0]]), torch.tensor([[0, 10]]), (8, 80))
    expected = ((torch.arange(80) + 0.5) / 80).clamp(1 / 8, 7 / 8)
    torch.testing.assert_close(found, expected.expand(8, 80), atol=1e-6, rtol=0)


def test_an_object_is_where_any_of_its_pieces_is_but_not_past_its_own_box() -> None:
    boxes = torch.tensor([[5.0, 5.0, 25.0, 20.0], [20.0, 8.0, 60.0, 30.0]])
    (found,) = paste([(0, 1)], boxes, FULL.expand(2, -1, -1), (40, 70), torch.tensor([[5.0, 5.0, 50.0, 30.0]]))
    wanted = np.zeros((40, 70), dtype=bool)
    wanted[5:20, 5:25] = wanted[8:30, 20:50] = True
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("pixels", "padding", "most_groups"), [(2**20, 1.5, 14), (2**22, 8.0, 4), (500, 8.0, 18)])
def test_objects_pasted_together_are_as_each_by_itself(
    monkeypatch: pytest.MonkeyPatch, pixels: int, padding: float, most_groups: int
) -> None:
    random = torch.Generator().manual_seed(0)
    corners, sides = 60 * torch.rand(40, 2, generator=random) - 5, 50 * torch.rand(40, 2, generator=random) ** 2
    boxes, masks = torch.cat([corners, corners + sides], dim=1), torch.rand(40, 28, 28, generator=random)
    alone = np.concatenate([pasted(boxes[number : number + 1].tolist(), masks[number : number + 1]) for number in range(40)])
    groups: list[int] = []
    resample = paste_module.probabilities

    def counted(masks: torch.Tensor, *arguments: Any) -> torch.Tensor:
        groups.append(len(masks))
        return resample(masks, *arguments)

    monkeypatch.setattr(paste_module, "probabilities", counted)
    monkeypatch.setattr(paste_module, "_CPU", paste_module._Limits(pixels, padding))
    np.testing.assert_array_equal(pasted(boxes.tolist(), masks), alone)
    assert alone.any(axis=(1, 2)).sum() > 15
    assert len(groups) <= most_groups, "the device is asked once a group"


def test_torchvision_puts_an_ellipse_at_the_same_place() -> None:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    ellipse = torch.sigmoid(12 * (0.9 - (x**2 + y**2)))[None]
    box = torch.tensor([[12.0, 7.0, 152.0, 107.0]])
    ours = pasted(box.tolist(), ellipse, (120, 170))[0]
    theirs = (paste_masks_in_image(ellipse[:, None], box, (120, 170))[0, 0] >= 0.5).numpy()
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


def test_many_masks_of_a_large_photograph_take_no_memory_to_speak_of() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks = blank((100, 2848, 4288))
    masks[:, 1000:1020, 1000:1020] = True
    assert masks[99, 1019, 1019]
    assert not masks[99, 1020, 1020]
    assert sum(int(mask.sum()) for mask in masks[:50]) == 50 * 20 * 20  # nor where they are only read
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; the arrays' size is 1.2 GB
    assert blank((0, 5, 7)).shape == (0, 5, 7)

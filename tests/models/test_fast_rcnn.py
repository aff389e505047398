"""RoI pooling on a pyramid, by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.fast_rcnn import RoIPool

STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_box_is_pooled_where_it_lies_in_either_precision(precision: torch.dtype) -> None:
    """bfloat16 has no number between 1208 and 1216, and its maps would be looked at a place aside."""
    columns = torch.arange(400.0) - 256  # whole numbers that bfloat16 has
    levels = {"0": columns.expand(1, 1, 40, -1).to(precision)}
    levels |= {str(n): torch.full((1, 1, 160 // s, 1600 // s), 1000.0 * n).to(precision) for n, s in enumerate(STRIDES) if n}
    boxes = torch.tensor([[1213.0, 5, 1269, 61], [1213, 5, 1341, 133]])
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        small, large = RoIPool(STRIDES)(levels, [boxes], [(160, 1600)])
    assert small.dtype == precision
    assert (small[0, 0, 0], small[0, 0, -1]) == (305 - 256, 317 - 256), "cells of 15 / 7 places from place 303 to 317"
    assert (large == 1000).all(), "a box of 128 x 128 pixels is one of stride 8"

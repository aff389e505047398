"""Masks and probabilities as one layer a class, where they lie: on the device of the network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from pipeline.metrics.threshold import DEFAULT_THRESHOLD
from pipeline.types import LabelMap


def foreground_layers(masks: Tensor, label_map: LabelMap) -> Tensor:
    """Masks int64 (...) -> one boolean layer a class (K, ...); ignored pixels are False everywhere."""
    if label_map.overlapping:
        known = masks.clamp(min=0)
        return torch.stack([((known >> (c.index - 1)) & 1).bool() for c in label_map.classes])
    return torch.stack([masks == c.index for c in label_map.classes])


def one_channel_a_class(masks: Tensor, label_map: LabelMap) -> Tensor:
    """Masks int64 (B, [D,] H, W) -> float32 (B, C, [D,] H, W), zeros and ones: K channels if independent, else K + 1, background first."""
    layers = foreground_layers(masks, label_map)
    if not label_map.independent:
        layers = torch.cat([(masks == 0)[None], layers])
    return layers.movedim(0, 1).float().contiguous()


def decide_on_device(probabilities: Tensor, label_map: LabelMap, thresholds: Mapping[str, float]) -> Tensor:
    """:func:`pipeline.metrics.threshold.decide` where the probabilities (K, ...) lie: the same boolean layers (K, ...)."""
    if label_map.independent:
        reached = torch.stack(
            [p >= thresholds.get(name, DEFAULT_THRESHOLD) for p, name in zip(probabilities, label_map.names, strict=True)]
        )
        places = {c.name: c.index - 1 for c in label_map.classes}
        layers = reached.clone()
        for cls in label_map.classes:
            for outer in label_map.around(cls):
                layers[cls.index - 1] &= reached[places[outer]]
        return layers
    # One after the other, as NumPy adds along a first axis: the same sums to the bit.
    background = 1 - reduce(torch.add, probabilities)
    most_probable = torch.cat([background[None], probabilities]).argmax(dim=0)
    return foreground_layers(most_probable, label_map)

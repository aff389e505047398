"""Which places of an image train a detector, drawn from a number of the image's own, and losses that are means over such places.

Neither which process looks at an image nor which others are beside it matters, so that several processes train like one. A place is drawn
by a random key of its own: where rounding adds or drops one elsewhere, the others stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.models.dense import part_of_count


def drawn(wanted: Sequence[tuple[Tensor, int]], seed: int) -> list[Tensor]:
    """Of each mask bool (N) at most so many random places, int64, where it is true."""
    device = wanted[0][0].device
    keys = torch.rand(len(wanted[0][0]), generator=torch.Generator(device).manual_seed(seed), device=device)
    found = []
    for mask, count in wanted:
        places = mask.nonzero().flatten()
        found.append(places[keys[places].topk(min(count, len(places))).indices])
    return found


class BalancedSampler:
    """Stands in for torchvision's ``BalancedPositiveNegativeSampler``: at most ``samples`` places an image, at most the fraction
    ``positive`` of them positive.

    ``seeds``: what is drawn from for each image of the next call. ``positives`` and ``total``: how many places the last call drew.
    """

    def __init__(self, samples: int, positive: float) -> None:
        self.samples, self.positive = samples, positive
        self.seeds: Sequence[int] = ()
        self.positives = self.total = 0

    def __call__(self, matched: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image's places (N), positive from 1 on, negative at 0 and neither at -1: masks uint8 (N) of those drawn."""
        masks: tuple[list[Tensor], list[Tensor]] = [], []
        self.positives = self.total = 0
        for labels, seed in zip(matched, self.seeds, strict=True):
            most = int(self.samples * self.positive)
            found, rest = drawn([(labels >= 1, most), (labels == 0, self.samples)], seed)
            rest = rest[: self.samples - len(found)]
            for mask, places in zip(masks, (found, rest), strict=True):
                mask.append(torch.zeros_like(labels, dtype=torch.uint8).index_fill_(0, places, 1))
            self.positives += len(found)
            self.total += len(found) + len(rest)
        return masks


def over_processes(losses: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Losses that are means over so many places of this process's batch, so that the mean of all processes' gradients is the gradient of
    the mean over the places of all their batches (:func:`part_of_count`)."""
    names = list(losses)
    count = torch.tensor([float(counts[name]) for name in names], device=losses[names[0]].device)
    factors = count / part_of_count(count)
    return {name: losses[name] * factor for name, factor in zip(names, factors, strict=True)}

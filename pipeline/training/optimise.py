"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainConfig


def make_optimizer(network: nn.Module, config: TrainConfig, factors: Mapping[nn.Parameter, float] | None = None) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9. Biases, norms and activation slopes (one dimension) are not decayed.

    ``factors``: of the learning rate of some parameters (:func:`pipeline.training.transfer.rate_factors`), by which :func:`set_rate`
    multiplies it. Parameters of factor 1 are in the first groups.
    """
    known = factors or {}
    trained = [p for p in network.parameters() if p.requires_grad]
    found = {known.get(p, 1.0) for p in trained}
    groups: list[dict[str, Any]] = []
    for factor in sorted(found, key=lambda factor: (factor != 1, -factor)):
        own = [p for p in trained if known.get(p, 1.0) == factor]
        groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": config.weight_decay, "factor": factor})
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "factor": factor})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True, fused=True)


def clip_gradient(parameters: Iterable[nn.Parameter], largest: float | None) -> torch.Tensor:
    """Scale the gradient to a norm of at most ``largest``; returns the norm before, a scalar on the device (nothing waits for it)."""
    if largest is None:
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    return torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its factor."""
    for group in optimizer.param_groups:
        group["rate"] = rate * group["factor"]
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = group["rate"]


def read_rates_from(optimizer: torch.optim.Optimizer, rates: Iterable[torch.Tensor]) -> None:
    """Let AdamW take each group's rate from a number on the device, for steps that are recorded; :func:`set_rate` only notes it then."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["capturable"], group["lr"] = True, rate


def learning_rate(done: float, config: TrainConfig) -> float:
    """The learning rate when the fraction ``done`` (0..1) of the run is over; 0 < rate <= ``config.learning_rate``.

    one_cycle: cosine from 1/25 of the peak up and down to 1/250,000 of it, Smith & Topin, arXiv:1708.07120; cosine: linear warm-up,
    then cosine down to 1/1000; constant: linear warm-up, then the peak.
    """
    peak, warmup = config.learning_rate, config.warmup
    done = min(max(done, 0.0), 1.0)
    if done < warmup:
        risen = done / warmup
        return _cosine(peak / 25, peak, risen) if config.schedule == "one_cycle" else peak * max(risen, 1e-3)
    if config.schedule == "constant":
        return peak
    end = peak / 250_000 if config.schedule == "one_cycle" else peak / 1000
    return _cosine(peak, end, (done - warmup) / (1 - warmup))


def _cosine(first: float, last: float, fraction: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2


def run_fraction(steps: float, seconds: float, minutes: float | None) -> float:
    """The fraction of a run that is over: that of its steps or, with a time limit, that of its time, whichever is larger.

    It never falls, and reaches 1 when steps or time are used up, so the schedule always ends fully annealed. A run with a time limit
    depends on the machine's speed and cannot be repeated bit by bit.
    """
    return min(1.0, max(steps, 0.0 if minutes is None else seconds / (60 * minutes)))


class AveragedWeights:
    """Exponential moving average of a network's weights (buffers are copied): smoother than the last step's, often better.

    The first steps count more (decay (1 + n) / (10 + n) until that exceeds ``decay``), so that the random start is forgotten. All
    weights are averaged by torch's multi-tensor functions. torch's AveragedModel is not used because it keeps its count of steps in a
    tensor, and waits for the device at each step to read it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._weights: list[torch.Tensor] = list(self.network.parameters())
        self._buffers = _by_kind(self.network.buffers())

    def update(self, network: nn.Module) -> None:
        """After a step."""
        self.follow(network, self.next_share())

    def next_share(self) -> float:
        """How much the weights after the next step count in the average."""
        self.steps += 1
        return 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))

    @torch.no_grad()
    def follow(self, network: nn.Module, share: float | torch.Tensor) -> None:
        """Move the average by ``share`` of the way towards the network's weights; a tensor where it changes while the work is recorded."""
        weights: list[torch.Tensor] = list(network.parameters())
        if isinstance(share, torch.Tensor):
            way = list(torch._foreach_sub(weights, self._weights))
            torch._foreach_mul_(way, share)
            torch._foreach_add_(self._weights, way)
        else:
            torch._foreach_lerp_(self._weights, weights, share)
        for own, theirs in zip(self._buffers, _by_kind(network.buffers()), strict=True):
            torch._foreach_copy_(own, theirs)


def _by_kind(tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Tensors of one number format together: torch copies such lists in one call to the device."""
    kinds: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    return list(kinds.values())


@torch.no_grad()
def average_buffers(network: nn.Module) -> None:
    """Give every process of a distributed training the mean of all processes' BatchNorm statistics.

    While training, each process normalises by its own part of the batch (SyncBatchNorm does not exist on a CPU), so with BatchNorm
    two processes of two images do not equal one of four: use instance or group norm where that matters.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    moving = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    # No other buffer differs between processes, and a third of three times a number is not always that number.
    for buffer in (b for module in moving for b in module.buffers(recurse=False) if b.is_floating_point()):
        torch.distributed.all_reduce(buffer)
        buffer /= torch.distributed.get_world_size()

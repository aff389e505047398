"""Losses of the semantic family, by name.

Each takes logits float (B, C, H, W), ``truth`` float (B, C, H, W) of zeros and ones, ``valid`` bool (B, 1, H, W), or the same of
volumes (B, C, D, H, W), and whether the classes are ``independent``; each gives a scalar in float32. Independent classes have one
sigmoid channel each (C = K); exclusive ones share a softmax whose channel 0 is the background (C = K + 1). Pixels outside ``valid``
(outside the field of view, ignored by the annotator, or padding) have no influence and get no gradient.

Plain torch instead of MONAI's: MONAI's losses take no validity mask, and its SoftclDice silently accepts raw logits.

Dice, Tversky and clDice sum over the whole batch before they divide ("batch Dice"). A crop without any foreground then still says
"fewer false positives" through the shared denominator, where Dice per sample gives it a loss of one or zero whatever the
network does; see Isensee et al., nnU-Net, doi:10.1038/s41592-020-01008-z, supplementary note 2.

Under several processes these sums run over all of them, so that two processes with two images each train exactly as one with four.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional

from pipeline.registry import Registry

LOSSES = Registry("task.losses", "pipeline.tasks.losses")

_SMOOTH = 1.0  # pixels; keeps an empty class at a loss of 0 when nothing is predicted, and the gradient finite


def activate(logits: Tensor, independent: bool) -> Tensor:
    """Logits -> probabilities float32 of the same shape."""
    logits = logits.float()
    return logits.sigmoid() if independent else logits.softmax(1)


def _foreground(values: Tensor, independent: bool) -> Tensor:
    return values if independent else values[:, 1:]


def _overlap(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over batch and pixels for each foreground class (K): both, predicted, true."""
    predicted = _foreground(activate(logits, independent), independent) * valid
    truth = _foreground(truth, independent) * valid
    both, guessed, present = _sums(predicted * truth, predicted, truth)
    return both, guessed, present


@LOSSES.add("dice")
def dice(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool) -> Tensor:
    """One minus soft Dice, mean over foreground classes. Milletari et al. 2016, doi:10.1109/3DV.2016.79 (without the squares)."""
    both, predicted, true = _overlap(logits, truth, valid, independent)
    return (1 - (2 * both + _SMOOTH) / (predicted + true + _SMOOTH)).mean()


@LOSSES.add("tversky")
def tversky(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    """One minus the Tversky index; ``beta`` > ``alpha`` weighs a missed pixel above a false one. doi:10.1007/978-3-319-67389-9_44."""
    both, predicted, true = _overlap(logits, truth, valid, independent)
    return (1 - (both + _SMOOTH) / (both + alpha * (predicted - both) + beta * (true - both) + _SMOOTH)).mean()


@LOSSES.add("cross_entropy")
def cross_entropy(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool) -> Tensor:
    """Cross-entropy in nats, mean over valid pixels (and over classes when they are independent)."""
    return _mean(_pixel_cross_entropy(logits, truth, independent), valid)


@LOSSES.add("focal")
def focal(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool, gamma: float = 2.0) -> Tensor:
    """Cross-entropy times (1 - p_true) ** gamma, mean over valid pixels. Lin et al. 2017, doi:10.1109/ICCV.2017.324."""
    surprise = _pixel_cross_entropy(logits, truth, independent)  # -log p_true
    return _mean((1 - torch.exp(-surprise)).clamp(min=0) ** gamma * surprise, valid)


@LOSSES.add("cldice")
def cldice(logits: Tensor, truth: Tensor, valid: Tensor, independent: bool, iterations: int = 5) -> Tensor:
    """One minus soft centreline Dice of tubes, mean over foreground classes.

    Shit et al. 2021, doi:10.1109/CVPR46437.2021.01629. ``iterations`` erosions reach the centreline of tubes up to twice as many
    pixels wide. The skeletons are of probabilities, never of logits.
    """
    predicted = _foreground(activate(logits, independent), independent) * valid
    truth = _foreground(truth, independent).float() * valid
    skeleton = soft_skeleton(predicted, iterations)
    with torch.no_grad():
        true_skeleton = soft_skeleton(truth, iterations)
    inside, length, covered, true_length = _sums(skeleton * truth, skeleton, true_skeleton * predicted, true_skeleton)
    precision = (inside + _SMOOTH) / (length + _SMOOTH)
    sensitivity = (covered + _SMOOTH) / (true_length + _SMOOTH)
    return (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean()


def soft_skeleton(probabilities: Tensor, iterations: int) -> Tensor:
    """Differentiable skeleton of (B, K, H, W) or (B, K, D, H, W) in 0..1 by repeated soft erosion and opening (algorithm 1 of the
    clDice paper)."""
    eroded = probabilities
    skeleton = functional.relu(eroded - _open(eroded))
    for _ in range(iterations):
        eroded = _erode(eroded)
        ridge = functional.relu(eroded - _open(eroded))
        skeleton = skeleton + functional.relu(ridge - skeleton * ridge)
    return skeleton


def _erode(x: Tensor) -> Tensor:
    """The least of each pixel and its neighbours along every axis."""
    return -_largest(-x, cross=True)


def _open(x: Tensor) -> Tensor:
    return _largest(_erode(x), cross=False)


def _largest(x: Tensor, *, cross: bool) -> Tensor:
    """The largest of each pixel and its neighbours: those along the axes alone (``cross``), or the diagonal ones too."""
    pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
    axes = x.ndim - 2
    if not cross:
        return pool(x, 3, 1, 1)
    along = [pool(x, [3 if i == axis else 1 for i in range(axes)], 1, [int(i == axis) for i in range(axes)]) for axis in range(axes)]
    return functools.reduce(torch.maximum, along)


def _pixel_cross_entropy(logits: Tensor, truth: Tensor, independent: bool) -> Tensor:
    """-log p of what is true: (B, K, ...) for independent classes, (B, 1, ...) for exclusive ones."""
    logits = logits.float()
    if independent:
        return functional.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
    return functional.cross_entropy(logits, truth.argmax(1), reduction="none")[:, None]


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid pixels and channels; 0 where there is none."""
    sums = _over_processes(torch.stack([(values * valid).sum(), (valid.sum() * values.shape[1]).to(values.dtype)]))
    return sums[0] / sums[1].clamp(min=1)


def _sums(*maps: Tensor) -> tuple[Tensor, ...]:
    """Each (B, K, ...) summed over batch, pixels and processes -> (K)."""
    return _over_processes(torch.stack([m.sum((0, *range(2, m.ndim))) for m in maps])).unbind()


def _over_processes(sums: Tensor) -> Tensor:
    """The sum over all processes of a distributed training, itself otherwise."""
    if sums.requires_grad and torch.distributed.is_available() and torch.distributed.is_initialized():
        total: Tensor = _SumOverProcesses.apply(sums)
        return total
    return sums


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too.

    Every process then holds the same loss L of the global sums S = sum of S_r. The backward pass gives W dL/dS to each of the W
    processes, and DistributedDataParallel divides by W when it averages: together the exact gradient of L.
    """

    @staticmethod
    def forward(context: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total

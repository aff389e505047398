"""Losses against values worked out by hand, and their promises: masks hide, sums rule, empty targets are sane."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.tasks.losses import LOSSES, activate, soft_skeleton

ALL = LOSSES.names()
SURE = 30.0  # a logit whose sigmoid is 1 to float precision


def loss(name: str, logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None = None, independent: bool = True) -> torch.Tensor:
    if valid is None:
        valid = torch.ones(len(truth), 1, *truth.shape[2:], dtype=torch.bool)
    value: torch.Tensor = LOSSES[name].build(logits, truth, valid, independent)
    return value


def tube(rows: int = 20, columns: int = 31, top: int = 8, width: int = 3) -> torch.Tensor:
    truth = torch.zeros(1, 1, rows, columns)
    truth[..., top : top + width, 2 : columns - 2] = 1
    return truth


def test_the_family_has_the_losses_it_promises() -> None:
    assert {"dice", "cross_entropy", "focal", "cldice", "tversky"} <= set(ALL)


def test_closed_forms() -> None:
    truth = torch.zeros(1, 1, 4, 5)
    truth[0, 0, 0, :4] = 1  # 4 of 20 pixels
    flat = torch.zeros(1, 1, 4, 5)  # probability 1/2 everywhere: both = 2, predicted = 10, true = 4
    assert loss("dice", flat, truth).item() == pytest.approx(1 - (2 * 2 + 1) / (10 + 4 + 1))
    assert loss("tversky", flat, truth).item() == pytest.approx(1 - (2 + 1) / (2 + 0.3 * 8 + 0.7 * 2 + 1))
    assert loss("cross_entropy", flat, truth).item() == pytest.approx(math.log(2))
    assert loss("focal", flat, truth).item() == pytest.approx(math.log(2) / 4)


def test_exclusive_classes_share_a_softmax_and_the_background_is_not_a_class() -> None:
    truth = torch.zeros(1, 3, 2, 3)
    truth[:, 0] = 1
    flat = torch.zeros(1, 3, 2, 3)  # 1/3 each; both foreground classes are absent: predicted = 2 each
    assert loss("cross_entropy", flat, truth, independent=False).item() == pytest.approx(math.log(3))
    assert loss("dice", flat, truth, independent=False).item() == pytest.approx(1 - 1 / (2 + 1))
    assert activate(flat, independent=False).sum(1).allclose(torch.ones(1, 2, 3))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("independent", [True, False])
def test_the_truth_itself_costs_nothing_and_its_opposite_much(name: str, independent: bool) -> None:
    truth = tube()
    if not independent:
        truth = torch.cat([1 - truth, truth], dim=1)
    sure = SURE * (2 * truth - 1)
    assert loss(name, sure, truth, independent=independent).item() == pytest.approx(0, abs=0.02)
    assert loss(name, -sure, truth, independent=independent).item() > 0.9


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_valid_has_no_influence_and_no_gradient(name: str) -> None:
    truth, valid = tube(), torch.ones(1, 1, 20, 31, dtype=torch.bool)
    valid[..., 12:] = False
    logits = torch.randn(1, 1, 20, 31, generator=torch.Generator().manual_seed(0), requires_grad=True)
    changed = torch.where(valid, logits.detach(), -logits.detach() * 3)
    first = loss(name, logits, truth, valid)
    assert first.item() == loss(name, changed, torch.where(valid, truth, 1 - truth), valid).item()
    first.backward()
    assert logits.grad is not None
    assert not logits.grad[~valid].any()
    assert logits.grad[valid].abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_nothing_there_and_nothing_valid_are_finite(name: str) -> None:
    logits = torch.randn(2, 1, 9, 14, generator=torch.Generator().manual_seed(0), requires_grad=True)
    empty = torch.zeros(2, 1, 9, 14)
    assert loss(name, torch.full_like(empty, -SURE), empty).item() == pytest.approx(0, abs=1e-6)
    nothing = loss(name, logits, empty, torch.zeros(2, 1, 9, 14, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_an_empty_crop_still_teaches_that_nothing_is_there() -> None:
    """Why Dice sums over the batch: on its own, an empty crop full of false positives hardly gets a gradient."""
    logits = torch.zeros(2, 1, 64, 96, requires_grad=True)
    truth = torch.zeros(2, 1, 64, 96)
    truth[0, 0, 10:40, 10:40] = 1
    loss("dice", logits, truth).backward()
    assert logits.grad is not None
    together = logits.grad[1].abs().sum().item()
    alone = torch.zeros(1, 1, 64, 96, requires_grad=True)
    (loss("dice", alone, truth[1:]) / 2).backward()
    assert alone.grad is not None
    assert together > 100 * alone.grad.abs().sum().item()


def test_cldice_of_a_broken_tube_tells_what_dice_overlooks() -> None:
    truth = tube(columns=80)
    gap = truth.clone()
    gap[..., 39:41] = 0
    thin = tube(columns=80, top=9, width=1)  # the centreline alone: all of the topology, a third of the pixels
    values = {name: loss("cldice", SURE * (2 * x - 1), truth).item() for name, x in (("gap", gap), ("thin", thin))}
    assert values["thin"] < values["gap"]
    assert loss("dice", SURE * (2 * thin - 1), truth) > loss("dice", SURE * (2 * gap - 1), truth)


def test_the_soft_skeleton_of_a_tube_is_its_centreline() -> None:
    skeleton = soft_skeleton(tube(), 5)
    expected = torch.zeros(20, 31)
    expected[9, 3:-3] = 1
    assert torch.equal(skeleton[0, 0], expected)

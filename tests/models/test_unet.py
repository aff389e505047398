"""The U-Net's own options: attention gates and volumes. What every network promises is asked in test_every_model.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.models.padding import pad_to_multiple
from pipeline.models.unet import AttentionGate, UNetConfig, build


@pytest.mark.parametrize("options", [{}, {"attention_gates": True, "norm": "group", "head_width": 4}, {"residual_units": 0}])
def test_volumes_of_any_size(options: dict[str, Any]) -> None:
    net = build(UNetConfig(widths=(4, 8, 12), dims=3, **options), 1, 2)
    output = net(torch.randn(2, 1, 5, 9, 11))
    assert output.shape == (2, 2, 5, 9, 11)
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_coarser_outputs_of_a_volume_have_its_size_in_training_only() -> None:
    net = build(UNetConfig(widths=(4, 6, 8, 8), dims=3, deep_supervision=2), 1, 2)
    volume = torch.randn(1, 1, 3, 10, 9)
    assert [part.shape for part in net(volume)] == [(1, 2, 3, 10, 9)] * 3
    assert net.eval()(volume).shape == (1, 2, 3, 10, 9)


def test_a_network_for_volumes_says_that_it_was_given_images() -> None:
    with pytest.raises(ConfigError, match=r"dims 3 was given single images: write dims: 2$"):
        build(UNetConfig(widths=(4, 8), dims=3), 1, 2)(torch.zeros(1, 1, 8, 8))


def test_a_gate_is_the_papers_formula() -> None:
    gate = AttentionGate(2, features=2, gating=1)  # one map between
    for parameter in gate.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    features, gating = torch.tensor([[[[3.0]], [[1.0]]]]), torch.tensor([[[[-1.0]]]])
    between = max(0.0, 0.5 * (3 + 1) + 0.5 * -1 + 0.5)  # relu(Wx x + Wg g + b) = 2
    opening = torch.sigmoid(torch.tensor(0.5 * between + 0.5))
    torch.testing.assert_close(gate(features, gating), features * opening)


def test_shut_gates_let_nothing_across() -> None:
    net = build(UNetConfig(widths=(4, 8, 12), attention_gates=True, residual_units=0), 1, 2).eval()
    for gate in net.gates:
        torch.nn.init.zeros_(gate.map.weight)
        torch.nn.init.constant_(gate.map.bias, -100.0)
    seen: list[float] = []
    up = list(net.net.model.children())[2]  # the finest decoder level is given (handed across, from below)
    up.register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0][:, :4].detach().abs().max())))
    net(torch.randn(1, 1, 16, 16))
    assert seen == [0.0]


def test_padding_repeats_the_last_slice_row_and_column() -> None:
    volume = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    padded = pad_to_multiple(volume, 2)
    assert padded.shape == (1, 1, 4, 4, 4)
    assert torch.equal(padded[0, 0, 3], torch.tensor([[0.0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]))


def test_deep_supervision_needs_levels() -> None:
    with pytest.raises(ValidationError, match="at most 1 with 3 widths"):
        UNetConfig(widths=(4, 8, 12), deep_supervision=2)

"""Little W-Net: as few parameters as it says, and the second network sees the first one's answer."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.wnet_little import LittleUNet, LittleWNet, LittleWNetConfig, build


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def tiny(out_channels: int, **settings: object) -> LittleWNet:
    torch.manual_seed(0)
    return LittleWNet(LittleWNetConfig.model_validate({"name": "wnet_little", "widths": (4, 6), **settings}), 3, out_channels)


def test_the_default_has_68114_parameters() -> None:
    net = build(LittleWNetConfig(), 3, 1)
    assert isinstance(net, LittleWNet)
    assert (parameters(net.first), parameters(net.second)) == (34_017, 34_097)
    assert parameters(net) == 68_114 < 100_000


def test_with_a_bias_before_each_normalisation_it_is_as_large_as_the_papers() -> None:
    net = build(LittleWNetConfig(), 3, 1)
    biases = sum(layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3))
    assert parameters(net) + biases == 68_482


@pytest.mark.parametrize(("between", "outputs"), [("sigmoid", 1), ("sigmoid", 2), ("softmax", 3)])
def test_the_second_network_sees_the_image_and_the_firsts_probabilities(between: Literal["sigmoid", "softmax"], outputs: int) -> None:
    net, image = tiny(outputs, between=between), noise(2, 3, 12, 20)
    seen: list[Tensor] = []
    net.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    final, draft = net.train()(image)
    (given,) = seen
    assert given.shape == (2, 3 + outputs, 12, 20)
    torch.testing.assert_close(given[:, :3], image, rtol=0, atol=0)
    odds = draft.exp()
    expected = odds / (1 + odds) if between == "sigmoid" else odds / odds.sum(dim=1, keepdim=True)
    torch.testing.assert_close(given[:, 3:], expected)
    torch.testing.assert_close(net.second(given), final)


def test_the_last_network_answers_first_and_alone_where_nothing_is_learnt() -> None:
    net, image = tiny(1), noise(2, 3, 13, 19)
    answers: dict[str, Tensor] = {}
    net.first.register_forward_hook(lambda *call: answers.update(first=call[2]))
    net.second.register_forward_hook(lambda *call: answers.update(second=call[2]))
    final, draft = net.train()(image)
    torch.testing.assert_close(final, answers["second"][..., :13, :19])
    torch.testing.assert_close(draft, answers["first"][..., :13, :19])
    alone = net.eval()(image)
    assert isinstance(alone, Tensor)
    torch.testing.assert_close(alone, answers["second"][..., :13, :19])
    assert isinstance(tiny(1, deep_supervision=0).train()(image), Tensor)


def test_its_own_loss_apart_the_first_network_learns_from_the_second() -> None:
    net = tiny(1)
    final, _ = net.train()(noise(2, 3, 12, 20))
    final.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.first.parameters())
    assert net.first.head.weight.grad is not None
    assert net.first.head.weight.grad.any()


def test_squares_of_pixels_are_channels_inside_and_pixels_again_outside() -> None:
    net = LittleUNet((4,), 1, 1, unshuffle=2).eval()
    seen: list[Tensor] = []
    net.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.head.register_forward_pre_hook(lambda *_: (torch.eye(4)[:, :, None, None].expand(4, 4, 3, 5)[:1],))
    image = torch.arange(60.0).reshape(1, 1, 6, 10)
    answer = net(image)
    (given,) = seen
    assert given.shape == (1, 4, 3, 5)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(given[0, place], image[0, 0, row::2, column::2])
        assert net.head.bias is not None
        expected = (net.head.weight[place, 0, 0, 0] + net.head.bias[place]).expand(3, 5)
        torch.testing.assert_close(answer[0, 0, row::2, column::2], expected)
    assert tiny(1, unshuffle=2).multiple == 4


def test_softmax_of_one_output_is_refused() -> None:
    with pytest.raises(ConfigError, match="sigmoid"):
        build(LittleWNetConfig(between="softmax"), 3, 1)
    with pytest.raises(ValueError, match="positive"):
        LittleWNetConfig(widths=(8, 0))

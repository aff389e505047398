"""DynUNet, SegResNet and Swin UNETR: volumes, their encoders' stages, and DynUNet against MONAI's own way of calling it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.models.base import MODELS
from pipeline.models.dynunet import DynUNet, DynUNetConfig
from pipeline.models.swin_unetr import SwinUnetrConfig
from pipeline.training.platform import channels_last_suits

TINY: dict[str, dict[str, Any]] = {
    "dynunet": {"widths": (4, 8, 12), "deep_supervision": 1},
    "segresnet": {"width": 4, "blocks": (1, 2, 1)},
    "swin_unetr": {"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "window": 4},
}
EVERY = pytest.mark.parametrize("name", TINY)


def network(name: str, channels: int = 1, **options: Any) -> nn.Module:
    entry = MODELS[name]
    assert entry.config is not None
    net: nn.Module = entry.build(entry.config(name=name, **TINY[name], **options), channels, 2)
    return net


@EVERY
def test_volumes_of_any_size(name: str) -> None:
    net = network(name, dims=3).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 1, 5, 9, 11)).shape == (2, 2, 5, 9, 11)


@EVERY
def test_an_encoders_stages_come_in_the_order_they_are_passed_and_share_nothing(name: str) -> None:
    net = network(name).eval()
    passed: list[int] = []
    stages = net.encoder_stages()
    for number, stage in enumerate(stages):
        for module in stage:
            # Swin's stages are lists of one layer, which are not called themselves.
            called = module[0] if isinstance(module, nn.ModuleList) else module
            called.register_forward_hook(lambda *_, number=number: passed.append(number))
    net(torch.randn(1, 1, 64, 64))
    assert sorted(passed) == passed
    assert set(passed) == set(range(len(stages)))
    held = [id(parameter) for stage in stages for module in stage for parameter in module.parameters()]
    assert len(held) == len(set(held))


def test_dynunet_gives_what_monais_own_way_of_calling_gives() -> None:
    from monai.networks.nets import DynUNet as Theirs

    ours = DynUNet(DynUNetConfig(widths=(4, 6, 8, 10), deep_supervision=2), 1, 2)
    levels = {"kernel_size": (3,) * 4, "strides": (1, 2, 2, 2), "upsample_kernel_size": (2,) * 3, "filters": (4, 6, 8, 10)}
    theirs = Theirs(2, 1, 2, deep_supervision=True, deep_supr_num=2, **levels)
    assert not theirs.load_state_dict(ours.net.state_dict(), strict=False).unexpected_keys
    image = torch.randn(1, 1, 32, 48)
    mine, stacked = ours(image), theirs(image)
    assert stacked.shape == (1, 3, 2, 32, 48)
    assert torch.equal(mine[0], stacked[:, 0])
    for level in (1, 2):  # MONAI repeats the coarse pixels between which ours interpolates
        step = 2**level
        coarse = stacked[:, level, :, ::step, ::step]
        torch.testing.assert_close(mine[level], nn.functional.interpolate(coarse, scale_factor=step, mode="bilinear"))


def test_residual_blocks_of_few_channels_stay_out_of_channels_last_on_a_cpu() -> None:
    assert not channels_last_suits(DynUNet(DynUNetConfig(widths=(4, 8, 12), residual=True), 1, 2), "cpu")
    assert channels_last_suits(DynUNet(DynUNetConfig(widths=(16, 32, 64), residual=True), 1, 2), "cpu")
    assert channels_last_suits(DynUNet(DynUNetConfig(widths=(4, 8, 12)), 1, 2), "cpu")


def test_heads_that_do_not_divide_a_stage_are_refused() -> None:
    with pytest.raises(ValidationError, match="stage 2 has 24 features, which 5 heads must divide"):
        SwinUnetrConfig(width=12, heads=(3, 5, 6, 6))

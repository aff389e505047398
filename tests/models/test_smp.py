"""Decoders and encoders of segmentation-models-pytorch, offline; and the memory format that oneDNN cannot bear."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.smp import Decoder, SmpConfig, build

ENCODER = {"dpt": "tu-test_vit"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def network(decoder: str, encoder: str, channels: int = 1) -> nn.Module:
    return build(SmpConfig(decoder=decoder, encoder=encoder), channels, 2)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # of the libraries' own
@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_every_decoder_takes_any_size_and_learns_in_every_part_that_is_used(decoder: str) -> None:
    net = network(decoder, ENCODER.get(decoder, "tu-test_efficientnet"))
    assert net.training
    for size in ((37, 53), (3, 101)):
        output: Tensor = net(torch.randn(net.min_batch_size, 1, *size))
        assert output.shape == (net.min_batch_size, 2, *size)
    output.square().mean().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.requires_grad and parameter.grad is None] == []


def test_the_decoders_are_the_librarys() -> None:
    import segmentation_models_pytorch as library

    assert set(get_args(Decoder)) == set(library.MODEL_ARCHITECTURES_MAPPING)


def test_a_batch_of_one_is_too_little_where_means_are_normalised() -> None:
    for decoder, min_batch_size in (("unet", 1), ("deeplabv3", 2), ("upernet", 2), ("pan", 2)):
        net = network(decoder, "tu-test_efficientnet")
        assert net.min_batch_size == min_batch_size
        if min_batch_size == 2:
            with pytest.raises(ValueError, match="more than 1 value"):
                net(torch.randn(1, 1, 128, 128))


def test_what_pspnet_leaves_of_an_encoder_has_nothing_to_learn() -> None:
    net = network("pspnet", "resnet18")
    frozen = {key.split(".")[2] for key, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layer3", "layer4"}  # it stops at stride 8


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("resnet81", "model.encoder: unknown 'resnet81'; did you mean 'resnet18'?"),
        ("tu-convnext_tiy", "did you mean 'tu-convnext_tiny'?"),
        ("tu-hf-hub:somebody/net", "model.encoder: unknown 'tu-hf-hub:somebody/net'"),
        ("####", "known are segmentation-models-pytorch's, such as resnet34"),
    ],
)
def test_unknown_encoders_are_refused_with_the_nearest_name(encoder: str, said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        network("unet", encoder)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("decoder", "encoder"), [("deeplabv3", "vgg11"), ("linknet", "mit_b0"), ("dpt", "resnet18"), ("unet", "tu-test_vit")]
)
def test_pairs_that_do_not_go_together_are_refused_in_one_sentence(decoder: str, encoder: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.encoder: {decoder} cannot be built upon {encoder} ") as fault:
        network(decoder, encoder)
    assert "\n" not in str(fault.value)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ConfigError, match=r"^model.name: smp needs the package segmentation-models-pytorch: install ocuseg\[smp\]$"):
        network("unet", "resnet18")


def test_encoders_that_are_not_free_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        network("segformer", "mit_b0")
    assert "mit_b0 is under NVIDIA's licence" in caplog.text


def test_torchvisions_files_and_timms_fill_the_encoder(tmp_path: Path) -> None:
    import timm
    from torchvision.models import resnet18

    for encoder, theirs in (("resnet18", resnet18(weights=None)), ("tu-test_resnet", timm.create_model("test_resnet"))):
        torch.nn.init.constant_(theirs.bn1.bias, 7.0)
        save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
        net = network("unet", encoder, channels=1)
        loaded = net.load_encoder(str(tmp_path / "weights.safetensors"))
        assert set(loaded.skipped) >= {"fc.weight", "fc.bias"}
        assert len(loaded.mismatched) == 1  # the kernel that sees the image, for one channel
        entries = dict(net.net.encoder.named_parameters())
        assert next(bool((value == 7).all()) for key, value in entries.items() if key.endswith("bn1.bias"))


def test_stages_hold_every_parameter_of_the_encoder_once() -> None:
    for encoder in ("resnet18", "mobilenet_v2", "tu-test_efficientnet"):
        net = network("unet", encoder)
        held = [parameter for stage in net.encoder_stages() for module in stage for parameter in module.parameters()]
        assert len(held) == len({id(parameter) for parameter in held}) == len(list(net.net.encoder.parameters()))
        assert len(net.encoder_stages()) > 2

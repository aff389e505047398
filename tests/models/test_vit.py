"""Positions that follow the image, volumes, and torchvision's weights in the vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from pipeline.errors import ConfigError
from pipeline.models.vit import Encoder, Positions, VitConfig, build, resized

TINY: dict[str, Any] = {"image_size": 32, "patch": 8, "width": 24, "layers": 3, "heads": 2, "feedforward": 32, "decoder_width": 4}


def test_at_the_size_trained_on_positions_are_themselves_to_the_bit() -> None:
    for size in ((4, 6), (3, 4, 5)):
        grid = torch.randn(1, 7, *size)
        assert torch.equal(resized(grid, torch.Size(size)), grid)
    positions = Positions(7, (4, 6))
    patches = torch.randn(2, 7, 4, 6)
    assert torch.equal(positions(patches), patches + positions.grid)


def test_between_sizes_positions_keep_their_order() -> None:
    ramp = torch.arange(8.0).reshape(1, 1, 1, 8).expand(1, 1, 4, 8)
    wide = resized(ramp, torch.Size((4, 16)))
    assert torch.equal(wide, wide[:, :, :1].expand_as(wide))  # rows are alike as they were
    assert (wide[0, 0, 0].diff() > 0).all()
    # The centres of half patches, away from the border; torch's cubic kernel (a = -0.75) bends a straight line by less than a tenth.
    torch.testing.assert_close(wide[0, 0, 0, 6:10], torch.tensor([2.75, 3.25, 3.75, 4.25]), atol=0.05, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_weights_work_at_two_sizes(dims: int) -> None:
    net = build(VitConfig(dims=dims, **TINY), 1, 2).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for sides in ((32, 32, 32), (45, 33, 19)):
            output = net(torch.randn(1, 1, *sides[:dims]))
            assert output.shape == (1, 2, *sides[:dims])
            assert torch.isfinite(output).all()


def test_without_positions_a_shift_by_patches_shifts_the_tokens_and_with_them_it_does_not() -> None:
    net = Encoder(VitConfig(**TINY), 1).eval()
    image = torch.randn(1, 1, 32, 32)
    shifted = image.roll(8, dims=3)
    with torch.no_grad():
        assert not torch.allclose(net(image)[-1].roll(1, dims=3), net(shifted)[-1], atol=1e-3)
        net.positions.grid.zero_()
        torch.testing.assert_close(net(image)[-1].roll(1, dims=3), net(shifted)[-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("layers", "patch", "taken"), [(12, 16, [3, 6, 9, 12]), (3, 8, [1, 2, 3]), (5, 4, [2, 5])])
def test_the_decoder_is_handed_evenly_spaced_layers(layers: int, patch: int, taken: list[int]) -> None:
    encoder = Encoder(VitConfig(**{**TINY, "layers": layers, "patch": patch}), 1)
    assert encoder.taken == taken
    held = [parameter for stage in encoder.stages() for module in stage for parameter in module.parameters()]
    assert len(held) == len({id(parameter) for parameter in held}) == len(list(encoder.parameters()))


def test_dropout_acts_in_training_only() -> None:
    net = build(VitConfig(**TINY, dropout=0.5), 1, 2)
    image = torch.randn(1, 1, 16, 24)
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_fused_attention_gives_what_the_plain_one_gives() -> None:
    fused, plain = build(VitConfig(**TINY), 1, 2).eval(), build(VitConfig(**TINY, dropout=0.1), 1, 2).eval()
    plain.load_state_dict(fused.state_dict())
    image = torch.randn(1, 1, 24, 40)
    torch.testing.assert_close(fused(image), plain(image), atol=1e-5, rtol=1e-4)


def test_torchvisions_weights_are_taken_whole(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    theirs = VisionTransformer(image_size=48, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=5).eval()
    torch.nn.init.normal_(theirs.encoder.pos_embedding)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    net = build(VitConfig(**TINY), 1, 2).eval()
    loaded = net.load_encoder(str(tmp_path / "vit.safetensors"))
    assert set(loaded.skipped) == {"class_token", "heads.head.weight", "heads.head.bias"}
    assert set(loaded.mismatched) == {"patches.weight", "positions.grid"}  # one channel instead of three; 4 x 4 patches instead of 6 x 6
    assert len(loaded.loaded) + 2 == len(net.encoder.state_dict())
    tokens, ours = torch.randn(2, 9, 24), net.encoder
    for block, layer in zip(ours.blocks, theirs.encoder.layers, strict=True):
        torch.testing.assert_close(block(tokens), layer(tokens), atol=1e-4, rtol=1e-3)  # epsilon of the layer norms differs
    places = theirs.encoder.pos_embedding[:, 1:].transpose(1, 2).reshape(1, 24, 6, 6)
    assert torch.equal(resized(ours.positions.grid, torch.Size((4, 4))), resized(places, torch.Size((4, 4))))
    grey = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(ours.patches(grey), theirs.conv_proj(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_weights_of_images_are_refused_by_a_network_for_volumes() -> None:
    with pytest.raises(ConfigError, match="of images, not of volumes"):
        build(VitConfig(**TINY, dims=3), 1, 2).load_encoder("imagenet")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"heads": 5}, "width 24 must be a multiple of heads 5"),
        ({"image_size": 36}, "image_size 36 must be a multiple of patch 8"),
        ({"layers": 2}, "the decoder is handed 3 of them"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, int], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        VitConfig(**{**TINY, **settings})

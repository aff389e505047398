"""SegNet: the decoder remembers where each maximum stood.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", TPAMI 2017,
doi:10.1109/TPAMI.2016.2644615, arXiv:1511.00561. Our own code on VGG-16 (vgg.py).

The encoder keeps only the places of its maxima; the decoder puts values back there, zeros elsewhere, and its convolutions fill the
gaps. No feature map is carried across, so it needs little memory beyond the encoder's own.

What differs: convolutions have no bias before their normalisation; ``width`` makes it light (all of the paper's is 29 M parameters);
ImageNet weights are VGG-16's without normalisation, whose statistics the first batches bring.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS, ModelConfig
from pipeline.models.blocks import RELU_KERNELS, begin_as, convolution
from pipeline.models.padding import AnySize
from pipeline.models.vgg import BLOCKS, load_vgg16, scaled_width, vgg16_blocks
from pipeline.models.weights import Loaded


class SegNetConfig(ModelConfig):
    name: Literal["segnet"] = "segnet"
    width: float = Field(1.0, gt=0, le=1, description="fraction of VGG-16's channels, in encoder and decoder; weights: imagenet requires 1")


class SegNet(AnySize):
    """VGG-16's blocks with batch normalisation, and their mirror image with unpooling."""

    multiple = 32

    def __init__(self, config: SegNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Sequential(*block) for block in vgg16_blocks(in_channels, config.width, "batch"))
        widths = [scaled_width(channels, config.width) for channels, _ in BLOCKS]
        blocks = []
        for width, narrower, (_, number) in zip(widths, [widths[0], *widths[:-1]], BLOCKS, strict=True):
            layers = [convolution(width, width) for _ in range(number - 1)] + [convolution(width, narrower)]
            blocks.append(nn.Sequential(*layers))
        blocks[0][-1] = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        self.decoder = nn.ModuleList(blocks)
        begin_as(self, RELU_KERNELS)

    def logits(self, images: Tensor) -> Tensor:
        x, places, sizes = images, [], []
        for block in self.encoder:
            x = block(x)
            sizes.append(x.shape[-2:])
            x, place = pool(x)
            places.append(place)
        for block, place, size in zip(reversed(self.decoder), reversed(places), reversed(sizes), strict=True):
            x = block(unpool(x, place, size))
        return x

    def load_encoder(self, weights: str) -> Loaded:
        """Fill VGG-16's convolutions from "imagenet" or a file; normalisation begins anew."""
        return load_vgg16([layer for block in self.encoder for layer in block.children()], weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's blocks in the order they are passed, at strides 1, 2, 4, 8, 16."""
        return [[block] for block in self.encoder]


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 2 x 2 pixels of (B, C, H, W), (B, C, ceil(H / 2), ceil(W / 2)), and int64 where in H * W it stood."""
    return functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)


def unpool(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (B, C, h, w) put back to their ``places`` in zeros (B, C, rows, columns)."""
    rows, columns = size
    # A scatter, because torch counts max_unpool2d as not deterministic on a GPU. Windows do not overlap: no two values have one place.
    empty = x.new_zeros(*x.shape[:2], rows * columns)
    return empty.scatter(2, places.flatten(2), x.flatten(2)).view(*x.shape[:2], rows, columns)


@MODELS.add(SegNetConfig)
def build(config: SegNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return SegNet(config, in_channels, out_channels)

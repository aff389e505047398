"""VGG-16, the encoder of SSD, FCN and SegNet.

Paper: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv:1409.1556.
Layers and the names of their entries are torchvision's (BSD-3-Clause); the code is our own.

What differs: any number of channels, a fraction of the widths, and batch normalisation if wanted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from pipeline.models.blocks import Norm, convolution
from pipeline.models.weights import Loaded, first_layer, load

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block; the next block begins at half the resolution."""

PLACES = ("0", "2", "5", "7", "10", "12", "14", "17", "19", "21", "24", "26", "28")
DENSE_PLACES = ("0", "3")
"""Where the file's ``features`` have a convolution, and its ``classifier`` the first two dense layers."""


def scaled_width(channels: int, fraction: float) -> int:
    """``fraction`` of ``channels``, rounded down to a multiple of eight; at least eight."""
    return max(8, int(channels * fraction) // 8 * 8)


def vgg16_blocks(in_channels: int, width: float = 1.0, norm: Norm = "none") -> list[list[nn.Module]]:
    """The five blocks, each a list of its layers in order, without the pooling between them."""
    blocks: list[list[nn.Module]] = []
    before = in_channels
    for channels, number in BLOCKS:
        layers: list[nn.Module] = []
        for _ in range(number):
            after = scaled_width(channels, width)
            layers += convolution(before, after, norm=norm)
            before = after
        blocks.append(layers)
    return blocks


def load_vgg16(layers: Iterable[nn.Module], weights: str, dense: Sequence[nn.Conv2d] = ()) -> Loaded:
    """Fill the 13 convolutions among ``layers`` from "imagenet" or a file. Normalisation after them stays as it is; it would take their
    biases away again, so they have none.

    ``dense``: the classifier's first two layers written as convolutions, 7 x 7 and 1 x 1, to be filled too; what is not given of the
    classifier is skipped. The first layer is adapted to the channels.
    """
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    wanted = nn.Module()
    wanted.features = nn.Sequential(OrderedDict(zip(PLACES, convolutions, strict=True)))
    wanted.classifier = nn.Sequential(OrderedDict(zip(DENSE_PLACES, dense, strict=False)))
    normalised = {f"features.{place}.bias" for place, layer in zip(PLACES, convolutions, strict=True) if layer.bias is None}
    shapes = {key: value.shape for key, value in wanted.state_dict().items()}

    def adapt(key: str, value: Tensor) -> Tensor:
        if key == "features.0.weight":
            return first_layer(value, convolutions[0].in_channels)
        # A dense layer of the flattened 7 x 7 map is a convolution of that map: the same numbers in the same order.
        return value.reshape(shapes[key]) if key.startswith("classifier.") and value.numel() == shapes[key].numel() else value

    return load(
        wanted,
        weights,
        "vgg16",
        rename=lambda key: None if key in normalised or (key.startswith("classifier.") and key not in shapes) else key,
        adapt=adapt,
    )

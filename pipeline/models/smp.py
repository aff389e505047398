"""Any decoder upon any encoder of segmentation-models-pytorch.

Library: Iakubovskii, "Segmentation Models Pytorch", github.com/qubvel-org/segmentation_models.pytorch, 0.6.0, MIT; encoders called
tu-... are of timm (Wightman, github.com/huggingface/pytorch-image-models, 1.0.31, Apache-2.0). Both name each architecture's paper.
The encoders mit_b0 ... mit_b5 are NVIDIA's, under a licence for research and evaluation only.

What differs: any image size. Nothing is ever downloaded: encoders begin at random, or from a file (``weights``); ImageNet's are found
where the encoder has one of torchvision's names.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.base import MODELS, ModelConfig
from pipeline.models.padding import Framed
from pipeline.models.weights import Loaded, first_layer, load

log = logging.getLogger(__name__)

Decoder = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
]

POOLING = ("deeplabv3", "deeplabv3plus", "pan", "upernet")
"""Decoders that normalise an image's mean over the batch, which needs two images."""

HALVINGS = {"pan": 4, "dpt": 2}
"""How much further than its encoder a decoder shrinks the features, as far as sizes must be divisible by it."""

CLASSIFIER = ("fc.", "classifier.", "last_linear.", "head.", "heads.")
"""Beginnings of entries of weights files that belong to what an encoder was trained for."""


class SmpConfig(ModelConfig):
    name: Literal["smp"] = "smp"
    decoder: Decoder = Field("unet", description="decoder architecture")
    encoder: str = Field(
        "resnet18",
        min_length=1,
        description="an encoder of segmentation-models-pytorch, or tu- followed by a timm model; dpt requires a timm transformer",
    )


class Smp(Framed):
    """A network of the library. ``min_batch_size``: images that a batch in training must hold."""

    def __init__(self, config: SmpConfig, in_channels: int, out_channels: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import segmentation_models_pytorch as library
        except ImportError:
            raise ConfigError("model.name: smp needs the package segmentation-models-pytorch: install ocuseg[smp]") from None
        _known(config.encoder, library.encoders.get_encoder_names())
        if config.encoder.startswith("mit_b"):
            log.warning("%s is under NVIDIA's licence for research and evaluation only", config.encoder)
        options = {"dynamic_img_size": True} if config.decoder == "dpt" else {}
        try:
            net = library.create_model(
                config.decoder, config.encoder, encoder_weights=None, in_channels=in_channels, classes=out_channels, **options
            )
            multiple = int(net.encoder.output_stride) * HALVINGS.get(config.decoder, 1)
            _freeze_what_is_unused(net, torch.zeros(1, in_channels, 2 * multiple, 2 * multiple))
        except Exception as fault:  # libraries refuse a pair by whatever error is at hand
            why = str(fault).strip().splitlines()[:1]
            raise ConfigError(
                f"model.encoder: {config.decoder} cannot be built upon {config.encoder} ({why[0] if why else fault!r})"
            ) from None
        super().__init__(net, multiple)
        self.encoder_name, self.in_channels = config.encoder, in_channels
        self.min_batch_size = 2 if config.decoder in POOLING else 1

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from a file of the same architecture, or from "imagenet" where its name is one of torchvision's."""
        encoder = self._encoder()
        first = next(key for key, value in encoder.state_dict().items() if value.ndim == 4)

        def adapt(key: str, value: Tensor) -> Tensor:
            return first_layer(value, self.in_channels) if key == first and value.ndim == 4 and value.shape[1] == 3 else value

        def rename(key: str) -> str | None:
            return None if key.startswith(CLASSIFIER) else key

        return load(encoder, weights, self.encoder_name, rename=rename, adapt=adapt)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's outermost parts in the order they are passed."""
        parts: Sequence[nn.Module] = [self._encoder()]
        while len(parts) == 1:
            parts = [part for part in parts[0].children() if next(part.parameters(), None) is not None]
        return [[part] for part in parts]

    def _encoder(self) -> nn.Module:
        """The encoder, named as in files of its weights: timm's stand one level further down."""
        encoder: Any = self.net.encoder
        return encoder.model if self.encoder_name.startswith("tu-") else encoder  # type: ignore[no-any-return]


def _freeze_what_is_unused(net: nn.Module, image: Tensor) -> None:
    """PSPNet and others take only an encoder's beginning: what no output depends on has nothing to learn, nor to wait for."""
    net.eval()  # statistics stay as they are, and nothing is drawn at random
    parameters = list(net.parameters())
    with torch.enable_grad():
        gradients = torch.autograd.grad(net(image).sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    net.train()


def _known(name: str, names: Sequence[str]) -> None:
    """Raise a ConfigError, with the nearest name, unless ``name`` is one of the library's ``names`` or, after tu-, one of timm's."""
    if name.startswith("tu-"):
        import timm

        names = [f"tu-{known}" for known in timm.list_models()]
    if name.split(".")[0] not in names:  # timm's names may end in the weights' own, which are not used here
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"model.encoder: unknown {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else "known are segmentation-models-pytorch's, such as resnet34, and tu- with timm's")
        )


@MODELS.add(SmpConfig)
def build(config: SmpConfig, in_channels: int, out_channels: int) -> nn.Module:
    return Smp(config, in_channels, out_channels)

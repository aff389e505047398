"""The sliding window: a small network says of what class the middle pixel of a patch is.

Paper: Ciresan, Giusti, Gambardella, Schmidhuber, "Deep Neural Networks Segment Neuronal Membranes in Electron Microscopy Images",
NeurIPS 2012. Convolutions without padding and max-pooling, then dense layers; our own code.

The honest baseline of what came before fully convolutional networks: patches are really cut out, and each is looked at by itself, so
that every pixel is read (window / stride) ** 2 times: 68 times at the defaults, 1,089 times at stride 1. Measured on one core, an image of
960 x 999: 6.7 s at stride 4 and 105 s at stride 1 (from a sixteenth of it), where mobilenet_unet needs 0.4 s for every pixel.

What differs: training draws its centres evenly over the crop instead of equally from each class (the losses see to the balance);
ReLU instead of tanh, 33 pixels instead of 65 or 95; only every ``stride``-th pixel is asked in prediction.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS, ModelConfig
from pipeline.models.blocks import RELU_KERNELS, begin_as, enlarge
from pipeline.models.padding import AnySize


class PatchClassifierConfig(ModelConfig):
    name: Literal["patch_classifier"] = "patch_classifier"
    window: int = Field(33, ge=5, description="side of a patch in pixels; odd, so that it has a centre pixel")
    widths: tuple[int, ...] = Field(
        (32, 48, 64), min_length=1, description="channels of each convolution; each is followed by a halving of the side"
    )
    hidden: int = Field(128, ge=1, description="width of the dense layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability before the last layer")
    centres: int = Field(512, ge=1, description="patches classified per training crop")
    stride: int = Field(4, ge=1, description="spacing in pixels of the patches classified in prediction; 1: every pixel")
    enlargement: Literal["nearest", "bilinear"] = Field("bilinear", description="interpolation between those pixels")
    chunk: int = Field(512, ge=1, description="patches classified at once in prediction; limits its memory")

    @model_validator(mode="after")
    def _fits(self) -> PatchClassifierConfig:
        if self.window % 2 == 0:
            raise ValueError(f"window {self.window} must be odd")
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        if last_side(self.window, len(self.widths)) < 1:
            raise ValueError(f"a window of {self.window} is too small for {len(self.widths)} convolutions with pooling; take fewer widths")
        return self


class PatchClassifier(AnySize):
    """In prediction, float (B, C, H, W) -> logits (B, K, H, W): a patch at every ``stride``-th pixel, enlarged between them.

    In training, only ``centres`` random pixels have logits, the others 0; ``loss_mask`` bool (1, 1, H, W) says which, so that only
    those have a loss. Beyond the border the outermost pixels are repeated.
    """

    compilable = False  # prediction loops over as many pieces as an image has, and a graph would hold each of them

    def __init__(self, config: PatchClassifierConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self.multiple = config.stride
        layers: list[nn.Module] = []
        before = in_channels
        for width in config.widths:
            layers += [nn.Conv2d(before, width, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            before = width
        side = last_side(config.window, len(config.widths))
        self.classifier = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(before * side * side, config.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, out_channels),
        )
        begin_as(self.classifier, RELU_KERNELS)

    def forward(self, images: Tensor) -> Tensor:
        self.loss_mask = None
        if self.training:
            return self._some(images)
        everywhere = super().forward(images)
        assert isinstance(everywhere, Tensor)
        return everywhere

    def logits(self, images: Tensor) -> Tensor:
        stride = self.config.stride
        patches = self._patches(images)[:, :, stride // 2 :: stride, stride // 2 :: stride]
        number, _, rows, columns = patches.shape[:4]
        at_once = rows if torch.compiler.is_exporting() else max(1, self.config.chunk // (number * columns))
        answers = []
        for first in range(0, rows, at_once) if at_once != rows else (0,):
            some = patches[:, :, first : first + at_once]
            logits = self.classifier(some.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
            answers.append(logits.view(number, -1, columns, logits.shape[1]))
        asked = torch.cat(answers, dim=1).permute(0, 3, 1, 2)
        if self.config.enlargement == "bilinear":
            return enlarge(asked, stride)
        return asked.repeat_interleave(stride, 2).repeat_interleave(stride, 3)

    def _some(self, images: Tensor) -> Tensor:
        """Logits at random pixels, the same ones in all images, and 0 elsewhere; ``loss_mask`` is set."""
        number, (rows, columns) = len(images), images.shape[-2:]
        places = torch.randperm(rows * columns, device=images.device)[: self.config.centres]
        row, column = places // columns, places % columns
        patches = self._patches(images)[:, :, row, column]  # (B, C, N, window, window)
        answers: Tensor = self.classifier(patches.transpose(1, 2).flatten(0, 1)).unflatten(0, (number, -1))
        logits = answers.new_zeros(number, answers.shape[2], rows, columns)
        logits[:, :, row, column] = answers.transpose(1, 2)
        self.loss_mask = torch.zeros(1, 1, rows, columns, dtype=torch.bool, device=images.device)
        self.loss_mask[:, :, row, column] = True
        return logits

    def _patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> a view (B, C, H, W, window, window) of the patch around each pixel; nothing is copied yet."""
        window = self.config.window
        around = functional.pad(images, (window // 2,) * 4, mode="replicate")
        return around.unfold(2, window, 1).unfold(3, window, 1)


def last_side(window: int, convolutions: int) -> int:
    """Side of what is left of a window after so many 3 x 3 convolutions without padding, each followed by pooling."""
    for _ in range(convolutions):
        window = (window - 2) // 2
    return window


@MODELS.add(PatchClassifierConfig)
def build(config: PatchClassifierConfig, in_channels: int, out_channels: int) -> nn.Module:
    return PatchClassifier(config, in_channels, out_channels)

"""The sliding window: a small network looks at every place of the picture in every size and shape, and says what it sees.

Papers: Sermanet et al., "OverFeat", ICLR 2014, arXiv:1312.6229 (the same network run over the whole picture instead of window by
window); MobileNetV2: Sandler et al., CVPR 2018, arXiv:1801.04381. Our own code on torchvision's blocks, BSD-3-Clause.

Boxes of one size and shape become windows of 91 x 91 pixels by resizing the picture, which is done for each size and shape. The network is
the beginning of MobileNetV2, to stride 16, with all padding left out, and one of its answers sees just a window: it is the same whether
the window is cut out or the picture goes through whole. Windows lie a sixth of their side apart.

What differs from a detector of its time: boxes are those of the windows; nothing corrects them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, FrozenStages, NMSConfig, Sizes
from pipeline.models.features import FrozenBatchNorm2d, InvertedResiduals
from pipeline.models.regions import best_of, sampled, warped
from pipeline.models.sampling import over_processes
from pipeline.models.weights import Loaded, Version
from pipeline.types import Target

WINDOW, STRIDE = 91, 16
_BLOCKS, _LAST = 8, 2
"""Of MobileNetV2, and the side of the map that they leave of a window."""


class SlidingWindowConfig(NMSConfig):
    name: Literal["sliding_window"] = "sliding_window"
    imagenet: Version = Field("v1", description="version of torchvision's ImageNet weights, for weights: imagenet")
    frozen_stages: FrozenStages = 2
    sides: tuple[float, ...] | None = Field(
        None, min_length=1, description="square roots of the window areas in working pixels; null: fitted to the training boxes"
    )
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height / width of the windows")
    hidden: int = Field(128, ge=1, description="width of the layer before the last")
    samples: int = Field(64, ge=2, description="windows per image in a training step")
    positive: float = Field(0.25, gt=0, lt=1, description="maximum fraction of windows with an object among them")
    convolutional: bool = Field(True, description="run over the whole picture; false: cut out each window, with the same scores")
    chunk: int = Field(128, ge=1, description="windows that go through the network at once where they are cut out")

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        """Sides half an octave apart, from the smallest boxes to the largest (a twentieth is left out at either end)."""
        if self.sides is not None:
            return self
        low, high = np.quantile(np.sqrt(sizes.prod(1)), (0.05, 0.95)) if len(sizes) else (32.0, 128.0)
        steps = max(1, round(2 * float(np.log2(high / low)))) + 1
        return self.model_copy(update={"sides": tuple(round(float(low) * 2 ** (step / 2), 1) for step in range(steps))})


@dataclass(frozen=True)
class Level:
    """Windows of one size and shape: the picture is resized to ``size``, and ``grid`` (rows, columns) windows lie on it."""

    size: tuple[int, int]
    grid: tuple[int, int]

    def boxes(self, rows: int, columns: int) -> Tensor:
        """The windows float32 (N, 4) in the pixels of a picture of (rows, columns)."""
        down, across = (torch.arange(count) * STRIDE for count in self.grid)
        y, x = (part.flatten() for part in torch.meshgrid(down, across, indexing="ij"))
        scale = torch.tensor([columns / self.size[1], rows / self.size[0]] * 2)
        return torch.stack([x, y, x + WINDOW, y + WINDOW], 1) * scale


class SlidingWindow(Detector):
    """``batch_losses``: class. ``convolutional`` may be changed on a trained network, to see what it is worth."""

    multiple = 1

    def __init__(self, config: SlidingWindowConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.convolutional = config.convolutional
        self.encoder = Beginning(in_channels, frozen_norm=config.weights != "none")
        self.encoder.freeze(config.frozen_stages if config.weights != "none" else 0)
        self.head = nn.Sequential(
            nn.Conv2d(self.encoder.widths[-1], config.hidden, _LAST), nn.ReLU(inplace=True), nn.Conv2d(config.hidden, classes + 1, 1)
        )

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file of the same architecture."""
        return self.encoder.load(weights, self.config.imagenet)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.encoder.stages()

    def levels(self, rows: int, columns: int) -> Iterator[Level]:
        """One for each size and shape of window that fits into a picture of (rows, columns); at least the picture itself."""
        fits = False
        for side, ratio in product(self.config.sides or (32.0, 64.0, 128.0), self.config.ratios):
            high, wide = side * ratio**0.5, side / ratio**0.5
            if high <= rows and wide <= columns:
                fits = True
                size = round(rows * WINDOW / high), round(columns * WINDOW / wide)
                yield Level(size, ((size[0] - WINDOW) // STRIDE + 1, (size[1] - WINDOW) // STRIDE + 1))
        if not fits:
            yield Level((WINDOW, WINDOW), (1, 1))

    def windows(self, rows: int, columns: int) -> Tensor:
        """All boxes float32 (N, 4) that are looked at in a picture of (rows, columns)."""
        return torch.cat([level.boxes(rows, columns) for level in self.levels(rows, columns)])

    def logits(self, image: Tensor) -> Tensor:
        """Image (C, H, W) -> (N, K + 1), background first, of each of its :meth:`windows`."""
        out = []
        for level in self.levels(int(image.shape[-2]), int(image.shape[-1])):
            resized = functional.interpolate(image[None], size=level.size, mode="bilinear", align_corners=False)
            maps = self._look(resized) if self.convolutional else self._look_at_each(resized)
            out.append(maps.flatten(2)[0].T)
        return torch.cat(out)

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        squares, labels = [], []
        for image, (rows, columns), target, seed in zip(images, sizes, targets, self.seeds, strict=True):
            windows = self.windows(rows, columns).to(image.device)
            chosen, classes = sampled(windows, target, self.config.samples, self.config.positive, seed)
            squares.append(warped(image[:, :rows, :columns], chosen, WINDOW))
            labels.append(classes)
        every = torch.cat(labels)
        loss = functional.cross_entropy(self._look(torch.cat(squares)).flatten(1), every)
        return over_processes({"class": loss}, {"class": len(every)})

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        found = []
        for image, (rows, columns) in zip(images, sizes, strict=True):
            scores = self.logits(image[:, :rows, :columns]).float().softmax(1)[:, 1:]
            boxes = self.windows(rows, columns).to(scores)
            found.append(best_of(boxes[:, None].expand(-1, scores.shape[1], -1), scores, (rows, columns), self.config))
        return found

    def _look(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K + 1, rows, columns), a place for each window."""
        return torch.as_tensor(self.head(self.encoder.last(pictures)))

    def _look_at_each(self, picture: Tensor) -> Tensor:
        """The same as :meth:`_look` of (1, C, H, W), each window cut out."""
        patches = picture[0].unfold(1, WINDOW, STRIDE).unfold(2, WINDOW, STRIDE)  # a view (C, rows, columns, 91, 91)
        rows, columns = patches.shape[1:3]
        places = torch.arange(rows * columns, device=picture.device)
        every = [self._look(patches[:, part // columns, part % columns].transpose(0, 1)) for part in places.split(self.config.chunk)]
        return torch.cat(every).flatten(1).T.reshape(1, -1, rows, columns)


class Beginning(InvertedResiduals):
    """MobileNetV2 to its first block of stride 16, without padding."""

    name = "mobilenet_v2"

    def __init__(self, in_channels: int, *, frozen_norm: bool) -> None:
        from torchvision.models import mobilenet_v2

        whole = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d).features
        super().__init__(in_channels, whole[:_BLOCKS], halvings=4)
        self.unused = ("classifier.", *(f"features.{place}." for place in range(_BLOCKS, len(whole))))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.padding = (0, 0)

    def last(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the map at stride 16; its first value is of the picture's first 75 pixels, and so on."""
        blocks: list[Any] = list(self.features)
        x = blocks[0](x)
        for block in blocks[1:]:
            inner = block.conv(x)
            x = inner + x[..., 1:-1, 1:-1] if block.use_res_connect else inner
        return x


@MODELS.add(SlidingWindowConfig)
def build(config: SlidingWindowConfig, in_channels: int, out_channels: int) -> Detector:
    return SlidingWindow(config, in_channels, out_channels)

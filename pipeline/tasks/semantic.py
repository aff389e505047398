"""Each pixel gets its classes: the semantic family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.measurements.artery_vein import in_trees
from pipeline.metrics.calibration import PixelReliability
from pipeline.metrics.threshold import DiceSearch, decide
from pipeline.models.base import Family, Network, memory_format
from pipeline.models.lean_monai import lean_monai
from pipeline.models.precision import autocast
from pipeline.registry import unknown_name
from pipeline.tasks.base import TASKS, Labelled, Task, TaskConfig, TileSides
from pipeline.tasks.fitting import images_at_once, in_pieces, smaller_tile, tile_that_fits
from pipeline.tasks.layers import decide_on_device, foreground_layers, one_channel_a_class
from pipeline.tasks.losses import LOSSES, activate
from pipeline.tasks.pixels import pixel_summary
from pipeline.types import IGNORE, Batch, LabelMap, Measure, Placement, Prediction, Target

_TILES_AT_ONCE = 16
UPSCALED = 1.25
"""Enlargement from source to network up to which probabilities stay as they are."""
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class SemanticConfig(TaskConfig):
    family: ClassVar[Family] = "semantic"

    name: Literal["semantic"] = "semantic"
    losses: dict[str, float] = Field(
        {"dice": 1.0, "cross_entropy": 1.0},
        min_length=1,
        description="weights of the losses by name: dice, cross_entropy, focal, cldice, tversky",
    )
    tile: TileSides | None = Field(
        None, description="predict in overlapping tiles of (rows, columns), one number for squares; null: whole images"
    )
    tile_slices: int | None = Field(None, ge=1, description="slices per tile of a volume; null: all slices at once")
    tile_overlap: float = Field(0.25, ge=0, lt=1, description="overlap of neighbouring tiles as a fraction of their side")
    flips: bool = Field(False, description="average the prediction over flips (test-time augmentation)")
    vessel_trees: bool = Field(
        False, description="of arteries and veins: each vessel takes the vote of its pixels from one branch point to the next, and beyond"
    )
    upscaling_logit: float = Field(
        0.0,
        ge=0,
        description="added to the logits of overlapping or single classes for each doubling of a picture's enlargement beyond 1.25 times: "
        "readers draw a thin line one pixel wide, however thin it is",
    )

    @property
    def slices_at_once(self) -> int | None:
        return self.tile_slices

    def outputs(self, label_map: LabelMap) -> int:
        return label_map.channels

    @field_validator("losses")
    @classmethod
    def _known(cls, losses: dict[str, float]) -> dict[str, float]:
        for name, weight in losses.items():
            if name not in LOSSES.names():
                raise ValueError(unknown_name("loss", name, LOSSES.names()))
            if weight <= 0:
                raise ValueError(f"the weight of loss {name!r} must be above 0")
        return losses


class SemanticTask(Task):
    """A network of C channels (``label_map.channels``) with its losses and its way of predicting."""

    reads_pixels_alone = True

    def __init__(self, config: SemanticConfig, network: Network, label_map: LabelMap) -> None:
        super().__init__()
        if config.upscaling_logit and not label_map.independent:
            raise ConfigError("task.upscaling_logit: these classes exclude each other, so that their logits are relative; set it to 0")
        if config.vessel_trees and not {"artery", "vein"} <= set(label_map.roles):
            raise ConfigError("task.vessel_trees: needs a class with the role artery and one with the role vein; set it to false")
        self.config = config
        self.network = network
        self.label_map = label_map
        self.volumes = network.dims == 3
        self.uses_thresholds = label_map.independent
        self.headline = "dice"
        self.thresholds: Mapping[str, float] = {}

    @property
    def not_exportable(self) -> str:
        return self.network.not_exportable

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses times their weights. Images of unequal size are padded to the largest; padding has no influence.

        In evaluation mode whole images come, which the network sees as in prediction: by tiles, where it would not fit into memory.
        """
        if batch.targets is None:
            raise ValueError("a training batch needs targets")
        images = stack(batch.images)
        masks = stack([_mask(target) for target in batch.targets] if batch.masks is None else batch.masks, fill=IGNORE)
        valid = (stack(batch.valid, fill=0) & (masks != IGNORE))[:, None]
        truth = one_channel_a_class(masks, self.label_map)
        images = images.contiguous(memory_format=memory_format(self.network))
        outputs = self.network(images) if self.training else self._logits(images, self._tile(images))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        loss_mask = self.network.loss_mask  # a network that classifies patches has logits at some pixels only
        valid = valid if loss_mask is None else valid & loss_mask
        # Deep supervision: each coarser output counts half of the one before it; their fractions sum to one.
        fractions = [2.0**-depth / (2 - 2.0 ** (1 - len(outputs))) for depth in range(len(outputs))]
        losses = {}
        for name, weight in self.config.losses.items():
            loss = LOSSES[name].build
            parts = [part * loss(out, truth, valid, self.label_map.independent) for part, out in zip(fractions, outputs, strict=True)]
            losses[name] = weight * torch.stack(parts).sum()
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Probabilities float32 (K, rows, columns) of each plane in its source frame; the training mode is left as it was."""
        was_training = self.training
        self.eval()
        try:
            return [prediction for images, placements in _of_one_size(batch) for prediction in self._predict(images, placements)]
        finally:
            self.train(was_training)

    @torch.no_grad()
    def count(self, batch: Batch) -> Tensor | None:
        """Pixels of both masks, of the prediction alone and of the reference alone: (planes, K, 3); where network and source share a
        frame, and masks are made of each pixel's probabilities alone."""
        elsewhere = any(placement != Placement.identity(*placement.source) for placement in batch.placements)
        if batch.targets is None or elsewhere or self.config.vessel_trees:
            return None
        was_training = self.training
        self.eval()
        try:
            classes = len(self.label_map)
            maps = [own[:classes] for images, _ in _of_one_size(batch) for own in self._probabilities(images)[0]]
        finally:
            self.train(was_training)
        planes = []
        for probabilities, target, valid in zip(maps, batch.targets, batch.valid, strict=True):
            mask = _mask(target)
            known = valid & (mask != IGNORE)
            guess = decide_on_device(probabilities, self.label_map, self.thresholds) & known
            truth = foreground_layers(mask, self.label_map) & known
            sums = torch.stack([(a & b).sum((-2, -1)) for a, b in ((guess, truth), (guess, ~truth), (truth, ~guess))], dim=-1)
            planes.append(sums.movedim(1, 0) if self.volumes else sums[None])
        return torch.cat(planes)

    def summarise(self, scores: Sequence[Mapping[str, Measure]], evidence: Sequence[Any] = ()) -> dict[str, float]:
        """Means over images that hold a class (``dice/vessel``), pooled pixels (``dice_pooled/vessel``), means over classes (``dice``)."""
        return pixel_summary(self.label_map, scores, super().summarise(scores))

    def tune(self, labelled: Callable[[], Iterable[Labelled]]) -> dict[str, float]:
        """The threshold of each class with the best mean Dice; none where classes exclude each other (the most probable wins)."""
        if not self.uses_thresholds:
            return {}
        searches = {name: DiceSearch() for name in self.label_map.names}
        for prediction, target, valid in labelled():
            mask = _mask(target).cpu().numpy()
            known = mask != IGNORE if valid is None else (mask != IGNORE) & valid.cpu().numpy()
            for search, chance, truth in zip(searches.values(), _probabilities(prediction), self.label_map.layers(mask), strict=True):
                search.add(chance, truth, known)
        return {name: search.best for name, search in searches.items()}

    def calibrate(self, labelled: Callable[[], Iterable[Labelled]]) -> bool:
        """``temperatures``, of each class against all others; the probabilities that masks are made of stay as they are."""
        found = {name: PixelReliability() for name in self.label_map.names}
        for prediction, target, valid in labelled():
            mask = _mask(target).cpu().numpy()
            known = mask != IGNORE if valid is None else (mask != IGNORE) & valid.cpu().numpy()
            for own, chance, truth in zip(found.values(), _probabilities(prediction), self.label_map.layers(mask), strict=True):
                own.add(chance, truth, known)
        self.temperatures = {name: own.temperature() for name, own in found.items()}
        return False

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_]:
        """Boolean layers (K, H, W) by ``thresholds``."""
        probabilities = _probabilities(prediction)
        layers = decide(probabilities, self.label_map, self.thresholds)
        return in_trees(layers, probabilities, self.label_map) if self.config.vessel_trees and layers.ndim == 3 else layers

    def _predict(self, x: Tensor, placements: Sequence[Placement]) -> list[Prediction]:
        """One Prediction a plane of images (B, C, [D,] H, W), as many of them at once as memory allows."""
        probabilities, tile = self._probabilities(x)
        if len(set(placements)) == 1:
            maps = list(self._to_source(probabilities, placements[0]).cpu().numpy())
        else:
            maps = [self._to_source(own, placement).cpu().numpy() for own, placement in zip(probabilities, placements, strict=True)]
        warnings = () if tile is None or tile == self.config.tile else (in_pieces(tile),)
        planes = [plane for own in maps for plane in (np.moveaxis(own, 1, 0) if self.volumes else own[None])]
        classes = len(self.label_map)
        return [
            Prediction(probabilities=plane[:classes], uncertainty=plane[classes] if self.doubts else None, warnings=warnings)
            for plane in planes
        ]

    def _to_source(self, probabilities: Tensor, placement: Placement) -> Tensor:
        """Maps (..., H, W) in the source frame, with what :attr:`SemanticConfig.upscaling_logit` adds."""
        maps = placement.to_source(probabilities)
        octaves = math.log2(math.sqrt(math.prod(placement.scale)) / UPSCALED)
        if not self.config.upscaling_logit or octaves <= 0:
            return maps
        classes, channel = len(self.label_map), -4 if self.volumes else -3
        chances, rest = maps.split([classes, maps.shape[channel] - classes], dim=channel)
        return torch.cat([torch.sigmoid(torch.logit(chances, eps=1e-6) + octaves * self.config.upscaling_logit), rest], dim=channel)

    def _tile(self, x: Tensor) -> tuple[int, int] | None:
        """(rows, columns) of tiles by which images (B, C, [D,] H, W) are seen: as configured, or less for lack of memory; None: whole."""
        tile, slices = self.config.tile, self.config.tile_slices
        piece = x if tile is None else x[..., : tile[0], : tile[1]]
        piece = piece[:, :, :slices] if self.volumes and slices is not None else piece
        return tile_that_fits(self.network, self.network, piece) or tile

    def _probabilities(self, x: Tensor) -> tuple[Tensor, tuple[int, int] | None]:
        """Network-frame images (B, C, [D,] H, W) -> foreground probabilities float32 (B, K, [D,] H, W), and the tiles they were seen by;
        where the task ``doubts``, after the classes how far flips disagree."""
        tile, together = self._tile(x[:1]), True
        while True:
            try:
                return self._in_batches(x, tile, together), tile
            except torch.OutOfMemoryError:  # other programs use the GPU, too: what seemed free was not
                smaller = tile if together else smaller_tile(tile, x)
                if not together and smaller is None:
                    raise
            tile, together = smaller, False
            torch.cuda.empty_cache()

    def _in_batches(self, x: Tensor, tile: tuple[int, int] | None, together: bool) -> Tensor:
        """``together``: the images, their flips and tiles in batches, where they fit."""
        flips = _FLIPS if (self.config.flips and not self.quick) or self.doubts else _FLIPS[:1]
        slices = self.config.tile_slices if self.volumes else None
        whole = (tile is None or (x.shape[-2] <= tile[0] and x.shape[-1] <= tile[1])) and (slices is None or x.shape[2] <= slices)
        most = len(x) * len(flips) if together and whole else 1
        room = images_at_once(self.network, self.network, x[:1], most)
        if room < len(x):
            parts = [self._averaged(part, tile, [[axes] for axes in flips], together) for part in x.split(room)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        step = room // len(x)
        return self._averaged(x, tile, [flips[at : at + step] for at in range(0, len(flips), step)], together)

    def _averaged(self, x: Tensor, tile: tuple[int, int] | None, groups: Sequence[Sequence[tuple[int, ...]]], together: bool) -> Tensor:
        """The mean over flips, of which those of a group are one batch; of a task that ``doubts`` also their spread, as a last channel."""
        total, squares, first = torch.zeros(()), torch.zeros(()), None
        for flips in groups:
            views = [x.flip(axes) if axes else x for axes in flips]
            batch = (views[0] if len(views) == 1 else torch.cat(views)).contiguous(memory_format=memory_format(self.network))
            probabilities = activate(self._logits(batch, tile, together), self.label_map.independent)
            for axes, part in zip(flips, probabilities.chunk(len(flips)), strict=True):
                upright = part.flip(axes) if axes else part
                first = upright if first is None else first
                total = total.to(part) + upright
                squares = squares.to(part) + upright**2 if self.doubts else squares
        assert first is not None
        number, foreground = sum(map(len, groups)), slice(0 if self.label_map.independent else 1, None)
        mean = total / number
        # Flips that are looked at for their doubt alone change no mask.
        probabilities = (mean if self.config.flips and not self.quick else first)[:, foreground]
        if not self.doubts:
            return probabilities
        spread = 2 * (squares / number - mean**2).clamp(0, 0.25).sqrt()  # of a quantity in 0..1 the deviation is at most a half
        return torch.cat([probabilities, spread[:, foreground].amax(dim=1, keepdim=True)], dim=1)

    def _logits(self, x: Tensor, tile: tuple[int, int] | None, together: bool = False) -> Tensor:
        """(B, C, [D,] H, W) -> float32 logits of the same size, whole or by tiles, of which several go ``together``."""
        *depth, rows, columns = x.shape[2:]
        thick = [min(self.config.tile_slices or slices, slices) for slices in depth]
        if (tile is None or (rows <= tile[0] and columns <= tile[1])) and thick == depth:
            return self._run(x)
        with lean_monai():
            from monai.inferers.utils import sliding_window_inference

        size = (*thick, *(tile or (rows, columns)))
        piece = x[(slice(1), slice(None), *map(slice, size))]
        tiled: Tensor = sliding_window_inference(
            x,
            roi_size=size,
            sw_batch_size=images_at_once(self.network, self.network, piece, _TILES_AT_ONCE if together else 1),
            predictor=self._run,
            overlap=self.config.tile_overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
        return tiled

    def _run(self, x: Tensor) -> Tensor:
        if self.engine is not None:
            return self.engine(x)
        # In training the loop has chosen, and is not overruled.
        with nullcontext() if self.precision == "float32" else autocast(x.device, self.precision):
            logits: Tensor = self.network(x)
        return logits.float()


def _of_one_size(batch: Batch) -> Iterator[tuple[Tensor, tuple[Placement, ...]]]:
    """Neighbours of a batch that have one size, (B, C, [D,] H, W), with their placements."""
    pairs = zip(batch.images, batch.placements, strict=True)
    for _, group in groupby(pairs, key=lambda pair: pair[0].shape):
        images, placements = zip(*group, strict=True)
        yield images[0][None] if len(images) == 1 else torch.stack(images), placements


def stack(maps: Sequence[Tensor] | Tensor, fill: float = 0) -> Tensor:
    """Maps (..., H, W) of any rows and columns -> one tensor (B, ..., H, W), padded below and to the right with ``fill``; one tensor
    stays as it is."""
    if isinstance(maps, Tensor):
        return maps
    rows, columns = max(m.shape[-2] for m in maps), max(m.shape[-1] for m in maps)
    if all(m.shape[-2:] == (rows, columns) for m in maps):
        return torch.stack(list(maps))
    return torch.stack([functional.pad(m, (0, columns - m.shape[-1], 0, rows - m.shape[-2]), value=fill) for m in maps])


def _probabilities(prediction: Prediction) -> npt.NDArray[np.float32]:
    if prediction.probabilities is None:
        raise ValueError("a semantic prediction has probabilities")
    return prediction.probabilities


def _mask(target: Target) -> Tensor:
    if target.mask is None:
        raise ValueError("the semantic family needs a mask with every image")
    return target.mask


@TASKS.add(SemanticConfig)
def build(config: SemanticConfig, network: Network, label_map: LabelMap) -> Task:
    return SemanticTask(config, network, label_map)

"""What every task family promises the loop, the evaluation and the report."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.datasets.preprocess import TargetKind
from pipeline.metrics.overlap import Confusion
from pipeline.models.base import Family, Network
from pipeline.models.precision import Precision
from pipeline.registry import OneOrTwo, Registry, Strict
from pipeline.tasks.pixels import ScanPixels, count_scores, detailed_scores, pixel_scores
from pipeline.types import IGNORE, Batch, Geometry, LabelMap, Measure, Prediction, Target

TASKS = Registry("task.name", "pipeline.tasks")

Engine = Callable[[Tensor], Tensor]
"""Images (B, C, [D,] H, W) in, the network's logits float32 (B, K, [D,] H, W) out, in evaluation mode and without gradients."""
Reference = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
Labelled = tuple[Prediction, Target, Tensor | None]
"""A prediction, what is true, and the field of view (bool (H, W) or None), all in the source frame."""


@dataclass(frozen=True, eq=False)
class ScanScores:
    """``measures`` by name (``dice/vessel``) · ``evidence`` of each slice (:meth:`Task.evidence`) · ``pixels`` that were scored, None where
    prediction or target has none."""

    measures: dict[str, Measure]
    evidence: list[Any]
    pixels: ScanPixels | None


_Side = Annotated[int, Field(ge=32)]
TileSides = Annotated[tuple[_Side, _Side], OneOrTwo()]
"""(rows, columns) of a tile; one number is a square."""


class TaskConfig(Strict):
    """Base of every task's settings. ``family`` says which networks it can use (``ModelConfig.family``), ``need`` what it needs of every
    case: a mask of classes, objects with boxes, or the class of the whole picture (datasets/store.py). ``whole_pictures``: a crop would not
    tell what it learns."""

    family: ClassVar[Family]
    need: ClassVar[TargetKind] = "masks"
    whole_pictures: ClassVar[bool] = False

    @property
    def slices_at_once(self) -> int | None:
        """Slices of a volume that are seen together (``task.tile_slices``); None where that is not limited."""
        return None

    @abc.abstractmethod
    def outputs(self, label_map: LabelMap) -> int:
        """What the network's builder gets as ``out_channels``: channels of pixels, or classes of objects."""


class Task(nn.Module, abc.ABC):
    """A network together with its losses and its way of predicting.

    The training loop calls ``forward`` and sums the named losses; evaluation calls ``predict`` and ``score``. Neither asks
    which family it holds.

    ``volumes``: the network looks at neighbouring slices, so that an image of a batch is a volume (types/sample.py, Batch).
    ``uses_thresholds``: whether a threshold decides on each class, rather than the highest of all classes' probabilities.
    ``reads_pixels_alone``: of a batch of crops, :meth:`forward` reads nothing but ``images``, ``valid`` and ``masks``, one tensor each, and
    asks the device for nothing.
    ``headline`` names the entry of :meth:`summarise` by which the best epoch is chosen (higher is better). ``thresholds`` are the
    decision thresholds by class name that ``score`` uses; empty: the family's defaults. ``precision``: what the network calculates in
    while it predicts, of the families that have been compared with float32 (inference/ and training/ set it). ``engine``: what runs the
    network while it predicts (inference/engines/); None: torch. ``quick``: leave out of predictions what only averages (flips).
    ``explains``: predictions also say where the network looked (Prediction.attention), where the family can. ``doubts``: predictions also
    say where flips of the picture disagree (Prediction.uncertainty), where the family can. ``temperatures`` by class name: what log odds of
    pixels are divided by to mean what they say (:meth:`calibrate`); masks are made without them.
    """

    network: Network
    label_map: LabelMap
    volumes: bool = False
    explains: bool = False
    doubts: bool = False
    uses_thresholds: bool = True
    reads_pixels_alone: bool = False
    headline: str
    thresholds: Mapping[str, float]
    temperatures: Mapping[str, float] = MappingProxyType({})
    precision: Precision = "float32"
    engine: Engine | None = None
    quick: bool = False

    @property
    def not_exportable(self) -> str:
        """Why neither a file of the network's graph (ONNX) nor another engine than torch can serve this task; empty where both can."""
        return self.network.not_exportable or "only a segmentation task says what the numbers of a graph mean"

    @abc.abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses, each a scalar already times its weight; their sum is minimised. ``batch.targets`` is given."""

    @abc.abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """One Prediction a plane, in the SOURCE frame (through ``batch.placements``), without gradients: one of each image, or of
        each slice of its volumes in their order."""

    def score(self, prediction: Prediction, target: Target, geometry: Geometry, valid: Tensor | None = None) -> dict[str, Measure]:
        """Measures by name (``dice/vessel``) of a picture or slice, prediction and target both in the source frame."""
        return self.score_scan([(prediction, target, valid)], geometry).measures

    def score_scan(
        self, slices: Iterable[Labelled], geometry: Geometry, *, detail: bool = False, encoding: LabelMap | None = None
    ) -> ScanScores:
        """A picture, or all slices of a volume as a whole, by which validation and evaluation score.

        Parameters
        ----------
        slices: gone through once, so that instance masks of a long volume need not be in memory together.
        geometry: of the picture (H, W), or of the volume (D, H, W).
        detail: measure also what takes long (:func:`~pipeline.tasks.pixels.detailed_scores`).
        encoding: of the targets' masks, where it is not the task's label map; only pixels of classes that both name are scored.
        """
        evidence, parts = [], []
        for prediction, target, valid in slices:
            evidence.append(self.evidence(prediction, target, valid))
            layers, reference = self.layers(prediction), self.reference(target, encoding)
            if layers is not None and reference is not None:
                truth, known = reference
                known = known if valid is None else known & valid.cpu().numpy()
                parts.append((layers, truth, known[None], prediction.probabilities))
        measures = self.measure_objects(evidence)
        if len(parts) < len(evidence):
            return ScanScores(measures, evidence, None)
        pixels = ScanPixels.of(parts, self.label_map, encoding or self.label_map, len(geometry.shape) == 3)
        parts.clear()  # a volume holds copies of them now
        measures |= detailed_scores(pixels, geometry) if detail else pixel_scores(pixels)
        return ScanScores(measures, evidence, pixels)

    def reference(self, target: Target, encoding: LabelMap | None = None) -> Reference | None:
        """What is true of each pixel: layers (S, H, W) of the classes that the task and ``encoding`` both name, and where they are
        known, bool (H, W); None where nothing is known of pixels."""
        if target.mask is None:
            return None
        theirs, mask = encoding or self.label_map, target.mask.cpu().numpy()
        places = [theirs.names.index(name) for name in self.label_map.names if name in theirs.names]
        return theirs.layers(mask)[places], mask != IGNORE

    def measure_objects(self, evidence: Sequence[Any]) -> dict[str, Measure]:
        """Measures of a scan's objects, from the evidence of its slices; none of a family without objects."""
        return {}

    def count(self, batch: Batch) -> Tensor | None:
        """What :meth:`count_scores` needs of labelled whole images: tp, fp and fn pixels of each class, int64 (planes, K, 3), on the
        batch's device, so that nothing else leaves it; None where :meth:`score` needs the predictions themselves."""
        return None

    def count_scores(self, counts: Tensor) -> dict[str, Measure]:
        """The scores, as of :meth:`score`, of one plane that was counted; ``counts`` (K, 3) is on the CPU."""
        return count_scores(self.label_map.names, [Confusion(*numbers) for numbers in counts.tolist()])

    @torch.no_grad()
    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of :meth:`forward` in evaluation mode: statistics of normalisation and the random state stay as they are."""
        was_training = self.training
        self.eval()
        try:
            with torch.random.fork_rng(), self.measuring():
                return self(batch)  # type: ignore[no-any-return]
        finally:
            self.train(was_training)

    def measuring(self) -> AbstractContextManager[None]:
        """What a network in evaluation mode needs around it to give losses."""
        return nullcontext()

    def evidence(self, prediction: Prediction, target: Target, valid: Tensor | None = None) -> Any:
        """What :meth:`summarise` needs of an image beside its measures, small and picklable; None where that is nothing.

        ``valid`` bool (H, W), the field of view, as in :meth:`score`.
        """
        return None

    def summarise(self, scores: Sequence[Mapping[str, Measure]], evidence: Sequence[Any] = ()) -> dict[str, float]:
        """Scores and evidence of many images -> one number a name: the mean over the images where it is defined."""
        values: dict[str, list[float]] = {}
        for image in scores:
            for name, measure in image.items():
                if measure.value is not None:
                    values.setdefault(name, []).append(measure.value)
        return {name: sum(found) / len(found) for name, found in values.items()}

    def complete(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Learn what is not learnt by gradients, after the last step and with the best weights, from the training images as they are;
        each call of ``batches`` goes through them once. Few networks have such a part."""
        return

    def tune(self, labelled: Callable[[], Iterable[Labelled]]) -> dict[str, float]:
        """Decision thresholds by class name, chosen on validation images; each call of ``labelled`` goes through them once."""
        return {}

    def calibrate(self, labelled: Callable[[], Iterable[Labelled]]) -> bool:
        """Fit on validation images, before :meth:`tune`, what makes probabilities mean what they say; True: predictions change."""
        return False

    def figures(self, evidence: Sequence[Any]) -> dict[str, npt.NDArray[np.uint8]]:
        """Pictures by name, uint8 (H, W, 3), of what many images show together (precision against recall)."""
        return {}

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_] | None:
        """Boolean layers (K, H, W) for a picture of the prediction; None where there is nothing to draw."""
        return None

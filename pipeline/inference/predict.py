"""One scan in, one Prediction out, by exactly the preparation that training used."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.datasets.normalise import CompactImage, choose_field_of_view, preprocess, preprocess_within
from pipeline.errors import ScanError
from pipeline.inference.answers import Answer
from pipeline.inference.engines.choice import TORCH, EngineChoice, Tell
from pipeline.memory import fits_memory
from pipeline.models.folded_norm import with_folded_norms
from pipeline.models.precision import precision_here
from pipeline.scans.field_of_view import detect_field_of_view, field_of_view
from pipeline.tasks.base import Task
from pipeline.tasks.fov import restrict_to_fov
from pipeline.types import Batch, CaseKey, LabelMap, Prediction, Scan

log = logging.getLogger(__name__)

_FAR_OFF = 1.5
"""Spacing that differs by more than this factor from training's is worth a warning."""

_PIXELS_AT_ONCE, _MOST_AT_ONCE = 2**23, 16
"""Of a batch on a GPU: eight photographs of 1000 x 1000, or that many B-scans. More are no faster, and wait for each other's files."""

_FINISHING_BYTES = 12
"""What the last step before a network and the first one behind it hold of each value."""


@dataclass(frozen=True, eq=False)
class PreprocessedScan:
    """A scan with what can be prepared before the network's turn: all of a 2-D image, nothing of a volume (it would not fit).

    ``said``: what the network has said of it already (:meth:`Predictor.look`)."""

    scan: Scan
    reduced: CompactImage | None
    warnings: tuple[str, ...]
    said: Prediction | None = None

    def noted(self, note: str) -> PreprocessedScan:
        """With ``note``, unless it is "", among what is told of the scan."""
        if not note:
            return self
        return replace(self, scan=replace(self.scan, warnings=(*self.scan.warnings, note)), warnings=(*self.warnings, note))


class Predictor:
    """A bundle on a device, its network run by an engine (inference/engines/, or ``auto``) and built when it is first used (:meth:`load`).

    ``ready``, ``look`` and, once it is loaded, ``finished`` may run in any thread; ``predict``, ``slices`` and ``together`` belong to
    one. ``explains``: predictions also say where the network looked, ``doubts``: where flips disagree, where the family can.
    ``batch``: how many images go together; on a CPU a smaller rest is filled up, so that no picture's result hangs on its neighbours.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device = "cpu",
        engine: str = TORCH,
        *,
        explains: bool = False,
        doubts: bool = False,
        batch: int | None = None,
    ) -> None:
        self.bundle, self._batch_size = bundle, batch
        self.device = torch.device(device)
        self.explains, self.doubts = explains, doubts
        self._engine = engine
        self._tell: Tell = lambda record: None
        self._network = threading.RLock()
        if engine != TORCH:
            self.load()  # it may be refused, which is to be known before any scan is read

    def load(self) -> None:
        """Build the network and start its engine, unless that has been done.

        Raises
        ------
        BundleError, ConfigError: the network cannot be built, or the engine cannot serve.
        """
        with self._network:
            self.engine  # noqa: B018 (builds both)

    @cached_property
    def task(self) -> Task:
        """The bundle's, on the device and as it runs fastest."""
        task = with_folded_norms(self.bundle.task.to(self.device))
        task.precision = precision_here(self.bundle.precision, self.device.type)
        task.explains, task.doubts = self.explains, self.doubts
        return task

    @cached_property
    def engine(self) -> EngineChoice:
        """What runs the network."""
        choice = EngineChoice(self._engine, self.task, self.bundle.input_channels, self.device.type)
        choice.tell(self._tell)
        return choice

    def tell_engine(self, of_choice: Tell) -> None:
        """Have ``of_choice`` called with the engine's record, as soon as there is one."""
        self._tell = of_choice
        if "engine" in vars(self):
            self.engine.tell(of_choice)

    def predict(self, scan: Scan, *, valid: npt.NDArray[np.bool_] | None = None) -> Prediction:
        """The whole scan in its source frame: probabilities float32 (K, H, W), or (K, D, H, W) of a volume; objects of a picture.

        ``valid`` bool (H, W) or (D, H, W) is the field of view where somebody knows it. It counts, as in training, for bundles whose
        settings say ``field_of_view: card``; others find it themselves, or see the whole picture.

        Raises
        ------
        ValueError: objects of a volume are told slice by slice (:meth:`slices`), because a Prediction's boxes have no slice.
        """
        ready = self.ready(scan, valid=valid)
        parts = list(self.slices(ready, valid=valid))
        if scan.pixels.ndim == 3:
            return parts[0]
        if parts[0].probabilities is None:
            raise ValueError("the objects of a volume are told slice by slice")
        return replace(parts[0], probabilities=_stack([p.probabilities for p in parts]))

    def ready(self, scan: Scan, *, valid: npt.NDArray[np.bool_] | None = None) -> PreprocessedScan:
        """Everything that may be done ahead, beside the network: for a 2-D image, its normalisation."""
        reduced = self._reduce(scan, scan.pixels, valid) if scan.pixels.ndim == 3 else None
        return PreprocessedScan(scan, reduced, self.warnings(scan))

    def look(self, scan: Scan) -> PreprocessedScan:
        """:meth:`ready` of a bundle that says what a scan as a whole is, with its word, which is due before that of others: of a volume,
        of its middle slice. It is told how it sees the scan, grey or in colour, by nobody: it measures nothing."""
        flat = scan.pixels.ndim == 3
        reduced = self._reduce(scan, scan.pixels if flat else scan.pixels[:, scan.geometry.slices // 2], None)
        (said,) = self._run(self._batch([reduced], [scan.case]))
        said = said if flat else replace(said, attention=None)  # a map belongs to a slice, and the other slices have none
        return PreprocessedScan(scan, reduced if flat else None, scan.warnings, said)

    def field_of_view(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Of a picture (C, H, W), bool (H, W), as :meth:`ready` finds it in a scan of the bundle's own kind."""
        return choose_field_of_view(pixels, self.bundle.config.data.normalise, self.bundle.modality, None)

    def ready_within(self, scan: Scan, field: npt.NDArray[np.bool_], detail: float = 1.0) -> PreprocessedScan:
        """:meth:`ready` of a picture whose field of view is known already, as of a video's frame before; ``detail`` below 1 shows the
        network a coarser picture than it was trained on, by that factor of its sides."""
        pixels = self._as_stored(scan.pixels)
        return PreprocessedScan(scan, preprocess_within(pixels, self.bundle.config.data.normalise, field, detail), ())

    def slices(self, ready: PreprocessedScan, *, valid: npt.NDArray[np.bool_] | None = None) -> Iterator[Prediction]:
        """One Prediction a slice, in order; a network that sees one slice at a time never has a long volume in memory as probabilities
        or instance masks.

        Raises
        ------
        ScanError: the network looks at neighbouring slices, and these do not lie on each other in the working frame.
        """
        if ready.said is not None:
            yield replace(ready.said, bundle_id=self.bundle.id, warnings=ready.warnings)
            return
        for batch, prepared in self.batches(ready, valid=valid):
            for prediction, reduced in zip(self._run(batch), prepared, strict=True):
                yield self.finished(prediction, reduced, ready.warnings)

    def together(self, scans: Sequence[PreprocessedScan]) -> list[Prediction]:
        """Photographs in one batch, as the network gives them: each is still to be :meth:`finished`, in any thread."""
        new = [one for one in scans if one.said is None]
        missing = 0 if self._batch_size is None or self.device.type != "cpu" or not new else self._batch_size - len(new)
        full = [*new, *[new[-1]] * missing] if new else []  # always of one size: what is found hangs on it, and on nothing else
        found = iter(self._run(self._batch([_photograph(one) for one in full], [one.scan.case for one in full])) if full else ())
        return [next(found) if one.said is None else one.said for one in scans]

    def finished(self, prediction: Prediction, reduced: CompactImage, warnings: Sequence[str]) -> Prediction:
        """What the network found of an image, inside its field of view, with what must be told of it."""
        shown = restrict_to_fov(prediction, reduced.source_valid)
        return replace(shown, bundle_id=self.bundle.id, warnings=(*shown.warnings, *warnings))

    def at_once(self, pixels: int) -> int:
        """How many images of so many pixels (rows times columns) go together: as the user says, else one on a CPU, and on a GPU as many
        as keep it busy."""
        if self._batch_size is not None and not self.bundle.volumes:
            return self._batch_size
        return 1 if self.device.type == "cpu" or self.bundle.volumes else max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // pixels))

    def _run(self, batch: Batch) -> list[Prediction]:
        self.load()  # outside of inference mode, whose tensors no gradient may pass, as where the network looked needs it
        with self._network, torch.inference_mode():
            self.engine.decide(lambda: self.task.predict(batch))
            return self.task.predict(batch)

    def batches(self, ready: PreprocessedScan, *, valid: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[Batch, list[CompactImage]]]:
        """What the network gets to see, and how each plane of it was prepared: some planes at a time, or one volume of all planes."""
        planes = self._planes(ready, valid)
        if self.bundle.volumes:
            prepared = list(planes)
            if any(reduced.placement != prepared[0].placement for reduced in prepared):
                raise ScanError("unsupported", "its slices have fields of view of different size, but the network looks at slices together")
            parts = [reduced.to_float(channels=self._stored_channels(), device=self.device) for reduced in prepared]
            image, inside = torch.stack([part[0] for part in parts], dim=1), torch.stack([part[1] for part in parts])
            yield Batch([image], [inside], [prepared[0].placement], [ready.scan.case]), prepared
            return
        while group := list(islice(planes, self.at_once(math.prod(ready.scan.geometry.plane)))):
            yield self._batch(group, [ready.scan.case] * len(group)), group

    def _batch(self, prepared: Sequence[CompactImage], cases: Sequence[CaseKey]) -> Batch:
        """Raises MemoryError where the steps around the network would take more than there is."""
        largest = max(max(one.pixels.size, one.source_valid.size * len(self.bundle.label_map)) for one in prepared)
        if not fits_memory(_FINISHING_BYTES * len(prepared) * largest):
            raise MemoryError
        parts = [one.to_float(channels=self._stored_channels(), device=self.device) for one in prepared]
        return Batch([image for image, _ in parts], [inside for _, inside in parts], [one.placement for one in prepared], cases)

    def _planes(self, ready: PreprocessedScan, valid: npt.NDArray[np.bool_] | None) -> Iterator[CompactImage]:
        if ready.reduced is not None:
            yield ready.reduced
            return
        for index in range(ready.scan.geometry.slices):
            yield self._reduce(ready.scan, ready.scan.pixels[:, index], None if valid is None else valid[index])

    @property
    def marked(self) -> LabelMap:
        """The classes of the mask that it makes; none of a bundle that says what a scan as a whole is."""
        return self.bundle.label_map if self.bundle.marks else LabelMap(())

    def answer(self, predictions: Sequence[Prediction]) -> Answer:
        """What it says of a scan as a whole, from the predictions of its planes."""
        label_map, thresholds = self.bundle.label_map, self.task.thresholds
        least = [thresholds.get(name, 0.0) for name in label_map.names]
        return Answer.of(self.bundle.config.name, label_map, predictions, least, self.bundle.id)

    def said(self, looked: PreprocessedScan) -> Answer:
        """What it said of a scan that it looked at (:meth:`look`)."""
        if looked.said is None:
            raise ValueError("nobody looked at this scan")
        return self.answer([looked.said])

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_] | None:
        """Boolean layers (K, ...) by the thresholds that validation chose; None where the bundle finds boxes without masks."""
        return self.task.layers(prediction)

    def warnings(self, scan: Scan) -> tuple[str, ...]:
        """What the reader noticed about a scan, and in which ways it is unlike what the bundle was trained on."""
        found = list(scan.warnings)
        if self.bundle.modality not in (scan.modality, "unknown"):
            kind = "of unknown modality" if scan.modality == "unknown" else f"{scan.modality}"
            found.append(f"the scan is {kind}, the bundle was trained on {self.bundle.modality}")
        stored, wanted = scan.pixels.shape[0], self._stored_channels()
        if wanted is not None and stored != wanted:
            found.append("grey pixels were repeated to colour" if stored == 1 else "colour pixels were turned to grey (Rec. 601)")
        trained, own = self.bundle.spacing_mm, scan.geometry.trusted().spacing_mm
        if trained is not None and own is not None:
            if _far_off(own[-1], trained[-1]):
                found.append(f"pixels are {own[-1]:.4g} mm wide, in training {trained[-1]:.4g} mm")
            if self.bundle.volumes and len(trained) == len(own) == 3 and _far_off(own[0], trained[0]):
                found.append(f"slices are {own[0]:.4g} mm apart, in training {trained[0]:.4g} mm")
        return tuple(found)

    def _stored_channels(self) -> int | None:
        """Channels of the raw pixels that training saw; None where the normalisation reduces any input to one channel."""
        return self.bundle.input_channels if self.bundle.config.data.normalise.channels == "as_stored" else None

    def _as_stored(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(C, H, W) with the channels of the pixels that training saw."""
        if self._stored_channels() != 1 or plane.shape[0] != 3:
            return plane
        grey = np.tensordot(np.array([0.299, 0.587, 0.114]), plane, axes=1)[None]
        return np.asarray(np.rint(grey) if np.issubdtype(plane.dtype, np.integer) else grey).astype(plane.dtype)

    def _reduce(self, scan: Scan, plane: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> CompactImage:
        # A file that does not say what it shows is taken for what the bundle knows.
        modality = self.bundle.modality if scan.modality == "unknown" else scan.modality
        pixels = self._as_stored(plane)

        def detect(pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
            return field_of_view(scan) if pixels is scan.pixels else detect_field_of_view(pixels)

        return preprocess(pixels, self.bundle.config.data.normalise, modality, valid, detect)


def _photograph(ready: PreprocessedScan) -> CompactImage:
    if ready.reduced is None:
        raise ValueError("a volume is predicted by itself")
    return ready.reduced


def _far_off(own: float | None, trained: float | None) -> bool:
    return own is not None and trained is not None and not 1 / _FAR_OFF < own / trained < _FAR_OFF


def _stack(planes: list[npt.NDArray[np.float32] | None]) -> npt.NDArray[np.float32] | None:
    known = [p for p in planes if p is not None]
    return np.stack(known, axis=1) if len(known) == len(planes) else None

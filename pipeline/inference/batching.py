"""The network on one case after another, or on several photographs of one size together, and what it found made ready to be written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from pipeline.inference.case_files import CaseResult, mask_dtype
from pipeline.inference.journal import Entry
from pipeline.inference.object_files import FoundObject, FoundObjects, compact
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.inference.profile import Profile
from pipeline.inference.writing import Job
from pipeline.measurements.by_role import SURFACES
from pipeline.measurements.surfaces import Surfaces
from pipeline.types import Prediction

Result = Callable[[], CaseResult]


class Batching:
    """Collects photographs until a batch of one size is complete.

    ``hand_over`` gets each case of which the network made something, and the rest of the work on it, which any thread may do; ``fail``
    each of which it made nothing. One case that fails does so alone: those that were in its batch are then looked at one by one.
    """

    def __init__(
        self,
        predictor: Predictor,
        profile: Profile,
        keep_probabilities: bool,
        hand_over: Callable[[Job, Result], None],
        fail: Callable[[Job, Exception], None],
    ) -> None:
        self._predictor, self._profile, self._keep = predictor, profile, keep_probabilities
        self._hand_over, self._fail = hand_over, fail
        self._jobs: list[Job] = []

    @property
    def entries(self) -> list[Entry]:
        """Of the cases that wait for others."""
        return [job.entry for job in self._jobs]

    def add(self, job: Job) -> None:
        size = _size(job.ready)
        if self._jobs and size != _size(self._jobs[0].ready):
            self.run()
        self._jobs.append(job)
        if size is None or len(self._jobs) >= self._predictor.at_once(math.prod(size[-2:])):
            self.run()

    def run(self) -> None:
        """Wait for no more photographs."""
        jobs, self._jobs = self._jobs, []
        if not jobs:
            return
        try:
            results = self._results(jobs)
        except Exception as error:  # one scan must not end the run
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(jobs) == 1:
                self._fail(jobs[0], error)
                return
            results = None
        if results is None:  # not inside `except`, whose traceback would keep the batch in memory
            for job in jobs:
                self._jobs = [job]
                self.run()
            return
        for job, result in zip(jobs, results, strict=True):
            self._hand_over(job, result)

    def _results(self, jobs: Sequence[Job]) -> list[Result]:
        began = time.perf_counter()
        with self._profile.stage("network"):
            if jobs[0].ready.reduced is None:  # a volume: each slice becomes a mask at once, as all of its probabilities would not fit
                (job,) = jobs
                made = self._assembled(job, self._predictor.slices(job.ready), job.entry.seconds)
                self._profile.count(job.ready.scan.geometry.slices)
                return [lambda: made]
            predictions = self._predictor.together([job.ready for job in jobs])
        self._profile.count(len(jobs))
        spent = (time.perf_counter() - began) / len(jobs)
        return [partial(self._photograph, job, found, job.entry.seconds + spent) for job, found in zip(jobs, predictions, strict=True)]

    def _photograph(self, job: Job, found: Prediction, seconds_before: float) -> CaseResult:
        """Runs in a writer's thread."""
        assert job.ready.reduced is not None
        with self._profile.stage("post-process"):
            return self._assembled(job, [self._predictor.finished(found, job.ready.reduced, job.ready.warnings)], seconds_before)

    def _assembled(self, job: Job, predictions: Iterable[Prediction], seconds_before: float) -> CaseResult:
        return _assemble(self._predictor, job.ready, predictions, job.entry.case, seconds_before, keep_probabilities=self._keep)


def _size(ready: PreprocessedScan) -> tuple[int, ...] | None:
    """What photographs must have in common to go together; None of a volume."""
    return None if ready.reduced is None else ready.reduced.pixels.shape


def _assemble(
    predictor: Predictor,
    ready: PreprocessedScan,
    predictions: Iterable[Prediction],
    name: str,
    seconds_before: float,
    *,
    keep_probabilities: bool,
) -> CaseResult:
    """Masks, objects and surfaces of a scan in its source frame, from the finished prediction of each plane.

    ``name`` is the case's, ``seconds_before`` what was spent on it before. Where the network runs as ``predictions`` are taken, this
    belongs to its thread.
    """
    began = time.perf_counter()
    label_map, dtype = predictor.bundle.label_map, mask_dtype(predictor.bundle.label_map)
    masks: list[npt.NDArray[np.unsignedinteger]] = []
    kept: list[npt.NDArray[np.float16]] = []
    objects: list[list[FoundObject]] = []
    depths: list[npt.NDArray[np.float32]] = []
    has_masks = True
    warnings: tuple[str, ...] = ()
    for plane, prediction in enumerate(predictions):
        layers = predictor.layers(prediction)
        if layers is None:
            masks.append(np.zeros(ready.scan.geometry.plane, dtype))
        else:
            masks.append(label_map.mask(layers).astype(dtype))
        warnings = tuple(dict.fromkeys((*warnings, *prediction.warnings)))
        if prediction.boxes is not None:
            objects.append(compact(prediction, plane))
            has_masks = has_masks and prediction.instance_masks is not None
        if SURFACES.places(label_map) and prediction.probabilities is not None:
            depths.append(SURFACES.measure(prediction.probabilities, label_map).depth)
        if keep_probabilities:
            assert prediction.probabilities is not None
            kept.append(prediction.probabilities.astype(np.float16))
    flat = ready.scan.pixels.ndim == 3
    mask = masks[0] if flat else np.stack(masks)
    chances = None if not kept else kept[0] if flat else np.stack(kept, axis=1)
    found = None
    if objects:
        found = FoundObjects.of(objects, has_masks, label_map, predictor.task.thresholds)
        if len(found.objects) < sum(map(len, objects)):
            warnings += (f"only the highest-scoring {len(found.objects)} objects were kept",)
    surfaces = Surfaces(label_map.surface_names, np.concatenate(depths, axis=1)) if depths else None
    seconds = seconds_before + time.perf_counter() - began
    return CaseResult(ready.scan, name, mask, chances, warnings, predictor.bundle.id, seconds, found, surfaces)

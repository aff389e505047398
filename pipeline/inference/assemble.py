"""What the networks found of one scan, ready to be written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.doubt.evidence import Gathering, united
from pipeline.doubt.look import look, unlike
from pipeline.inference.case_files import CaseResult, mask_dtype
from pipeline.inference.laterality import with_sides
from pipeline.inference.model_set import PreparedCase
from pipeline.inference.object_files import FoundObject, FoundObjects, compact
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.measurements.surfaces import Surfaces, find_surfaces, together
from pipeline.metrics.threshold import decide_both_ways
from pipeline.types import LabelMap, Prediction


def assemble(
    predictor: Predictor,
    ready: PreprocessedScan,
    predictions: Iterable[Prediction],
    name: str,
    seconds_before: float,
    *,
    keep_probabilities: bool,
) -> CaseResult:
    """Masks, objects, surfaces and the answer of a scan in its source frame, from the finished prediction of each plane.

    ``name`` is the case's, ``seconds_before`` what was spent on it before. Where the network runs as ``predictions`` are taken, this
    belongs to its thread.
    """
    began = time.perf_counter()
    label_map = predictor.marked
    dtype = mask_dtype(label_map)
    masks: list[npt.NDArray[np.unsignedinteger]] = []
    kept: list[npt.NDArray[np.float16]] = []
    objects: list[list[FoundObject]] = []
    found_surfaces: list[Surfaces] = []
    leaning: list[tuple[npt.NDArray[np.unsignedinteger], ...]] = []
    graded: list[Prediction] = []
    has_masks = True
    doubt, area = Gathering(label_map, predictor.bundle.doubt), None if ready.reduced is None else int(ready.reduced.source_valid.sum())
    warnings: tuple[str, ...] = ()
    for plane, prediction in enumerate(predictions):
        layers = predictor.layers(prediction)
        if layers is None:
            masks.append(np.zeros(ready.scan.geometry.plane, dtype))
        else:
            masks.append(label_map.mask(layers).astype(dtype))
        doubt.add(prediction, layers, area)
        warnings = tuple(dict.fromkeys((*warnings, *prediction.warnings)))
        if prediction.boxes is not None:
            objects.append(compact(prediction, plane))
            has_masks = has_masks and prediction.instance_masks is not None
        if label_map.layered and prediction.probabilities is not None:
            found_surfaces.append(find_surfaces(prediction.probabilities, label_map))
        if label_map.classes and prediction.probabilities is not None:
            both = decide_both_ways(prediction.probabilities, label_map, predictor.task.thresholds)
            leaning.append(tuple(label_map.mask(own).astype(dtype) for own in both))
        if prediction.grade_probabilities is not None:
            graded.append(prediction)
        elif keep_probabilities:
            assert prediction.probabilities is not None
            kept.append(prediction.probabilities.astype(np.float16))
    flat = ready.scan.pixels.ndim == 3
    mask = np.zeros(ready.scan.geometry.shape, dtype) if not label_map.classes else masks[0] if flat else np.stack(masks)
    chances = None if not kept else kept[0] if flat else np.stack(kept, axis=1)
    found = None
    if objects:
        found = FoundObjects.of(objects, has_masks, label_map, predictor.task.thresholds)
        if len(found.objects) < sum(map(len, objects)):
            warnings += (f"only the highest-scoring {len(found.objects)} objects were kept",)
    less_and_more = tuple(own[0] if flat else np.stack(own) for own in zip(*leaning, strict=True)) if leaning else ()
    seconds = seconds_before + time.perf_counter() - began
    return CaseResult(
        ready.scan,
        name,
        label_map,
        mask,
        chances,
        warnings,
        predictor.bundle.id,
        seconds,
        found,
        together(found_surfaces) if found_surfaces else None,
        (predictor.answer(graded),) if graded else (),
        leaning=less_and_more,
        engine=predictor.engine.name,
        evidence=doubt.evidence(flat, _unlike(predictor, ready)),
    )


def _unlike(predictor: Predictor, ready: PreprocessedScan) -> float | None:
    """How far a picture is from those of training; None of a volume, and where the bundle does not know."""
    training = predictor.bundle.doubt.look
    if training is None or ready.reduced is None:
        return None
    return round(unlike(training, look(ready.scan.pixels, ready.reduced.source_valid)), 4)


def merge(results: Sequence[CaseResult], case: PreparedCase) -> CaseResult:
    """What the networks that fit a scan found of it as one case, with the classes of ``case``: theirs, one list after the other."""
    return with_sides(_merged(results, case))


def _merged(results: Sequence[CaseResult], case: PreparedCase) -> CaseResult:
    first, label_map = results[0], case.label_map
    if len(results) == 1:  # where other bundles see other kinds of scans, its classes are not the run's
        return replace(first, found_by=dict.fromkeys(label_map.names, first.bundle_id)) if case.of_several else first
    marking = [one for one in results if one.label_map.classes]
    mask = marking[0].mask if len(marking) == 1 else first.mask
    if len(marking) > 1:
        mask = label_map.mask(np.concatenate([one.label_map.layers(one.mask) for one in marking])).astype(mask_dtype(label_map))
    chances = [one.probabilities for one in marking if one.probabilities is not None]
    found_by: dict[str, str] = {}
    past = 0
    found: list[FoundObject] = []
    thresholds: dict[str, float] = {}
    for one in results:
        own = label_map.classes[past : past + len(one.label_map)]
        found_by |= {cls.name: one.bundle_id for cls in own}
        if one.found is not None:
            found += [replace(o, label=o.label + past) for o in one.found.objects]
            thresholds |= {cls.name: one.found.thresholds[name] for cls, name in zip(own, one.label_map.names, strict=True)}
        past += len(own)
    has_masks = any(one.found is not None and one.found.has_masks for one in results)
    return replace(
        first,
        label_map=label_map,
        mask=mask,
        leaning=_leaning(results, label_map),
        probabilities=np.concatenate(chances) if chances and len(chances) == len(marking) else None,
        warnings=tuple(dict.fromkeys(warning for one in results for warning in one.warnings)),
        bundle_id="+".join(one.bundle_id for one in results),
        engine="+".join(one.engine for one in results),
        seconds=sum(one.seconds for one in results),
        found=FoundObjects.ranked(found, has_masks, thresholds) if thresholds else None,
        surfaces=next((one.surfaces for one in results if one.surfaces is not None), None),  # layers share a case with no other mask
        answers=tuple(answer for one in results for answer in one.answers),
        found_by=found_by,
        evidence=united([one.evidence for one in results], [one.label_map.names for one in results], mask, label_map),
    )


def _leaning(results: Sequence[CaseResult], label_map: LabelMap) -> tuple[npt.NDArray[np.unsignedinteger], ...]:
    """Those of all networks as one; of a network without any, what it found stands for both."""
    if not any(one.leaning for one in results):
        return ()
    pairs = [one.leaning or (one.mask, one.mask) for one in results]
    joined = (
        np.concatenate([one.label_map.layers(own) for one, own in zip(results, side, strict=True)]) for side in zip(*pairs, strict=True)
    )
    return tuple(label_map.mask(layers).astype(mask_dtype(label_map)) for layers in joined)

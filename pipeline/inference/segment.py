"""One scan in memory, all that models say of it out: the Python counterpart of ``ocuseg segment``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle, open_bundle
from pipeline.bundles.shipped_models import choose_models
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.assemble import assemble, merge
from pipeline.inference.assess import assess
from pipeline.inference.case_files import CaseResult
from pipeline.inference.model_set import ModelSet, finds_objects
from pipeline.inference.predict import Predictor
from pipeline.scans.array import scan_of_array
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.stated import fill, scale_of, stated
from pipeline.training.platform import prepare_machine
from pipeline.types import Modality, Prediction, Scan

Model = Bundle | Path | str
"""A bundle, its folder, or the name of a model that comes with ocuseg."""


def segment(
    scan: Scan | Path | str | npt.NDArray[Any],
    models: Model | Sequence[Model] | None = None,
    *,
    modality: Modality | None = None,
    spacing_mm: Sequence[float | None] | None = None,
    field_angle: float | None = None,
    axial_length: float | None = None,
    device: str = "auto",
) -> Prediction:
    """What every model that fits a scan says of it.

    Parameters
    ----------
    scan: the path of one, a picture as an array (H, W) or (H, W, 3), an OCT volume as an array (D, H, W), or a Scan. An array may have any
        integer or float dtype and any range, as a network sees values relative to each other. Its colours are red, green, blue: OpenCV's
        come the other way round, so give ``array[..., ::-1]`` of a picture that it has read.
    models: one or several of bundles, their folders, and names of models that come with ocuseg (`ocuseg models`); by default all of the
        latter, but for `lesions`, which is weak, and those that find nothing which another one does not. A loaded bundle
        (:func:`load_bundle`) saves reading it anew for each scan.
    modality: the kind of scan, where a file does not say it (what it says counts); of an array fundus, where nothing is given.
    spacing_mm: ([slices,] rows, columns) in mm, None for an axis that nobody knows; what a file says counts.
    field_angle, axial_length: of the whole field of a photograph in degrees, for an estimate; of the eye in mm (docs/geometry.md).
    device: auto, cpu or cuda.

    Returns
    -------
    In the scan's own frame: ``masks`` bool (K, [D,] H, W) with the names in ``label_map`` (``mask(NAME)`` is one of them),
    ``probabilities`` float32 of the same shape where no model finds objects, ``boxes``, ``labels`` and ``scores`` of a picture where one
    does, ``answers`` of those that say what the scan as a whole is, ``geometry``, ``warnings`` that a reader should see, ``quality`` of the
        scan (its grade, reasons and scores) and ``flags`` on what cannot be true of an eye.

    Raises
    ------
    ScanError: the file cannot be read, the array is no picture, or no model is for its kind. BundleError, ConfigError: a model or a
    setting cannot be used.
    """
    pixel_mm = None if spacing_mm is None or isinstance(scan, np.ndarray) else spacing_mm  # an array has it from the beginning
    said = stated(modality, pixel_mm, field_angle=field_angle, axial_length=axial_length)
    scan = fill(said, Pseudonyms.unkeyed(), _scan(scan, modality, spacing_mm), None)
    case = ModelSet([Predictor(bundle, prepare_machine(device)) for bundle in _bundles(models)], scale_of(said)).ready(scan)
    results = [
        assemble(predictor, ready, predictor.slices(ready), str(scan.case), 0.0, keep_probabilities=not finds_objects(predictor.bundle))
        for predictor, ready in zip(case.predictors, case.prepared, strict=True)
    ]
    return _prediction(assess(merge(results, case)))


def _bundles(models: Model | Sequence[Model] | None) -> list[Bundle]:
    """Opened: a network that the scan is not for is never built."""
    if models is None:
        models = [*choose_models().bundles.values()]
    elif isinstance(models, (Bundle, Path, str)):
        models = [models]
    if not models:
        raise ConfigError("models is empty: name at least one, or leave it out for all that come with ocuseg")
    return [one if isinstance(one, Bundle) else open_bundle(one) for one in models]


def _scan(scan: Any, modality: Modality | None, spacing_mm: Sequence[float | None] | None) -> Scan:
    if isinstance(scan, np.ndarray):
        return scan_of_array(scan, modality or "fundus", spacing_mm)
    if isinstance(scan, Scan):
        return scan
    if isinstance(scan, (Path, str)):
        return open_scan(scan)
    kind = type(scan).__name__
    raise ScanError("not_an_image", f"a scan of type {kind} is no array, path or Scan; numpy.asarray makes an array of a picture")


def _prediction(result: CaseResult) -> Prediction:
    found = None if result.found is None or result.mask.ndim == 3 else result.found.objects
    return Prediction(
        probabilities=None if result.probabilities is None else result.probabilities.astype(np.float32),
        boxes=None if found is None else np.array([one.box for one in found], np.float32).reshape(-1, 4),
        labels=None if found is None else np.array([one.label for one in found], np.int64),
        scores=None if found is None else np.array([one.score for one in found], np.float32),
        bundle_id=result.bundle_id,
        warnings=result.warnings,
        grade_probabilities=result.answers[0].probabilities if len(result.answers) == 1 else None,
        answers={one.name: one.answer for one in result.answers},
        masks=result.label_map.layers(result.mask),
        geometry=result.scan.geometry,
        label_map=result.label_map,
        quality=result.assessment.quality,
        flags=result.assessment.flags,
    )

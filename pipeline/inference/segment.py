"""One scan in memory, all that models say of it out: the Python counterpart of ``ocuseg segment``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.bundles.shipped_models import choose_models
from pipeline.inference.assemble import assemble, merge
from pipeline.inference.case_files import CaseResult
from pipeline.inference.model_set import ModelSet, finds_objects
from pipeline.inference.predict import Predictor
from pipeline.scans.open import open_scan
from pipeline.training.platform import prepare_machine
from pipeline.types import CaseKey, Geometry, Modality, Prediction, Scan, Spacing


def segment(
    scan: Scan | Path | str | npt.NDArray[Any],
    models: Sequence[Bundle | Path | str] | None = None,
    *,
    modality: Modality = "fundus",
    spacing_mm: Spacing | None = None,
    device: str = "auto",
) -> Prediction:
    """What every model that fits a scan says of it.

    Parameters
    ----------
    scan: a Scan, the path of one, or a picture as an array (H, W) or (H, W, 3) of any integer or float dtype.
    models: bundles, their folders, or names of models that come with ocuseg (`ocuseg models`); all of the latter by default. A loaded
        bundle (:func:`load_bundle`) saves reading it anew for each scan.
    modality, spacing_mm: of an array; (rows, columns) in mm, or None where nobody knows it.
    device: auto, cpu or cuda.

    Returns
    -------
    In the scan's own frame: ``masks`` bool (K, [D,] H, W) with the names in ``label_map``, ``probabilities`` where no model finds objects,
    ``boxes``, ``labels`` and ``scores`` of a picture where one does, ``geometry``, and ``warnings`` that a reader should see.

    Raises
    ------
    ScanError: the file cannot be read, or no model is for its kind. BundleError, ConfigError: a model cannot be used.
    """
    wanted = [*choose_models().bundles.values()] if models is None else models
    bundles = [one if isinstance(one, Bundle) else load_bundle(one) for one in wanted]
    group = ModelSet([Predictor(bundle, prepare_machine(device)) for bundle in bundles])
    if isinstance(scan, np.ndarray):
        scan = _scan_of(scan, modality, spacing_mm)
    elif not isinstance(scan, Scan):
        scan = open_scan(Path(scan))
    case = group.ready(scan)
    results = [
        assemble(predictor, ready, predictor.slices(ready), str(scan.case), 0.0, keep_probabilities=not finds_objects(predictor.bundle))
        for predictor, ready in zip(case.predictors, case.prepared, strict=True)
    ]
    return _prediction(merge(results, case))


def _scan_of(picture: npt.NDArray[Any], modality: Modality, spacing_mm: Spacing | None) -> Scan:
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        raise ValueError(f"an array of shape {picture.shape} is no picture (H, W) or (H, W, 3); give a volume as a Scan")
    pixels = np.ascontiguousarray(np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture[None])
    geometry = Geometry(pixels.shape[1:], spacing_mm=spacing_mm, spacing_source="unknown" if spacing_mm is None else "user")
    return Scan(pixels, geometry, modality, CaseKey("array", "U", "0", "0"), hashlib.sha256(pixels.tobytes()).hexdigest())


def _prediction(result: CaseResult) -> Prediction:
    found = None if result.found is None or result.mask.ndim == 3 else result.found.objects
    return Prediction(
        probabilities=None if result.probabilities is None else result.probabilities.astype(np.float32),
        boxes=None if found is None else np.array([one.box for one in found], np.float32).reshape(-1, 4),
        labels=None if found is None else np.array([one.label for one in found], np.int64),
        scores=None if found is None else np.array([one.score for one in found], np.float32),
        bundle_id=result.bundle_id,
        warnings=result.warnings,
        masks=result.label_map.layers(result.mask),
        geometry=result.scan.geometry,
        label_map=result.label_map,
    )

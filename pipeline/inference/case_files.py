"""The files of one predicted case: written aside, made durable, then moved into place in one step.

A case folder that exists is complete: it appears by a single rename, after everything in it has reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.atomic import sync, write_text
from pipeline.doubt.evidence import Evidence
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.answers import Answer
from pipeline.inference.assessment import Assessment
from pipeline.inference.doubts import write_maps
from pipeline.inference.object_files import FoundObjects, write_objects
from pipeline.inference.profile import Profile
from pipeline.inference.surface_files import (
    DEVICE_FILE,
    device_records,
    fluid_records,
    layer_records,
    write_fluid_components,
    write_surfaces,
)
from pipeline.measurements.device_lines import drawn_surfaces
from pipeline.measurements.surfaces import Surfaces
from pipeline.scans.browser_copy import SHOWN, browser_copy
from pipeline.scans.display import displayed
from pipeline.scans.files import open_regular
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import CaseKey, LabelMap, Scan
from pipeline.types.case_record import CASE_FILE, CaseRecord, ClassRecord, GeometryRecord, PlaneRecord


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What is written of one scan. ``mask`` unsigned (H, W) or (D, H, W), in the encoding of ``label_map``; ``probabilities`` float
    (K, [D,] H, W) or None; ``found`` of a detection bundle, also where it found nothing; ``surfaces`` of a bundle with layers.

    ``answers`` of bundles that say what the scan as a whole is · ``evidence``: what the networks know of their doubt. A
    ``label_map`` without classes has no mask to write. ``leaning``: two masks with less and with more of each class, which the
    probabilities allow (metrics/threshold.py), or none. ``assessment``: how far it may be believed, and what was measured
    (inference/assess.py).

    ``engine`` ran the network. ``found_by``: the id of the bundle that found each class, by the class's name, where the run has several
    (inference/model_set.py); ``bundle_id`` and ``engine`` then join theirs by "+".
    """

    scan: Scan
    case: str
    label_map: LabelMap
    mask: npt.NDArray[np.unsignedinteger[Any]]
    probabilities: npt.NDArray[np.floating[Any]] | None
    warnings: tuple[str, ...]
    bundle_id: str
    seconds: float
    found: FoundObjects | None = None
    surfaces: Surfaces | None = None
    answers: tuple[Answer, ...] = ()
    found_by: Mapping[str, str] = field(default_factory=dict)
    engine: str = "torch"
    leaning: tuple[npt.NDArray[np.unsignedinteger[Any]], ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    assessment: Assessment = field(default_factory=Assessment)


def mask_dtype(label_map: LabelMap) -> type[np.uint8] | type[np.uint16]:
    """The smallest PNG sample that holds every mask value of a label map.

    Raises
    ------
    ConfigError: more than 16 overlapping classes do not fit into a PNG.
    """
    largest = (1 << len(label_map)) - 1 if label_map.overlapping else len(label_map)
    if largest > np.iinfo(np.uint16).max:
        raise ConfigError(f"{len(label_map)} overlapping classes do not fit into a 16-bit mask; predict with at most 16")
    return np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16


@dataclass(frozen=True)
class Staging:
    """Where one process makes its cases: ``made``, of which ``moved`` (the same, or a folder on the disk of OUT) takes them over."""

    made: Path
    moved: Path

    @classmethod
    def of(cls, out: Path, process: str = "", aside: Path | None = None) -> Staging:
        """Of a ``process`` among those that share ``out``; with a folder ``aside``, cases are made in there and moved whole."""
        moved = out / ".staging" / process
        return cls(moved if aside is None else aside / "cases", moved)

    def close(self) -> None:
        for path in {self.made, self.moved}:
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self.moved.parent.rmdir()


def write_case(out: Path, result: CaseResult, profile: Profile | None = None, staging: Staging | None = None) -> str:
    """Write ``out/cases/<case>`` whole or not at all; the name that it has got, as another content may have this one (:func:`suffixed`).

    Where the folder is there already, written by another process, nothing changes.

    Raises
    ------
    OSError: the disk is full, or the folder cannot be written.
    """
    staging, profile = staging or Staging.of(out), profile or Profile()
    made, moved = staging.made / result.case, staging.moved / result.case
    for path in {made, moved}:
        shutil.rmtree(path, ignore_errors=True)
    made.mkdir(parents=True)
    with profile.stage("encode"):
        _write_files(made, result)
    with profile.stage("write"):
        if made != moved:
            shutil.copytree(made, moved)
            shutil.rmtree(made)
        for path in moved.iterdir():
            sync(path)
        sync(moved)
        final = out / "cases" / result.case
        try:
            moved.rename(final)
        except OSError:
            there = recorded_sha256(final)
            if there is None:
                raise
            shutil.rmtree(moved)
            other = suffixed(CaseKey.parse(result.case), result.scan.sha256)
            if there != result.scan.sha256 and other != result.case:
                return write_case(out, replace(result, case=other), profile, staging)
            return result.case
        sync(final.parent)
    return result.case


def suffixed(case: CaseKey, sha256: str) -> str:
    """The name of a case whose own name another content has."""
    return str(replace(case, image=f"{case.image[:51]}-{sha256[:12]}"))


def _write_files(staged: Path, result: CaseResult) -> None:
    scan, label_map = result.scan, result.label_map
    planes = _write_planes(staged, scan, result.mask if label_map.classes else None)
    if label_map.classes:
        write_nifti(staged / "mask.nii.gz", result.mask, scan.geometry)
    if result.probabilities is not None:
        stored = {name: layer.astype(np.float16) for name, layer in zip(label_map.names, result.probabilities, strict=True)}
        np.savez_compressed(staged / "probabilities.npz", **stored)
    if result.found is not None:
        write_objects(staged, result.found, label_map, scan.geometry, result.bundle_id, [plane.image for plane in planes])
    of_layers: dict[str, Any] = {}
    if (device := drawn_surfaces(scan.lines)) is not None:
        write_surfaces(staged, device, DEVICE_FILE)
        of_layers["device"] = {} if result.surfaces is None else device_records(result.surfaces, device, scan.geometry)
    if result.surfaces is not None:
        write_surfaces(staged, result.surfaces)
        of_layers["layers"] = layer_records(result.assessment.measures, label_map)
        if result.mask.ndim == 3:
            write_fluid_components(staged, result.mask, label_map, scan.geometry)
            of_layers["fluid_components"] = fluid_records(result.assessment.measures, label_map)
    if result.answers:
        of_layers["answers"] = tuple(answer.write(staged, number) for number, answer in enumerate(result.answers))
    write_maps(staged, result.assessment)
    write_json(staged / CASE_FILE, _record(result, planes, of_layers).to_json())


def _write_planes(folder: Path, scan: Scan, mask: npt.NDArray[np.unsignedinteger[Any]] | None) -> list[PlaneRecord]:
    """Each plane as it is shown, and its mask, where there is one."""
    flat = scan.pixels.ndim == 3
    own = _browser_copy(scan) if flat else None
    image = None if own is not None else displayed(scan.pixels)
    planes = []
    for index in range(scan.geometry.slices):
        name = f"image_{index:03d}." + ("png" if own is None else own[0])
        if own is not None:
            (folder / name).write_bytes(own[1])
        elif image is not None:
            plane = image if flat else image[:, index]
            write_png(folder / name, plane[0] if len(plane) == 1 else np.moveaxis(plane, 0, -1))
        if mask is None:
            planes.append(PlaneRecord(index=index, image=name))
            continue
        write_png(folder / f"mask_{index:03d}.png", mask if flat else mask[index])
        planes.append(PlaneRecord(index=index, image=name, mask=f"mask_{index:03d}.png"))
    return planes


def _browser_copy(scan: Scan) -> tuple[str, bytes] | None:
    """The photograph's own data where a browser can show them (scans/browser_copy.py) and the file is still the one that was read."""
    if scan.source is None or scan.pixels.dtype != np.uint8:
        return None
    try:
        with open_regular(scan.source) as file:
            start = file.read(8)
            if not start.startswith(SHOWN):
                return None
            data = start + file.read(scan.pixels.nbytes)  # a larger one is better encoded anew
    except (ScanError, OSError):
        return None
    return browser_copy(data, scan.geometry.plane) if hashlib.sha256(data).hexdigest() == scan.sha256 else None


def _record(result: CaseResult, planes: Sequence[PlaneRecord], of_layers: dict[str, Any]) -> CaseRecord:
    classes = {}
    for cls, layer in zip(result.label_map.classes, result.label_map.layers(result.mask), strict=True):
        stack = layer if layer.ndim == 3 else layer[None]
        facts: dict[str, Any] = {"pixels": int(np.count_nonzero(stack)), "slices": int(stack.any(axis=(1, 2)).sum())}
        if result.found is not None and cls.name in result.found.thresholds:
            facts["objects"] = len(result.found.counted(cls))
        if cls.name in result.found_by:
            facts["bundle_id"] = result.found_by[cls.name]
        classes[cls.name] = ClassRecord(**facts)
    of_several = {"label_map": result.label_map.to_json()} if result.found_by else {}
    return CaseRecord(
        case=result.case,
        modality=result.scan.modality,
        modality_source=result.scan.modality_source,
        patient_source=result.scan.patient_source,
        geometry=GeometryRecord.of(result.scan.geometry),
        sha256=result.scan.sha256,
        bundle_id=result.bundle_id,
        engine=result.engine,
        **of_several,
        warnings=result.warnings,
        classes=classes,
        planes=tuple(planes),
        pixel_type=result.scan.pixels.dtype.name,
        **of_layers,
        **result.assessment.fields(),
    )


def recorded_sha256(folder: Path) -> str | None:
    """Of the file that a finished case folder was made of: None where there is no such folder, "" where somebody spoilt its record."""
    try:
        return CaseRecord.read(folder).sha256
    except OSError:
        return "" if folder.exists() else None
    except ValueError:
        return ""


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically and durably."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")

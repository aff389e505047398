"""A reviewer's corrections on the disk: PREDICTIONS/review/corrections/<name>/, whole or not at all, and never changed.

The name is a SHA-256 of all that the folder holds, so that an event of the log which names it also says what is in it. It appears by
one rename, before the event is written: a process killed in between leaves a folder that no event names, which nothing reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.atomic import new_folder
from pipeline.errors import OcusegError, ScanError
from pipeline.review.log import REVIEW
from pipeline.scans.raster import png_of, read_pages
from pipeline.types.assessment import Record
from pipeline.types.case_record import first_fault

CORRECTIONS = "corrections"
CORRECTION_FILE, SURFACES_FILE, OBJECTS_FILE = "correction.json", "surfaces.json", "objects.json"
_RECORDS = (CORRECTION_FILE, SURFACES_FILE, OBJECTS_FILE)
_ANSWER = ("mask.nii.gz", "mask_*.png", "instances_*.png", "objects.json", "surfaces.csv")
"""Files of a case that hold what the model found."""
_A_DAY_S = 24 * 3600
_NAME = re.compile(r"[0-9a-f]{64}")
_MASK = re.compile(r"mask_(\d{3,6})\.png")


class CorrectedObject(Record):
    """``plane`` counts slices from 0 · ``box`` xyxy in source pixels · ``score`` None where a reviewer drew it · ``segmentation``: COCO run
    lengths of its mask, None of an object that is a box alone."""

    id: int = Field(ge=1)
    plane: int = Field(0, ge=0)
    name: str = Field(alias="class")
    score: float | None = Field(None, ge=0, le=1)
    box: tuple[float, float, float, float]
    segmentation: dict[str, Any] | None = None


class CorrectionRecord(Record):
    """``correction.json``. ``base``: hash of what the model had found (:func:`model_sha256`) · ``parent``: the correction that this one
    continues, or "" · ``tools`` and ``seconds`` that the reviewer used."""

    case: str
    base: str
    bundle_id: str = ""
    parent: str = ""
    tools: tuple[str, ...] = ()
    seconds: float | None = Field(None, ge=0)


@dataclass(frozen=True, eq=False)
class Correction:
    """``masks``: one plane each, (H, W) in the case's own encoding, none where the case marks no pixels · ``surfaces``: depth float32
    (D, W) of each by name, NaN where there is none, {} of a case without layers · ``objects``: None of a case without objects."""

    record: CorrectionRecord
    masks: tuple[npt.NDArray[np.unsignedinteger[Any]], ...] = ()
    surfaces: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    objects: tuple[CorrectedObject, ...] | None = None


def mask_file(plane: int) -> str:
    return f"mask_{plane:03d}.png"


def corrections_folder(predictions: Path) -> Path:
    return predictions / REVIEW / CORRECTIONS


def model_sha256(case_folder: Path) -> str:
    """SHA-256 of what the model found in a case: the name and SHA-256 of each file of its masks, instances, objects and surfaces."""
    files = sorted(path for pattern in _ANSWER for path in case_folder.glob(pattern))
    return _digest({path.name: path.read_bytes() for path in files})


def write_correction(predictions: Path, correction: Correction) -> str:
    """Store a correction and return its name; it has reached the disk when this returns. The same correction is stored once."""
    files, name = _files(correction), name_of(correction)
    folder = corrections_folder(predictions) / name
    if not folder.is_dir():
        with new_folder(folder) as staged:
            for file, content in files.items():
                (staged / file).write_bytes(content)
    return name


def name_of(correction: Correction) -> str:
    return _digest(_files(correction))


def remove_leftovers(predictions: Path) -> None:
    """Remove what processes that were killed days ago had begun to write; of a younger one the process may live, here or elsewhere."""
    for path in corrections_folder(predictions).glob(".*.part"):
        if time.time() - path.stat().st_mtime > _A_DAY_S:
            shutil.rmtree(path, ignore_errors=True)


def read_correction(predictions: Path, name: str) -> Correction:
    """The correction that an event names.

    Raises
    ------
    OcusegError: it is missing, or not as it was written.
    """
    files = read_files(predictions, name)
    try:
        record = CorrectionRecord.model_validate_json(files[CORRECTION_FILE])
        numbers = sorted(int(named[1]) for named in map(_MASK.fullmatch, files) if named)
        masks = tuple(_mask(files[mask_file(number)]) for number in numbers)
        surfaces = surfaces_of(json.loads(files[SURFACES_FILE])) if SURFACES_FILE in files else {}
        listed = json.loads(files[OBJECTS_FILE]) if OBJECTS_FILE in files else None
        objects = None if listed is None else tuple(map(CorrectedObject.model_validate, listed))
    except (ValueError, KeyError, TypeError, ScanError) as error:
        raise OcusegError(f"correction {name[:12]} cannot be read ({first_fault(error)})") from None
    return Correction(record, masks, surfaces, objects)


def read_files(predictions: Path, name: str) -> dict[str, bytes]:
    """The files of a correction by name, checked against the correction's own; what else a file manager left there is passed over.

    Raises
    ------
    OcusegError: it is missing, or not as it was written.
    """
    if not _NAME.fullmatch(name):
        raise OcusegError("a correction is named by 64 hexadecimal digits")
    try:
        there = sorted((corrections_folder(predictions) / name).iterdir())
        files = {path.name: path.read_bytes() for path in there if _MASK.fullmatch(path.name) or path.name in _RECORDS}
    except OSError:
        raise OcusegError(f"correction {name[:12]} is missing; restore the folder {REVIEW} from a backup") from None
    if _digest(files) != name:
        raise OcusegError(f"correction {name[:12]} was changed after it was stored; restore the folder {REVIEW} from a backup")
    return files


def surfaces_of(listed: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """[{"name", "plane", "rows"}] -> depth float32 (D, W) by name; None becomes NaN. Raises ValueError or KeyError where planes are
    missing or their widths differ."""
    rows: dict[str, dict[int, Any]] = {}
    for one in listed:
        rows.setdefault(one["name"], {})[one["plane"]] = one["rows"]
    return {name: np.array([planes[at] for at in range(len(planes))], np.float32) for name, planes in rows.items()}


def listed_surfaces(surfaces: Mapping[str, npt.NDArray[np.float32]]) -> list[dict[str, Any]]:
    """The inverse of :func:`surfaces_of`, to hundredths of a pixel."""

    def row(depth: float) -> float | None:
        return None if math.isnan(depth) else round(depth, 2)

    planes = [(name, at, plane) for name, depth in surfaces.items() for at, plane in enumerate(depth.tolist())]
    return [{"name": name, "plane": at, "rows": list(map(row, plane))} for name, at, plane in planes]


def _files(correction: Correction) -> dict[str, bytes]:
    files = {mask_file(at): png_of(mask) for at, mask in enumerate(correction.masks)}
    files[CORRECTION_FILE] = _json(correction.record.to_json())
    if correction.surfaces:
        files[SURFACES_FILE] = _json(listed_surfaces(correction.surfaces))
    if correction.objects is not None:
        files[OBJECTS_FILE] = _json([one.to_json() for one in correction.objects])
    return files


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def _mask(content: bytes) -> npt.NDArray[np.unsignedinteger[Any]]:
    return read_pages(io.BytesIO(content), "png")[0]


def _digest(files: Mapping[str, bytes]) -> str:
    """Of names and contents: SHA-256 of the lines that `sha256sum *` would print."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

"""How a worker's result travels to its parent: one line of JSON, followed by the pixels as they are in memory.

Nothing is pickled: a decoder that a hostile file has taken over could otherwise run code in the parent.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.record import Opened
from pipeline.types import CaseKey, Geometry, NiftiFrame, Scan, SeriesSlice

_APART = ("pixels", "geometry", "case", "source", "piece", "field_found", "lines")


def path_to_text(path: Path) -> str:
    """Any path, whatever bytes it holds, as ASCII."""
    return base64.b64encode(os.fsencode(path)).decode("ascii")


def path_from_text(text: str) -> Path:
    return Path(os.fsdecode(base64.b64decode(text)))


def pack(opened: Opened) -> tuple[dict[str, Any], npt.NDArray[Any] | None]:
    """The result as JSON can hold it, and the pixels in one block."""
    head: dict[str, Any] = {"sha256": opened.sha256, "format": opened.format}
    if opened.error is not None:
        return {**head, "error": [opened.error.code, str(opened.error)]}, None
    scan = opened.scan
    assert scan is not None
    pixels = np.ascontiguousarray(scan.pixels)
    head |= {"shape": pixels.shape, "dtype": pixels.dtype.str, "case": str(scan.case)}
    head["geometry"] = {**asdict(scan.geometry), "affine": None if scan.geometry.affine is None else scan.geometry.affine.tolist()}
    head["scan"] = {f.name: getattr(scan, f.name) for f in fields(scan) if f.name not in _APART}
    head["piece"] = None if scan.piece is None else asdict(scan.piece)
    head["lines"] = {
        name: [*depth.shape, base64.b64encode(depth.astype("<f4").tobytes()).decode("ascii")] for name, depth in scan.lines.items()
    }
    return head, pixels


def room_for(head: dict[str, Any]) -> npt.NDArray[Any] | None:
    """An array to read the pixels into, or None if none follow."""
    return np.empty(head["shape"], np.dtype(head["dtype"])) if "shape" in head else None


def unpack(head: dict[str, Any], pixels: npt.NDArray[Any] | None, source: Path) -> Opened:
    """The inverse of :func:`pack`."""
    if pixels is None:
        return Opened(error=ScanError(*head["error"]), sha256=head["sha256"], format=head["format"])
    geometry = {name: _as_tuple(value) for name, value in head["geometry"].items()}
    if geometry["affine"] is not None:
        geometry["affine"] = np.array(geometry["affine"], dtype=np.float64)
    if geometry["nifti"] is not None:
        geometry["nifti"] = NiftiFrame(**{name: _as_tuple(value) for name, value in geometry["nifti"].items()})
    rest = {name: _as_tuple(value) for name, value in head["scan"].items()}
    piece = head["piece"] and SeriesSlice(**{name: _as_tuple(value) for name, value in head["piece"].items()})
    lines = {name: _depths(*sent) for name, sent in head["lines"].items()}
    scan = Scan(pixels, Geometry(**geometry), case=CaseKey.parse(head["case"]), source=source, piece=piece, lines=lines, **rest)
    return Opened(scan=scan, sha256=head["sha256"], format=head["format"])


def _depths(slices: int, columns: int, data: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(data), "<f4").astype(np.float32).reshape(slices, columns)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def line_of(head: dict[str, Any]) -> bytes:
    return json.dumps(head).encode("ascii") + b"\n"

"""What a network finds in an OCT file beside the lines that the device drew into it: another algorithm's opinion, not the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import ScanError
from pipeline.inference.predict import Predictor
from pipeline.measurements.surfaces import SurfaceError, Surfaces, find_surfaces, surface_errors
from pipeline.scans.open import open_scan
from pipeline.scans.vendor import read_surfaces
from pipeline.types import Scan

LINES = {"ILM": "ILM", "RNFL": "RNFL-GCL", "BM": "BM"}
"""The device's lines, and what cards call the same surface."""


@dataclass(frozen=True, eq=False)
class DeviceReading:
    """One file: the network's surfaces and the device's, both of the lines that the device drew somewhere, and how far they differ."""

    scan: Scan
    found: Surfaces
    device: Surfaces
    errors: Sequence[SurfaceError]


def device_surfaces(path: Path) -> Surfaces:
    """The lines that the device drew somewhere, as depths from the picture's top edge.

    A line is told by the number of the row it runs through, whose middle lies half a row below that row's edge.

    Raises
    ------
    ScanError: the file cannot be read, or the device drew no line.
    """
    drawn = {
        LINES[name]: depth + np.float32(0.5) for name, depth in read_surfaces(path).items() if name in LINES and not np.isnan(depth).all()
    }
    names = [name for name in LINES.values() if name in drawn]
    if not names:
        raise ScanError("no_lines", "the device drew no lines in it")
    return Surfaces(tuple(names), np.stack([drawn[name] for name in names]))


def read_beside_device(predictor: Predictor, path: Path) -> DeviceReading:
    """The network's surfaces in one file, beside the device's.

    Raises
    ------
    ScanError: as of :func:`device_surfaces`.
    """
    scan, device = open_scan(path), device_surfaces(path)
    probabilities = predictor.predict(scan).probabilities
    assert probabilities is not None
    found = find_surfaces(probabilities, predictor.bundle.label_map).only(device.names)
    return DeviceReading(scan, found, device, surface_errors(found, device, scan.geometry.spacing_mm))

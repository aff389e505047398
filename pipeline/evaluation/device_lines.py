"""What a network finds in an OCT file beside the lines that the device drew into it: another algorithm's opinion, not the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ScanError
from pipeline.inference.predict import Predictor
from pipeline.measurements.device_lines import LINES, drawn_surfaces
from pipeline.measurements.surfaces import SurfaceError, Surfaces, find_surfaces, surface_errors
from pipeline.scans.open import open_scan
from pipeline.types import Scan


@dataclass(frozen=True, eq=False)
class DeviceReading:
    """One file: the network's surfaces and the device's, both of the lines that the device drew somewhere, and how far they differ."""

    scan: Scan
    found: Surfaces
    device: Surfaces
    errors: Sequence[SurfaceError]


def device_surfaces(path: Path) -> Surfaces:
    """The lines that the device drew somewhere, as depths from the picture's top edge (measurements/device_lines.py).

    Raises
    ------
    ScanError: the file cannot be read, or the device drew no line.
    """
    return _of(open_scan(path))


def _of(scan: Scan) -> Surfaces:
    device = drawn_surfaces(scan.lines)
    if device is None:
        raise ScanError("no_lines", "the device drew no lines in it")
    return device


def read_beside_device(predictor: Predictor, path: Path) -> DeviceReading:
    """The network's surfaces in one file, beside the device's.

    Raises
    ------
    ScanError: as of :func:`device_surfaces`.
    """
    scan = open_scan(path)
    device = _of(scan)
    probabilities = predictor.predict(scan).probabilities
    assert probabilities is not None
    found = find_surfaces(probabilities, predictor.bundle.label_map).only(device.names)
    return DeviceReading(scan, found, device, surface_errors(found, device, scan.geometry.spacing_mm))


__all__ = ["LINES", "DeviceReading", "device_surfaces", "read_beside_device"]

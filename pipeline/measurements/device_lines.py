"""Surfaces that the device drew into an OCT file, beside those that were found: another algorithm's opinion, not the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.measurements.surfaces import Floats, SurfaceError, Surfaces, surface_errors

LINES = {"ILM": "ILM", "RNFL": "RNFL-GCL", "BM": "BM"}
"""The device's lines, and what cards call the same surface."""


def drawn_surfaces(lines: Mapping[str, Floats]) -> Surfaces | None:
    """``lines`` of a Scan, those that were drawn somewhere, as depths from the picture's top edge; None where there are none.

    A line is told by the number of the row it runs through, whose middle lies half a row below that row's edge.
    """
    drawn = {LINES[name]: depth + np.float32(0.5) for name, depth in lines.items() if name in LINES and not np.isnan(depth).all()}
    names = [name for name in LINES.values() if name in drawn]
    return Surfaces(tuple(names), np.stack([drawn[name] for name in names])) if names else None


def beside_device(found: Surfaces, device: Surfaces, spacing_mm: Sequence[float | None] | None) -> list[SurfaceError]:
    """How far the surfaces found lie from the device's, of those that both name."""
    names = [name for name in device.names if name in found.names]
    return surface_errors(found.only(names), device.only(names), spacing_mm) if names else []

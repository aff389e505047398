"""Surfaces of a bundle with layers against those of the label, wherever bundle and card name the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.summary import by_patient, mean_of
from pipeline.measurements.device_lines import drawn_surfaces
from pipeline.measurements.surfaces import SurfaceError, Surfaces, axial_scale, find_surfaces, jumps, surface_errors
from pipeline.types import CaseKey, LabelMap

DEFINITION = (
    "distance along the A-scan between the surface found and that of the label; bias above 0: found too deep; p95: of the absolute error; "
    "jump: mean absolute step from one B-scan to the next, less the step that all surfaces make"
)
_NUMBERS = ("mean_abs", "bias", "p95", "jump_found", "jump_true")


@dataclass(frozen=True)
class SurfaceScore:
    """One surface of one scan. ``scale``: um of a pixel, or 1 where lengths are in px; jumps are None for a picture."""

    case: CaseKey
    error: SurfaceError
    jump_found: float | None
    jump_true: float | None
    scale: float

    def value(self, name: str) -> float | None:
        """One of mean_abs, bias, p95, jump_found and jump_true, in the error's unit."""
        known: float | None = getattr(self, name) if name.startswith("jump") else getattr(self.error, name)
        return known


def shared_surfaces(ours: LabelMap, theirs: LabelMap) -> list[str]:
    """Names of the surfaces that both label maps have, from the vitreous down; none where one of them has no layers."""
    return [name for name in ours.surface_names if name in theirs.surface_names]


def score_surfaces(
    case: CaseKey,
    probabilities: npt.NDArray[np.floating[Any]],
    layers: npt.NDArray[np.bool_],
    ours: LabelMap,
    truth: npt.NDArray[np.int64],
    theirs: LabelMap,
    known: npt.NDArray[np.bool_],
    spacing_mm: Sequence[float | None] | None,
) -> list[SurfaceScore]:
    """A score a shared surface of one scan.

    Parameters
    ----------
    probabilities: the bundle's, (K, [D,] H, W), and the ``layers`` that it decides on, bool of that shape.
    truth: the card's mask, ([D,] H, W), in the encoding of ``theirs``.
    known: bool ([D,] H, W), where the label counts; a surface of the label beside other pixels is not scored.
    """
    names = shared_surfaces(ours, theirs)
    if not names:
        return []
    labelled = theirs.layers(truth)
    found, true = find_surfaces(probabilities, ours), find_surfaces(labelled, theirs, known).only(names)
    found.depth[_beside(ours, _missed_layers(layers, ours, labelled, theirs, known))] = np.nan
    return _scored(case, found.only(names), true, spacing_mm)


def score_device(
    case: CaseKey,
    lines: Mapping[str, npt.NDArray[np.float32]],
    truth: npt.NDArray[np.int64],
    theirs: LabelMap,
    known: npt.NDArray[np.bool_],
    spacing_mm: Sequence[float | None] | None,
) -> list[SurfaceScore]:
    """The lines that the device drew into a scan's file, as a second reader: a score of each surface that the label has, too.

    Parameters
    ----------
    lines: of a Scan. truth, theirs, known: as of :func:`score_surfaces`.
    """
    device = drawn_surfaces(lines)
    names = [] if device is None else [name for name in theirs.surface_names if name in device.names]
    if device is None or not names:
        return []
    return _scored(case, device.only(names), find_surfaces(theirs.layers(truth), theirs, known).only(names), spacing_mm)


def _scored(case: CaseKey, found: Surfaces, true: Surfaces, spacing_mm: Sequence[float | None] | None) -> list[SurfaceScore]:
    both = ~np.isnan(found.depth) & ~np.isnan(true.depth)
    scale, _ = axial_scale(spacing_mm)
    steps = zip(jumps(found, spacing_mm, both), jumps(true, spacing_mm, both), strict=True)
    return [
        SurfaceScore(case, error, of_found, of_true, scale)
        for error, (of_found, of_true) in zip(surface_errors(found, true, spacing_mm), steps, strict=True)
    ]


def _missed_layers(
    layers: npt.NDArray[np.bool_], ours: LabelMap, labelled: npt.NDArray[np.bool_], theirs: LabelMap, known: npt.NDArray[np.bool_]
) -> set[str]:
    """Layers that the label has in this scan and of which not one pixel was found."""
    missed = set()
    for name in set(ours.layered) & set(theirs.names):
        true = labelled[theirs.names.index(name)] & known
        if true.any() and not (true & layers[ours.names.index(name)]).any():
            missed.add(name)
    return missed


def _beside(label_map: LabelMap, names: set[str]) -> list[int]:
    """Places of the surfaces above and below these layers: where a layer is not found, they are not either, wherever the cut fell."""
    places = {place for place, name in enumerate(label_map.layered) if name in names}
    return sorted(places | {place + 1 for place in places})


def surface_table(scores: Sequence[SurfaceScore]) -> list[list[str]]:
    """``surfaces.csv``: a heading, then one line a scan and surface; an undefined number is an empty cell."""
    lines = [["case", "patient", "surface", "unit", "mean_abs", "bias", "p95", "columns", "missing", "jump_found", "jump_true"]]
    for score in scores:
        cells = {name: "" if (value := score.value(name)) is None else f"{value:.4f}" for name in _NUMBERS}
        error = score.error
        found = [str(error.columns), str(error.missing), cells["jump_found"], cells["jump_true"]]
        lines.append([str(score.case), score.case.patient, error.name, error.unit, cells["mean_abs"], cells["bias"], cells["p95"], *found])
    return lines


def summarise_surfaces(scores: Sequence[SurfaceScore]) -> dict[str, Any]:
    """The value of ``summary["surfaces"]``: unit, definition, and of each surface the means over scans with intervals over patients.

    Lengths are um where the axial spacing of every scan is known, else px for all of them. ``columns`` and ``missing`` are sums.
    """
    in_um = all(score.error.unit == "um" for score in scores)
    of: dict[str, Any] = {}
    for name in dict.fromkeys(score.error.name for score in scores):
        own = [score for score in scores if score.error.name == name]
        of[name] = {
            number: mean_of(by_patient((s.case.patient, v if in_um else v / s.scale) for s in own if (v := s.value(number)) is not None))
            for number in _NUMBERS
        }
        of[name] |= {"columns": sum(s.error.columns for s in own), "missing": sum(s.error.missing for s in own)}
    return {"unit": "um" if in_um else "px", "definition": DEFINITION, "surfaces": of}

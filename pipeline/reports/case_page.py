"""One page a case: the scan beside its overlay, what was found, and what made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.contours import drawable, path_data, small_finding_rings
from pipeline.drawing.thumbnail import write_thumbnail
from pipeline.reports import wording
from pipeline.reports.objects import CaseObjects, instance_file, outlines, read_objects, rows
from pipeline.reports.pages import edition, write_page, write_text
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.types.case_record import CASE_FILE, OBJECTS_FILE, AnswerRecord, PlaneRecord

FLUID_FILES = ("fluid_components.nii.gz", "fluid_components.csv", "pockets.nii.gz", "pockets.csv")
"""The last two are what an earlier version wrote."""
_PART = 400_000
"""Characters of outlines in one script file of a volume; a slice's file is loaded when the slice is looked at."""


@dataclass(frozen=True)
class PageFacts:
    """What making a page taught: per class pixels and slices as counted in the masks, and what the reader must be told.

    ``objects``: per class those at or above the bundle's threshold, None where that is not known; None for a run without objects.
    ``boxes_only``: the run finds objects, but no masks.
    """

    pixels: tuple[int, ...]
    slices: tuple[int, ...]
    warnings: tuple[str, ...]
    objects: tuple[int | None, ...] | None = None
    boxes_only: bool = False


@dataclass
class _Slice:
    """One slice as drawn: per class its outline, rings and number of pixels; by id the contours of objects."""

    paths: list[str]
    rings: list[list[tuple[float, float, float]]]
    pixels: list[int]
    smallest: int = 1
    outlines: dict[int, str] = field(default_factory=dict)


def write_case_page(report: Path, case: ReportCase, run: RunFacts, previous: str | None, following: str | None) -> PageFacts:
    """Write ``report/cases/<case>.html`` with its thumbnail and, for a volume, its outlines; an up-to-date page is left alone.

    ``previous`` and ``following`` are the neighbouring cases' names.

    Raises
    ------
    OcusegError: a picture or mask is damaged. OSError: it cannot be read or written.
    """
    name, run = str(case.key), run.of(case)
    fingerprint = _fingerprint(case, run, previous, following)
    sidecar = report / "data" / f"{name}.json"
    known = _read_sidecar(sidecar, fingerprint)
    if known is not None and (report / "cases" / f"{name}.html").exists() and (report / "thumbs" / f"{name}.jpg").exists():
        return known

    warnings = [*filter(None, [run.useless]), *case.warnings]
    if not set(case.bundle_id.split("+")) <= set(run.bundle_id.split("+")):
        warnings.append(
            f"This case was made with bundle {case.bundle_id or 'unknown'}, not with {run.bundle_id or 'the one of this folder'}."
        )
    objects = read_objects(case, run) if run.objects else None
    if objects is not None:
        warnings.extend(objects.warnings)
    total = np.zeros((len(run.label_map), 2), dtype=np.int64)
    pixels_by_slice: list[list[int]] = []
    scripts: list[str] = []
    waiting: dict[str, Any] = {}
    waiting_size = 0
    first: tuple[int, _Slice] | None = None
    fullest = (-1, -1)
    smallest = 1
    for at, plane in enumerate(case.planes):
        drawn = _draw(run.label_map.layers(case.mask(plane)))
        total += np.array([[n, n > 0] for n in drawn.pixels], dtype=np.int64).reshape(-1, 2)
        pixels_by_slice.append(drawn.pixels)
        smallest = max(smallest, drawn.smallest)
        above = 0
        if objects is not None:
            above = sum(map(objects.above, objects.in_slice(at)))
            warnings.extend(_draw_objects(drawn, case, plane, run, objects))
        if (filled := (sum(drawn.pixels), above)) > fullest:
            fullest, first = filled, (at, drawn)
        if case.volume:
            waiting[str(at)] = {"paths": drawn.paths, "rings": drawn.rings} | ({"outlines": drawn.outlines} if drawn.outlines else {})
            waiting_size += sum(map(len, drawn.paths)) + sum(map(len, drawn.outlines.values()))
            if waiting_size > _PART or at == len(case.planes) - 1:
                file = f"{name}_{at:04d}.js"
                write_text(report / "data" / file, f"ocusegSlices({json.dumps(waiting, separators=(',', ':'))});\n")
                scripts += [file] * len(waiting)
                waiting, waiting_size = {}, 0
    assert first is not None  # a case has at least one plane
    if smallest > 1:
        warnings.append(
            f"The mask is so ragged that parts below {smallest} px are not drawn here; the mask itself and all numbers are whole."
        )
    warnings.extend(_differences(case, run, total))
    facts = PageFacts(
        tuple(total[:, 0].tolist()),
        tuple(total[:, 1].tolist()),
        tuple(warnings),
        None if objects is None else objects.counts(),
        objects is not None and objects.boxes_only,
    )
    shown = case.planes[first[0]]
    boxes = () if objects is None or objects.has_masks else [o for o in objects.in_slice(first[0]) if objects.above(o)]
    write_thumbnail(
        report / "thumbs" / f"{name}.jpg",
        case.image(shown),
        run.label_map.layers(case.mask(shown)),
        run.label_map,
        [(one.label, one.box) for one in boxes],
    )
    write_page(
        report / "cases" / f"{name}.html",
        "case.html",
        _values(case, run, facts, first, pixels_by_slice, scripts, objects) | {"previous": previous, "following": following},
    )
    for old in (report / "data").glob(f"{name}_????.js"):
        if old.name not in scripts:
            old.unlink()
    write_text(sidecar, json.dumps({"fingerprint": fingerprint} | asdict(facts)))
    return facts


def _draw(layers: npt.NDArray[np.bool_]) -> _Slice:
    out = _Slice([], [], [])
    for layer in layers:
        pixels = int(np.count_nonzero(layer))
        out.pixels.append(pixels)
        if not pixels:
            out.paths.append("")
            out.rings.append([])
            continue
        thinned, smallest = drawable(layer)
        out.smallest = max(out.smallest, smallest)
        out.paths.append(path_data(thinned))
        out.rings.append(small_finding_rings(thinned))
    return out


def _draw_objects(drawn: _Slice, case: ReportCase, plane: PlaneRecord, run: RunFacts, objects: CaseObjects) -> list[str]:
    """Each object's own contour in place of its class's, and no rings: the boxes lead the eye. Returns what did not fit together."""
    drawn.rings = [own if case.by_pixels(name) else [] for name, own in zip(run.label_map.names, drawn.rings, strict=True)]
    if not objects.has_masks:
        return []
    drawn.outlines, apart, warnings = outlines(case, plane, run.label_map, objects)
    drawn.paths = ["" if label in apart else path for label, path in enumerate(drawn.paths)]
    return warnings


def _differences(case: ReportCase, run: RunFacts, total: npt.NDArray[np.int64]) -> Iterator[str]:
    """Where the masks on disk do not hold what case.json says they do: somebody changed one of them."""
    for name, (pixels, _) in zip(run.label_map.names, total.tolist(), strict=True):
        if name in case.found and case.found[name].pixels != pixels:
            stated = wording.count(case.found[name].pixels)
            yield f"{name}: the mask holds {wording.count(pixels)} px where the prediction recorded {stated}; the mask was changed since."


def _values(
    case: ReportCase,
    run: RunFacts,
    facts: PageFacts,
    first: tuple[int, _Slice],
    pixels_by_slice: list[list[int]],
    scripts: list[str],
    objects: CaseObjects | None,
) -> dict[str, Any]:
    """What the template shows."""
    at, drawn = first
    rows, columns = case.geometry.plane
    styles = wording.class_styles(run.label_map)
    measured = [
        {
            "pixels": pixels,
            "slices": slices,
            "amount": wording.mm_number(case, pixels),
            "objects": above,
            "by_pixels": case.by_pixels(run.label_map.names[label]),
            "absent": not pixels and not (objects is not None and any(one.label == label for one in objects.found)),
        }
        for label, (pixels, slices, above) in enumerate(zip(facts.pixels, facts.slices, facts.objects or [0] * len(styles), strict=True))
    ]
    if facts.objects is None:
        named = [f"{s.name} ({wording.amount(case, n)})" for s, n in zip(styles, facts.pixels, strict=True) if n]
    else:
        named = [f"{n} {s.name}" if n else s.name for s, n, px in zip(styles, facts.objects, facts.pixels, strict=True) if n or px]
    named += [wording.answer(answer) for answer in case.answers]
    found = ", ".join(named) or ("nothing found" if objects is None or objects.readable else "unknown objects")
    eye = wording.eye(case)
    what = f"{wording.modality(case)}, {eye.words}, {wording.size(case.geometry)} pixels"
    images = [f"../../cases/{case.key}/{plane.image}" for plane in case.planes]
    return {
        "name": str(case.key),
        "case": case,
        "run": run,
        "eye": eye,
        "modality": wording.modality(case),
        "size": wording.size(case.geometry),
        "spacing": wording.spacing(case),
        "unscaled": wording.unscaled(case),
        "rows": rows,
        "columns": columns,
        "classes": list(zip(styles, measured, drawn.paths, drawn.rings, strict=True)),
        "layers": [(name, own.mean_thickness, wording.layer_unit(own.unit)) for name, own in case.layers.items()],
        "fluid": [(name, own.number, wording.fluid_volume(own.volume, own.unit)) for name, own in case.fluid_components.items()],
        "answers": [(answer, wording.answer(answer), _attention(case, answer, at)) for answer in case.answers],
        "warnings": facts.warnings,
        "unit": "mm³" if case.volume else "mm²",
        "alt_original": what,
        "alt_overlay": f"{what}, with the {wording.drawn(run, objects is not None)}: {found}",
        "objects": objects,
        "areas": objects is None or not objects.boxes_only,
        "image": images[at],
        "start": at,
        "files": _files(case, case.planes[at], run),
        "data": {
            "rows": rows,
            "columns": columns,
            "spacing": None if case.geometry.spacing_mm is None else list(case.geometry.spacing_mm[-2:]),
            "start": at,
            "images": images,
            "scripts": [f"../data/{file}" for file in scripts],
            "pixels": pixels_by_slice,
            "attention": [[f"../../cases/{case.key}/{file}" for file in answer.attention] for answer in case.answers],
        }
        | _object_data(case, objects, drawn, styles),
    }


def _attention(case: ReportCase, answer: AnswerRecord, at: int) -> str | None:
    """Where the picture of the slice's attention lies; None where there is none."""
    there = len(answer.attention) == len(case.planes) and (case.folder / answer.attention[at]).is_file()
    return f"../../cases/{case.key}/{answer.attention[at]}" if there else None


def _files(case: ReportCase, plane: PlaneRecord, run: RunFacts) -> list[str]:
    """The case's results for other programs, those of the slice first shown."""
    instances = [instance_file(plane, cls.index) for cls in run.label_map.classes]
    names = [
        "mask.nii.gz",
        "surfaces.csv",
        *FLUID_FILES,
        *filter(None, [plane.mask]),
        *([OBJECTS_FILE, "coco.json", *instances] if run.objects else []),
    ]
    return [name for name in names if (case.folder / name).exists()]


def _object_data(
    case: ReportCase, objects: CaseObjects | None, drawn: _Slice, styles: Sequence[wording.ClassStyle]
) -> dict[str, dict[str, Any]]:
    """What objects.js draws; the contours of a volume come with its slices."""
    if objects is None:
        return {}
    return {
        "objects": {
            "names": [style.name for style in styles],
            "dashes": [style.dashes for style in styles],
            "inks": [style.ink for style in styles],
            "thresholds": objects.thresholds,
            "masks": objects.has_masks,
            "readable": objects.readable,
            "rows": rows(case, objects),
            "outlines": {} if case.volume else drawn.outlines,
        }
    }


def _fingerprint(case: ReportCase, run: RunFacts, previous: str | None, following: str | None) -> str:
    """Changes with anything a page shows: the case's files (by size and time), the run, its neighbours, this code."""
    digest = hashlib.sha256(repr((edition(), run, previous, following)).encode())
    digest.update((case.folder / CASE_FILE).read_bytes())
    for plane in case.planes:
        for name in filter(None, (plane.image, plane.mask)):
            digest.update(_state(case.folder / name))
        if run.objects:
            for cls in run.label_map.classes:
                digest.update(_state(case.folder / instance_file(plane, cls.index), optional=True))
    if run.objects:
        digest.update(_state(case.folder / OBJECTS_FILE, optional=True))
    return digest.hexdigest()


def _state(file: Path, *, optional: bool = False) -> bytes:
    if optional and not file.exists():
        return b"missing"
    status = file.stat()
    return repr((status.st_size, status.st_mtime_ns)).encode()


def _read_sidecar(path: Path, fingerprint: str) -> PageFacts | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("fingerprint") != fingerprint:
            return None
        objects = known["objects"]
        return PageFacts(
            tuple(known["pixels"]),
            tuple(known["slices"]),
            tuple(known["warnings"]),
            None if objects is None else tuple(objects),
            known["boxes_only"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None

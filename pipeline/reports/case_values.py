"""What the template of a case page shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.reports import wording
from pipeline.reports.measures import in_front, shown_measures
from pipeline.reports.neighbours import Neighbours
from pipeline.reports.objects import CaseObjects, instance_file, rows
from pipeline.reports.page_facts import PageFacts
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.scale_bar import scale_bars, spacing_of_bars
from pipeline.reports.slices import DrawnCase, DrawnSlice
from pipeline.reports.surface_lines import DEVICE
from pipeline.types.case_record import OBJECTS_FILE, DeviceRecord, PlaneRecord

FLUID_FILES = ("fluid_components.nii.gz", "fluid_components.csv", "pockets.nii.gz", "pockets.csv")
"""The last two are what an earlier version wrote."""


def page_values(
    case: ReportCase,
    run: RunFacts,
    facts: PageFacts,
    slices: DrawnCase,
    objects: CaseObjects | None,
    near: Neighbours,
) -> dict[str, Any]:
    """What the template shows."""
    at, drawn = slices.start, slices.first
    rows, columns = case.geometry.plane
    styles = wording.class_styles(run.label_map)
    pixels = _pixels(case, slices, run)
    numbers = number_values(case, run, facts, objects, pixels[at] if pixels else (), near.fellow)
    counted = [own for _, own in numbers["counted"]]
    if facts.objects is None:
        named = [f"{s.name} ({wording.amount_of(case, s.name, n)})" for s, n in zip(styles, facts.pixels, strict=True) if n]
    else:
        named = [
            f"{n} {s.name}" if n and not case.record.withheld(s.name) else s.name
            for s, n, px in zip(styles, facts.objects, facts.pixels, strict=True)
            if n or px
        ]
    answers = case.answers if case.record.measurable else ()
    named += [wording.answer(answer) for answer in answers]
    found = ", ".join(named) or ("nothing found" if objects is None or objects.readable else "unknown objects")
    eye = wording.eye(case)
    what = f"{wording.modality(case)}, {eye.words}, {wording.size(case.geometry)} pixels"
    images = [f"../../cases/{case.key}/{plane.image}" for plane in case.planes]
    fills = {style.fill for style in styles}
    return numbers | {
        "name": str(case.key),
        "near": near,
        "grade": None if case.record.quality is None else wording.GRADES[case.record.quality.grade],
        "fill": fills.pop() if len(fills) == 1 else 0,
        "one_to_one": case.modality == "oct" and case.geometry.trusted().pixel_mm is not None and objects is None,
        "bars": scale_bars(case.geometry),
        "surfaces": None if any(map(case.record.withheld, run.label_map.layered)) else slices.surfaces,
        "profile": drawn.profile,
        "device_line": drawn.device,
        "device_lines": None if slices.device is None else f"{DEVICE}: {', '.join(slices.device.names)}",
        "run": run,
        "modality": wording.modality(case),
        "modality_source": wording.modality_source(case),
        "patient_source": wording.patient_source(case),
        "red_free": case.modality in wording.IN_COLOUR,
        "size": wording.size(case.geometry),
        "spacing": wording.spacing(case),
        "rows": rows,
        "columns": columns,
        "classes": list(zip(styles, counted, drawn.paths, drawn.rings, map(drawn.lines.get, range(len(styles))), strict=True)),
        "layers": [(name, _thickness(case, name)) for name in case.layers],
        "device": [(name, _apart(case, one)) for name, one in case.record.device.items()],
        "fluid": [(name, *_fluid(case, name)) for name in case.fluid_components],
        "answers": [(answer, wording.answer(answer), _of_slice(case, answer.attention, at)) for answer in answers],
        "uncertainty": _of_slice(case, _maps(case), at),
        "warnings": facts.warnings,
        "alt_original": what,
        "alt_overlay": f"{what}, with the {wording.drawn(run, objects is not None)}: {found}",
        "image": images[at],
        "start": at,
        "files": _files(case, case.planes[at], run),
        "data": {
            "rows": rows,
            "columns": columns,
            "spacing": spacing_of_bars(case.geometry),
            "start": at,
            "images": images,
            "scripts": [f"../data/{file}" for file in slices.scripts],
            "pixels": pixels,
            "attention": [[f"../../cases/{case.key}/{file}" for file in answer.attention] for answer in case.answers],
            "uncertainty": [f"../../cases/{case.key}/{file}" for file in _maps(case)],
        }
        | _object_data(case, objects, drawn, styles),
    }


def number_values(
    case: ReportCase,
    run: RunFacts,
    facts: PageFacts,
    objects: CaseObjects | None,
    slice_pixels: Sequence[int],
    fellow: ReportCase | None = None,
    whose: str = "",
) -> dict[str, Any]:
    """What the templates of measurements and counts show; ``whose``: the reviewer on whose correction they were measured, or ""."""
    styles = wording.class_styles(run.label_map)
    measured = [
        {
            "pixels": pixels,
            "slices": spread,
            "amount": wording.mm_number(case, pixels),
            "objects": above,
            "withheld": case.record.withheld(run.label_map.names[label]),
            "by_pixels": case.by_pixels(run.label_map.names[label]),
            "absent": not pixels and not above and not (objects is not None and any(one.label == label for one in objects.found)),
        }
        for label, (pixels, spread, above) in enumerate(zip(facts.pixels, facts.slices, facts.objects or [0] * len(styles), strict=True))
    ]
    front, rest = in_front(shown_measures(case, fellow))
    return {
        "case": case,
        "eye": wording.eye(case),
        "fellow": fellow,
        "measures": [("", front)] + ([(f"{len(rest)} more", rest)] if rest else []) if front else [],
        "counted": list(zip(styles, measured, strict=True)),
        "slice_pixels": slice_pixels,
        "objects": objects,
        "areas": objects is None or not objects.boxes_only,
        "unit": "mm³" if case.volume else "mm²",
        "unscaled": wording.unscaled(case),
        "whose": whose,
    }


def _thickness(case: ReportCase, name: str) -> str:
    own = case.layers[name]
    if case.record.withheld(name):
        return wording.WITHHELD
    return "not measured" if own.mean_thickness is None else f"{own.mean_thickness:.1f} {wording.layer_unit(own.unit)}"


def _apart(case: ReportCase, one: DeviceRecord) -> str:
    if any(map(case.record.withheld, case.layers)):
        return wording.WITHHELD
    return "not drawn in the same columns" if one.mean_abs is None else f"{one.mean_abs:.1f} {wording.layer_unit(one.unit)}"


def _fluid(case: ReportCase, name: str) -> tuple[int, str, str]:
    """How many components (0: the row is dimmed), in words, and their volume."""
    own = case.fluid_components[name]
    if case.record.withheld(name):
        return own.number, wording.WITHHELD, wording.WITHHELD
    return own.number, wording.count(own.number), wording.fluid_volume(own.volume, own.unit)


def _pixels(case: ReportCase, slices: DrawnCase, run: RunFacts) -> list[list[int]]:
    """Of a volume's slices, those of each class; of a withheld one only whether there are any."""
    hidden = [case.record.withheld(name) for name in run.label_map.names]
    return [[min(n, 1) if no else n for n, no in zip(own, hidden, strict=True)] for own in slices.pixels] if case.volume else []


def _maps(case: ReportCase) -> tuple[str, ...]:
    return () if case.record.doubt is None else case.record.doubt.maps


def _of_slice(case: ReportCase, files: Sequence[str], at: int) -> str | None:
    """Where the slice's own of such pictures lies; None where there is none."""
    there = len(files) == len(case.planes) and (case.folder / files[at]).is_file()
    return f"../../cases/{case.key}/{files[at]}" if there else None


def _files(case: ReportCase, plane: PlaneRecord, run: RunFacts) -> list[str]:
    """The case's results for other programs, those of the slice first shown."""
    instances = [instance_file(plane, cls.index) for cls in run.label_map.classes]
    names = [
        "mask.nii.gz",
        "surfaces.csv",
        "device_surfaces.csv",
        *FLUID_FILES,
        *filter(None, [plane.mask]),
        *([OBJECTS_FILE, "coco.json", *instances] if run.objects else []),
    ]
    return [name for name in names if (case.folder / name).exists()]


def _object_data(
    case: ReportCase, objects: CaseObjects | None, drawn: DrawnSlice, styles: Sequence[wording.ClassStyle]
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
            "rows": rows(case, objects, [style.name for style in styles]),
            "withheld": [case.record.withheld(style.name) for style in styles],
            "outlines": {} if case.volume else drawn.outlines,
        }
    }

"""A case as the pages in the browser get it: pictures, masks, classes, surfaces and objects, the model's own or corrected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.reports import wording
from pipeline.reports.objects import read_objects
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.surface_lines import read_surface_lines
from pipeline.review.corrections import OBJECTS_FILE, SURFACES_FILE, CorrectedObject, Correction, listed_surfaces, mask_file
from pipeline.review.log import Event
from pipeline.types import LabelMap

_ELLIPSES = ("optic_disc", "optic_cup")


def label_map_of(case: ReportCase, run: RunFacts) -> LabelMap:
    return run.of(case).label_map


def classes(case: ReportCase, run: RunFacts) -> list[dict[str, Any]]:
    """Each class and what a reviewer moves to correct it: an object's box, a layer's surface, an ellipse, or pixels."""
    own = run.of(case)
    label_map = own.label_map
    places = {cls.name: cls.index for cls in label_map.classes}
    out = []
    for cls, style, role in zip(label_map.classes, wording.class_styles(label_map), label_map.roles, strict=True):
        kind = "surface" if cls.name in label_map.layered else "ellipse" if role in _ELLIPSES else "mask"
        if own.objects and not case.by_pixels(cls.name):
            kind = "object"
        inside = None if cls.inside is None else places[cls.inside]
        out.append({"index": cls.index, "name": cls.name, "colour": style.colour, "kind": kind, "inside": inside})
    return out


def model_surfaces(case: ReportCase, run: RunFacts) -> list[dict[str, Any]]:
    label_map = label_map_of(case, run)
    found = read_surface_lines(case, label_map)
    return [] if found is None else listed_surfaces(dict(zip(label_map.surface_names, found.depth, strict=True)))


def model_objects(case: ReportCase, run: RunFacts) -> list[CorrectedObject]:
    """Those at or above their class's threshold: the others are not part of the answer."""
    own = run.of(case)
    found = read_objects(case, own) if own.objects else None
    names = own.label_map.names
    return [
        CorrectedObject.model_validate({"id": one.id, "plane": one.slice, "class": names[one.label], "score": one.score, "box": one.box})
        for one in (() if found is None else found.found)
        if found is not None and found.above(one)
    ]


def planes(case: ReportCase, model: str, correction: str) -> list[dict[str, Any]]:
    """Pictures and masks by their addresses; a mask's holds the name of the correction, or the hash of what the ``model`` found, so that a
    browser which kept it never shows another one's."""
    rows, columns = case.geometry.plane
    name, out = str(case.key), []
    for plane in case.planes:
        own = None if plane.mask is None else f"/cases/{name}/{plane.mask}?model={model}"
        mask = correction_url(name, correction, mask_file(plane.index)) if correction and own else own
        out.append({"index": plane.index, "image": f"/cases/{name}/{plane.image}", "mask": mask, "width": columns, "height": rows})
    return out


def correction_url(case: str, correction: str, file: str) -> str:
    return f"/api/cases/{case}/corrections/{correction}/{file}"


def instances_url(case: str, correction: str) -> str:
    return f"/api/cases/{case}/instances?correction={correction}"


def drawn(case: ReportCase, run: RunFacts, model: str, name: str, correction: Correction | None) -> dict[str, Any]:
    """What an editor begins with: the model's answer, or what the correction ``name`` made of it."""
    if correction is None:
        return {
            "planes": planes(case, model, ""),
            "surfaces": model_surfaces(case, run),
            "objects": _listed(model_objects(case, run), case, run),
        }
    objects = model_objects(case, run) if correction.objects is None else correction.objects
    return {
        "planes": planes(case, model, name),
        "surfaces": listed_surfaces(correction.surfaces) if correction.surfaces else model_surfaces(case, run),
        "objects": _listed(objects, case, run),
    }


def _listed(objects: Sequence[CorrectedObject], case: ReportCase, run: RunFacts) -> list[dict[str, Any]]:
    """Objects as pages speak of them: the class by its index."""
    index = {cls.name: cls.index for cls in label_map_of(case, run).classes}
    keys = ("id", "plane", "score", "box")
    return [{key: getattr(one, key) for key in keys} | {"class": index[one.name]} for one in objects if one.name in index]


def history(events: Sequence[Event]) -> list[dict[str, Any]]:
    keys = ("at", "reviewer", "role", "action", "verdict", "version", "comment", "reasons", "eye", "correction")
    return [{key: getattr(event, key) for key in keys} for event in events]


def servable(file: str) -> bool:
    """Whether a correction has a file of that name which pages may ask for."""
    return file in (SURFACES_FILE, OBJECTS_FILE) or (Path(file).suffix == ".png" and Path(file).name == file)

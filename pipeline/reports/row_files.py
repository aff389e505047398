"""The worklist's rows for other readers: a script for the page, which draws them by hundreds, and worklist.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.reports.need import chart_order
from pipeline.reports.rows import Finding, Row
from pipeline.reports.wording import ClassStyle

ROWS_FILE, TABLE_FILE = "rows.js", "worklist.csv"


def as_script(rows: Sequence[Row], styles: Sequence[ClassStyle]) -> str:
    """rows.js: a column each field, in the order in which the worklist opens; assets/order.js reads it.

    A browser reads a string of JSON several times faster than the same as a script, and columns faster than rows; of a column whose values
    recur each stands once, in ``texts``, with its place there ``at`` each row.
    """
    charts = {row.name: place for place, row in enumerate(sorted(rows, key=lambda row: chart_order(row.case)))}
    listed = [_packed(row, charts[row.name]) for row in rows]
    found = [{one.place: one for one in row.findings} for row in rows]
    data = {
        "rows": len(rows),
        "columns": {field: _column([values[field] for values in listed]) for field in (listed[0] if listed else {})},
        "classes": [{"name": style.name} | _class(place, found) for place, style in enumerate(styles)],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no tag, wherever the script is put
    return "ocusegRows('" + text.replace("\\", "\\\\").replace("'", "\\'") + "');\n"


def _column(values: Sequence[Any]) -> Any:
    places: dict[Any, int] = {}
    at = [places.setdefault(value, len(places)) for value in values]
    return {"texts": list(places), "at": at} if 2 * len(places) <= len(values) else values


def _packed(row: Row, chart: int) -> dict[str, Any]:
    rows, columns = row.case.geometry.plane
    return {
        "name": row.name,
        "chart": chart,
        "eye": row.eye.short,
        "eyeTitle": row.eye_title,
        "modality": row.modality,
        "size": row.size,
        "pixels": rows * columns * row.case.geometry.slices,
        "status": row.status.word,
        "level": row.status.level,
        "quality": row.grade,
        "doubt": None if row.doubt is None else round(row.doubt, 3),
        "asymmetry": None if row.asymmetry is None else round(row.asymmetry.times_usual, 3),
        "asymmetryTitle": "" if row.asymmetry is None else row.asymmetry.text,
        "answers": tuple(row.answers),
        "reasons": tuple(row.reasons),
        "flags": tuple(row.flags),
        "warnings": tuple(row.warnings),
        "alt": row.alt,
    }


def _class(place: int, found: Sequence[Mapping[int, Finding]]) -> dict[str, Any]:
    """Of a class, in each row: its text (null where it was not looked for), what its column is sorted by, and why no number is shown."""
    own = [of.get(place) for of in found]
    return {
        "text": _column([None if one is None else one.text for one in own]),
        "amount": _column([-1 if one is None else _amount(one) for one in own]),
        "withheld": _column(["" if one is None else one.withheld for one in own]),
    }


def _amount(finding: Finding) -> int:
    """What a class's column is sorted by: how many objects, else how many pixels; -1 where that is not known."""
    amount = finding.pixels if finding.objects is None else finding.objects
    return -1 if amount is None else amount


def as_csv(rows: Sequence[Row], styles: Sequence[ClassStyle]) -> str:
    """worklist.csv, in the order of ``rows``; docs/report.md has its columns."""
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    heads = [f"{style.name} {unit}" for style in styles for unit in ("objects", "px", "mm2", "mm3")]
    for order, row in enumerate(rows, start=1):
        values = {"order": order} | _values(row)
        if order == 1:
            table.writerow([*values, *heads])
        table.writerow(map(_cell, [*values.values(), *_numbers(row, len(styles))]))
    return file.getvalue()


def _values(row: Row) -> dict[str, Any]:
    case, key, geometry = row.case, row.case.key, row.case.geometry
    return {
        "case": row.name,
        "patient": key.patient,
        "visit": key.visit,
        "image": key.image,
        "eye": row.eye.short,
        "eye_source": geometry.laterality_source,
        "modality": case.modality,
        "width_px": geometry.plane[1],
        "height_px": geometry.plane[0],
        "slices": geometry.slices,
        "spacing_source": geometry.spacing_source,
        "status": row.status.word,
        "needs_eyes": "yes" if row.status.level == "look" else "no",
        "quality": row.grade,
        "reasons": row.reasons,
        "flags": row.flags,
        "doubt": row.doubt,
        "asymmetry": None if row.asymmetry is None else row.asymmetry.text,
        "answers": row.answers,
        "withheld": [f"{one.name}: {one.withheld}" for one in row.findings if one.withheld],
        "warnings": row.warnings,
        "seconds": case.seconds,
        "bundle_id": case.bundle_id,
    }


def _numbers(row: Row, classes: int) -> Iterator[Any]:
    """Of each class objects, px, mm2 and mm3; nothing where that is not known, not shown, or not in the unit."""
    own = {one.place: one for one in row.findings}
    for place in range(classes):
        one = own.get(place, Finding(place, "", ""))
        yield from (one.objects, one.pixels, *((None, one.mm) if row.case.volume else (one.mm, None)))


def _cell(value: Any) -> Any:
    """Lists joined by "; ". A spreadsheet would take text that begins like a formula for one: an apostrophe prevents that."""
    text = "; ".join(value) if isinstance(value, list | tuple) else value
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text

"""The worklist's rows for other readers: a script for the page, which draws them by hundreds, and worklist.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.reports.need import chart_order
from pipeline.reports.rows import Finding, Row
from pipeline.reports.wording import ClassStyle

ROWS_FILE, TABLE_FILE = "rows.js", "worklist.csv"


def as_script(rows: Sequence[Row], styles: Sequence[ClassStyle]) -> str:
    """rows.js: the fields' names once, a list a row, in the order in which the worklist opens; each text stands once, in ``texts``.

    Where many rows repeat a sentence this is a tenth of what objects would take, and it is read in that proportion.
    """
    texts: dict[str, int] = {}

    def text(words: str) -> int:
        return texts.setdefault(words, len(texts))

    charts = {row.name: place for place, row in enumerate(sorted(rows, key=lambda row: chart_order(row.case)))}
    listed = [_packed(row, charts[row.name], text) for row in rows]
    data = {
        "classes": [style.name for style in styles],
        "fields": list(listed[0]) if listed else [],
        "texts": list(texts),
        "rows": [list(values.values()) for values in listed],
    }
    text_of_all = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no tag, wherever the script is put
    return f"ocusegRows({text_of_all});\n"


def _packed(row: Row, chart: int, text: Callable[[str], int]) -> dict[str, Any]:
    """assets/order.js unpacks it; fields that end in "Text" are places in ``texts``."""
    rows, columns = row.case.geometry.plane
    return {
        "name": row.name,
        "chart": chart,
        "patientText": text(row.case.key.patient),
        "visitText": text(row.case.key.visit),
        "image": row.case.key.image,
        "eye": row.eye.short,
        "eyeTitleText": text(row.eye_title),
        "modalityText": text(row.modality),
        "sizeText": text(row.size),
        "pixels": rows * columns * row.case.geometry.slices,
        "statusText": text(row.status.word),
        "levelText": text(row.status.level),
        "qualityText": text(row.grade),
        "doubt": None if row.doubt is None else round(row.doubt, 3),
        "asymmetry": None if row.asymmetry is None else round(row.asymmetry.times_usual, 3),
        "asymmetryTitleText": text("" if row.asymmetry is None else row.asymmetry.text),
        "found": [[one.place, text(one.text), _amount(one), text(one.withheld)] for one in row.findings],
        "answersText": [text(words) for words in row.answers],
        "reasonsText": [text(words) for words in row.reasons],
        "flagsText": [text(code) for code in row.flags],
        "warningsText": [text(words) for words in row.warnings],
        "altText": text(row.alt),
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

"""PNG of each class and plane, 255 inside and 0 outside, for programs that know pictures alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.atomic import write_text
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document
from pipeline.export.formats.seg import need_marks
from pipeline.scans.raster import write_png

LABELS_FILE = "labels.json"


@EXPORTERS.add("png")
def export_png(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """``<class>_<plane>.png``, and ``labels.json`` with the classes' names, colours and codes."""
    need_marks(case)
    for place in case.marked:
        name = case.label_map.names[place]
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:48] or "class"
        for at in range(len(case.case.planes)):
            yield Document(f"{place + 1}_{safe}_{at:03d}.png", lambda path, place=place, at=at: _write(case, place, at, path))  # type: ignore[misc]
    yield labels(case)


def labels(case: ExportCase) -> Document:
    """The label map as JSON."""
    text = json.dumps(case.label_map.to_json(), indent=1, ensure_ascii=False) + "\n"
    return Document(LABELS_FILE, lambda path: write_text(path, text))


def _write(case: ExportCase, place: int, at: int, path: Path) -> None:
    write_png(path, np.where(case.layers(at)[place], 255, 0).astype(np.uint8))

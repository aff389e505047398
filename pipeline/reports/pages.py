"""Pages from templates: every value escaped, every file written whole."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.atomic import atomic_path
from pipeline.drawing.overlay import NOTICE
from pipeline.reports import wording

ASSETS = ("report.css", "worklist.css", "view.js", "viewer.js", "objects.js", "order.js", "patient.js", "worklist.js")
_HERE = Path(__file__).parent


@functools.cache
def environment() -> Environment:
    """Templates with autoescape on for whatever they are called, and an error for a value that is not given."""
    made = Environment(
        loader=PackageLoader("pipeline.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals.update(notice=NOTICE, line_width=wording.LINE_WIDTH)
    made.filters.update(count=wording.count, sentence=lambda text: text[:1].upper() + text[1:])
    return made


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Render a template to ``path``; memory holds a part of the page at a time, the disk the old page or the new one."""
    with atomic_path(path) as staged, staged.open("w", encoding="utf-8") as file:
        stream = environment().get_template(template).stream(values)
        stream.enable_buffering(200)
        file.writelines(stream)


def rendered(template: str, values: Mapping[str, Any]) -> str:
    return environment().get_template(template).render(values)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_assets(report: Path) -> None:
    """Style and scripts, beside the pages: nothing is fetched from anywhere."""
    folder = report / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        write_text(folder / name, (_HERE / "templates" / name).read_text(encoding="utf-8"))


@functools.cache
def edition() -> str:
    """Changes whenever the code or a template that makes pages does, so that pages of an older ocuseg are made anew."""
    digest = hashlib.sha256()
    for path in sorted([*_HERE.glob("*.py"), *_HERE.glob("templates/*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()

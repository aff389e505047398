"""The first minute: ``segment`` turns a scan, or a folder of them, into reviewable pages with models that come with ocuseg."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, ends, leave
from pipeline.cli.folder_options import FolderOptions
from pipeline.cli.options import spread
from pipeline.errors import ConfigError
from pipeline.resources import EXAMPLES

NAME = "examples"
"""What the photographs that come with ocuseg are called where scans of one's own are given."""


def add_to(app: typer.Typer) -> None:
    app.command("segment")(command(spread(segment)))


def segment(
    path: Annotated[Path, typer.Argument(help="A scan, or a folder of them; `examples`: three photographs that come with ocuseg.")],
    models: Annotated[
        str | None, typer.Option(help="Names (see `ocuseg models`) or bundle folders, separated by commas (default: all that fit).")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for masks, ledger and report; an unfinished one is finished, and new scans are added.")
    ] = Path("segmented"),
    *,
    options: FolderOptions,
    as_json: AsJson = False,
) -> None:
    """Segment scans without training: every model that fits a scan looks at it, and a report shows all of them on one page."""
    from pipeline.bundles.shipped_models import choose_models

    path = scans_at(path)
    if not path.exists():
        raise ConfigError(f"{str(path)!r} does not exist; give a scan, a folder of them, or {NAME}")
    choice = choose_models(models.split(",") if models is not None else None)
    options.begin()
    from pipeline.inference.desk import is_complete
    from pipeline.inference.uses import cases_in, doubts_in, eyes_lines, records_in, use_lines, uses_of
    from pipeline.reports.worklist import write_report
    from pipeline.review.state import eyes_of

    counts = options.predict("segmenting", [*choice.bundles.values()], path, out)
    page: Path | None = None
    used, doubts, eyes = list[str](), list[str](), list[str]()
    if is_complete(out):  # else the last share tells, and writes it: all cases are read for it
        with progress("report") as advance:
            page = write_report(out, eyes=eyes_of(out), progress=advance, wait=True)
        used, doubts = use_lines(uses_of(cases_in(out)), choice.bundles), doubts_in(out)
        eyes = eyes_lines(records_in(out))
    left_out = [f"{name}: left out, {why}" for name, why in choice.left_out.items()]
    told = counts | {"models": used + left_out, "doubts": doubts, "eyes": eyes} | ({"report": str(page)} if page is not None else {})
    lines = [line for line in ends(counts) if not line.endswith(": 0")]
    emit(
        told,
        as_json,
        [*lines, *eyes, *used, *left_out, *(f"warning: {text}" for text in doubts), f"report: {page or 'once every share is done'}"],
    )
    leave(counts.get("done", 0), counts.get("rejected", 0) + counts.get("failed", 0))


def scans_at(path: Path) -> Path:
    """``path``, or the photographs that come with ocuseg where it names them and no file or folder of one's own has that name."""
    return EXAMPLES / "photographs" if str(path) == NAME and not path.exists() else path

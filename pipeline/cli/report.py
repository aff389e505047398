"""``report``: what was predicted, as pages to work through, and cases as PDF or as a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, existing_folder


def add_to(app: typer.Typer) -> None:
    app.command("report")(command(report))


def report(
    folder: Annotated[Path, typer.Argument(help="Folder that `ocuseg predict` wrote.")],
    pdf: Annotated[
        str | None,
        typer.Option("--pdf", metavar="NAME", help="Also a PDF/A of this case or patient, or of `all` (needs ocuseg[pdf])."),
    ] = None,
    single_file: Annotated[
        str | None,
        typer.Option("--single-file", metavar="CASE", help="Also this case's page as one file that refers to nothing else."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an offline HTML worklist and one page per case; as PDF or as single file where asked."""
    from pipeline.reports.worklist import write_report
    from pipeline.review.state import eyes_of

    eyes = eyes_of(existing_folder(folder, "folder"))
    with progress("report") as advance:
        page = write_report(folder, eyes=eyes, progress=advance)
    made: dict[str, Any] = {"report": str(page)}
    if single_file is not None:
        from pipeline.reports.single_file import write_single_file

        made["single_file"] = str(write_single_file(folder, single_file))
    if pdf is not None:
        from pipeline.reports.pdf import write_pdfs

        with progress("PDF") as advance:
            made["pdf"] = [str(path) for path in write_pdfs(folder, pdf, eyes=eyes, progress=advance)]
    lines = [f"{what.replace('_', ' ')}: {path}" for what, own in made.items() for path in (own if isinstance(own, list) else [own])]
    emit(made, as_json, lines)

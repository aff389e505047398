"""What shards have done together, as one: ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, SiteKey, ends
from pipeline.errors import EXIT_SOME_REJECTED, EXIT_STOPPED, ConfigError


def add_to(app: typer.Typer) -> None:
    app.command("merge")(command(merge))


def merge(
    out: Annotated[Path, typer.Argument(help="Folder that shards of `predict` or `segment` wrote, or the catalogue of shards of `index`.")],
    report: Annotated[bool, typer.Option(help="Also write the report, where nothing is missing.")] = True,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Tell what all shards have done and what is missing; where nothing is, write one ledger, one table, one catalogue, one report."""
    if not out.is_dir():
        merge_index(out, as_json)
        return
    from pipeline.inference.merging import merge as merged
    from pipeline.scans.identity import Pseudonyms, default_key_path

    told = merged(out, Pseudonyms.load(site_key or default_key_path()))
    lines, about = told.lines(), told.to_json()
    if told.complete and not told.at_work and report and told.counts.get("done"):
        from pipeline.reports.worklist import write_report
        from pipeline.review.state import eyes_of

        with progress("report") as advance:
            page = write_report(out, eyes=eyes_of(out), progress=advance)
        about["report"] = str(page)
        lines.append(f"report: {page}")
    emit(about, as_json, lines)
    if not told.complete or told.at_work:
        raise typer.Exit(EXIT_STOPPED)
    if told.counts.get("rejected") or told.counts.get("failed"):
        raise typer.Exit(EXIT_SOME_REJECTED)


def merge_index(out: Path, as_json: bool) -> None:
    """The parts of a catalogue."""
    from pipeline.scans.catalogue import Catalogue
    from pipeline.scans.merging import merge_catalogues, parts_beside

    if out.exists() and not parts_beside(out):
        missing = []  # the last shard has put them together
    elif not parts_beside(out):
        raise ConfigError(f"{str(out)!r} is neither a folder of predictions nor a catalogue of which there are parts; give one of the two")
    else:
        missing = merge_catalogues(out)
    if missing:
        names = ", ".join(map(str, missing))
        emit({"missing": [str(shard) for shard in missing]}, as_json, [f"missing: share {names}; run `ocuseg index` with these --shard"])
        raise typer.Exit(EXIT_STOPPED)
    with Catalogue(out) as catalogue:
        counts = {"files": len(catalogue)}
        for (status, _), count in catalogue.outcomes().items():
            counts[status] = counts.get(status, 0) + count
        counts |= catalogue.groups()
    emit(counts, as_json, ends(counts))

"""From a folder of scans to cases: ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, program
from pipeline.cli.data import AsJson, TogetherWith, bundles_named, ends, existing_bundle, existing_folder, leave
from pipeline.cli.folder_options import FolderOptions
from pipeline.cli.options import spread
from pipeline.cli.runs import BundlePath, Engine, Plugin
from pipeline.plugins import load_plugin


def add_to(app: typer.Typer) -> None:
    app.command("predict")(command(spread(predict)))


def predict(
    bundle: BundlePath,
    folder: Annotated[Path, typer.Argument(help="A hospital's folder tree of raw scans.")],
    out: Annotated[Path, typer.Option(help="Folder for masks, objects and ledger; an interrupted prediction is continued.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also keep each class's probabilities (of a segmentation bundle).")
    ] = False,
    together_with: TogetherWith = None,
    engine: Engine = "torch",
    plugin: Plugin = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print at the end where the time of this process went.")] = False,
    *,
    options: FolderOptions,
    as_json: AsJson = False,
) -> None:
    """Segment every scan in a folder, or detect its objects, as the bundle was trained to; the ledger lists every file."""
    bundle = existing_bundle(bundle)
    existing_folder(folder, "folder")
    for path in plugin or []:
        load_plugin(path)
    further = bundles_named(together_with)
    options.begin()
    from pipeline.inference.desk import is_complete
    from pipeline.inference.profile import Profile
    from pipeline.inference.uses import doubts_in, eyes_lines, records_in

    spent = Profile()
    counts = options.predict("predicting", [bundle, *further], folder, out, engine=engine, probabilities=probabilities, profile=spent)
    complete = is_complete(out)  # else the last share tells: all cases are read for it
    doubts = doubts_in(out) if complete else []
    eyes = eyes_lines(records_in(out)) if complete else []
    told = counts | {"doubts": doubts, "eyes": eyes} | ({"profile": spent.to_json()} if profile else {})
    warnings = [f"warning: {text}" for text in doubts]
    emit(
        told,
        as_json,
        [*ends(counts), *eyes, *(spent.lines() if profile else ()), *warnings, f"written: {out}; next: {program('ocuseg')} report {out}"],
    )
    leave(counts.get("done", 0), counts.get("rejected", 0) + counts.get("failed", 0))

"""``deidentify``: a folder of scans without whose they are, for handing on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import (
    AsJson,
    FollowLinks,
    MaxPixels,
    MemoryLimit,
    SiteKey,
    existing_folder,
    follow,
    leave,
    limits_of,
    printable,
    words,
)
from pipeline.cli.stated import ImgGeometry


def add_to(app: typer.Typer) -> None:
    app.command("deidentify")(command(deidentify))


def deidentify(
    folder: Annotated[Path, typer.Argument(help="A folder of scans; it is only read.")],
    out: Annotated[Path, typer.Option(help="Folder to write, elsewhere; an unfinished one is finished.")],
    profile: Annotated[str, typer.Option(help="What is removed of DICOM: `basic`, PS3.15 E.2.")] = "basic",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="An option of the profile, repeatable: retain-longitudinal-modified (the default: dates move by a secret number of days "
            "for each patient), retain-longitudinal-full, retain-patient-characteristics, retain-device, retain-institution, "
            "retain-uids, retain-safe-private, clean-descriptors, clean-pixels; or none."
        ),
    ] = None,
    burned_in: Annotated[
        Literal["refuse", "report", "black"],
        typer.Option(
            help="Where text seems to be burned into pixels: refuse the file, keep it and say where, or blacken it (clean-pixels)."
        ),
    ] = "refuse",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say of each file what would be removed.")] = False,
    show_paths: Annotated[bool, typer.Option("--show-paths", help="Print (never store) the path of each file that is refused.")] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that clean, each with limits of time and memory; 0: none, and no protection.")
    ] = 2,
    max_pixels: MaxPixels = None,
    memory_limit: MemoryLimit = None,
    img_geometry: ImgGeometry = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Copy scans without whose they are: DICOM by PS3.15, pictures and volumes without words, names as pseudonyms, pixels unchanged."""
    from pipeline.deidentify.file import Job
    from pipeline.deidentify.folder import Line, deidentify_folder
    from pipeline.deidentify.profile import CLEAN_PIXELS, MODIFIED_DATES, Rules
    from pipeline.scans.identity import Pseudonyms, default_key_path
    from pipeline.scans.raw_img import state_img_geometry

    existing_folder(folder, "folder")
    chosen = {*([MODIFIED_DATES] if option is None else option), *([CLEAN_PIXELS] if burned_in == "black" else [])}
    rules = Rules.of(profile, chosen)
    follow(follow_links)
    state_img_geometry(img_geometry)
    names = Pseudonyms.load_or_create(site_key or default_key_path())
    limits = limits_of(max_pixels, memory_limit, workers)
    job = Job(rules, names, folder, "black" if CLEAN_PIXELS in chosen else burned_in, limits.max_pixels)
    said: list[str] = []
    reasons: Counter[str] = Counter()

    def note(path: Path, line: Line) -> None:
        if line.status in ("refused", "not_an_image"):
            reasons[line.reason] += 1
        if line.reason and show_paths:
            said.append(f"{printable(path)}: {words(line.status)} ({line.code})")
        if dry_run and not line.reason:
            said.append(f"{printable(path)}: {line.removed or 'nothing to remove'}{f' ({line.notes})' if line.notes else ''}")

    with progress("files") as advance:
        counts = deidentify_folder(job, out, dry_run=dry_run, workers=workers, limits=limits, on_file=note, progress=advance)
    text = counts.pop("text")
    told = [f"{words(status)}: {count}" for status, count in sorted(counts.items())]
    told += [f"  {count} x {reason}" for reason, count in reasons.most_common()]
    told += [f"text seems to be burned into {text} file{'' if text == 1 else 's'}"] if text else []
    emit({**counts, "text": text, "reasons": dict(reasons)}, as_json, [*said, *told])
    leave(counts["written"] + counts["duplicate"], counts["refused"])

"""Scans, before any training: ``phantom``, ``index``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.clusters import ClusterOptions
from pipeline.cli.console import command, emit, progress
from pipeline.cli.options import spread
from pipeline.cli.sharing import HowProgress, SharingOptions
from pipeline.cli.stated import ImgGeometry
from pipeline.errors import EXIT_NOTHING_USABLE, EXIT_SOME_REJECTED, ConfigError
from pipeline.resources import find_run_file
from pipeline.scans.walk import FOLLOW_LINKS

if TYPE_CHECKING:
    from pipeline.memory import Limits
    from pipeline.scans.folder import FileRecord

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Root = Annotated[Path, typer.Option(help="Folder that holds the data set.")]
SiteKey = Annotated[
    Path | None, typer.Option(help="File with the key for pseudonyms (default: OCUSEG_SITE_KEY, or a key created on first use).")
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Also read what is behind links that leave the folder (by default such links are only counted)."),
]


def follow(links: bool) -> None:
    """Make all later walks follow links that leave their folder (scans/walk.py)."""
    if links:
        os.environ[FOLLOW_LINKS] = "1"


def words(name: str) -> str:
    return name.replace("_", " ")


def ends(counts: dict[str, int]) -> list[str]:
    """How many files of a folder ended in which state, a line each."""
    shown = {"part": "further slices of volumes", "not_an_image": "not an image", "not_followed": "links not followed"}
    lines = [f"{shown.get(name, words(name))}: {count}" for name, count in counts.items()]
    if counts.get("not_followed"):
        lines.append("links that lead out of the folder are not followed; --follow-links reads what they lead to")
    if counts.get("archives"):
        from pipeline.scans.archives import archives_line

        lines.append(archives_line(counts["archives"], counts["images_in_archives"]))
    return lines


def leave(usable: int, refused: int) -> None:
    """Say by the exit code, too, that none of a folder's files was of use, or not all."""
    if not usable:
        raise typer.Exit(EXIT_NOTHING_USABLE)
    if refused:
        raise typer.Exit(EXIT_SOME_REJECTED)


TogetherWith = Annotated[
    str | None, typer.Option("--with", help="Models or bundles of whole pictures that look at each scan, too: eye_side,picture_kind.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="OCUSEG_MAX_PIXELS", help="Pixels that one file may declare, all slices together (default: what fits the memory)."
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        envvar="OCUSEG_MEMORY_LIMIT",
        help="Memory that this command and its processes may use, such as 8G (default: 3/4 of the machine's or container's).",
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command("phantom")(command(phantom))
    app.command("index")(command(spread(index)))


def limits_of(max_pixels: int | None, memory_limit: str | None, workers: int | None) -> Limits:
    """What one file may take, as the options say or this machine allows."""
    from pipeline.memory import Limits, usual_workers

    if memory_limit is not None:
        os.environ["OCUSEG_MEMORY_LIMIT"] = memory_limit
    if workers is None:
        from pipeline.training.platform import usable_cores  # brings torch along

        workers = usual_workers(usable_cores())
    return Limits.chosen(max_pixels, workers=workers)


def printable(path: Path) -> str:
    """A file's name as a terminal can show it on one line, whatever bytes it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def existing_folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise ConfigError(f"{what} {str(path)!r} is not a folder; give one that exists")
    return path


def existing_run_file(path: Path) -> Path:
    """The run file, study file (or STUDY/RUN) or folder that ``path`` means; checked before anything slow is imported."""
    if not find_run_file(path).exists() and not find_run_file(path.parent).is_file():
        raise ConfigError(f"{path}: there is no such run file; give the path of a YAML run file, or the name of one in configs/")
    return path


def existing_bundle(path: Path) -> Path:
    """The folder of a bundle, or of the model that comes with ocuseg; what is in it is checked when it is loaded, which takes longer."""
    from pipeline.bundles.shipped_models import find_bundle

    return find_bundle(path)


def bundles_named(names: str | None) -> list[Path]:
    """Those of an option like ``--with``; none without it."""
    return [existing_bundle(Path(name.strip())) for name in (names or "").split(",") if name.strip()]


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; created if missing.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    broken: Annotated[bool, typer.Option("--broken", help="Also write broken and duplicate files, as hospital folders hold them.")] = False,
    oct_only: Annotated[
        bool,
        typer.Option(
            "--oct-only", help="Write OCT only, each scan from a different instrument: rasters of the macula, circles around the disc."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an artificial hospital: photographs and OCT of both eyes with exact masks. No real person's data."""
    from pipeline.phantoms.hospital import write_hospital
    from pipeline.phantoms.oct_set import write_oct_set

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{str(out)!r} is not empty; give a new folder, so that nothing is overwritten")
    if oct_only and broken:
        raise ConfigError("--broken and --oct-only cannot be combined: broken files belong to a whole hospital")
    with progress("phantoms") as advance:
        if oct_only:
            counts = write_oct_set(out, patients, seed, progress=advance)
            where = [f"for training (card phantom_oct_layers): {out / 'card'}"]
        else:
            counts = write_hospital(out, patients, seed, broken=broken, progress=advance)
            where = [f"raw scans: {out / 'scans'}", f"for training (card phantom): {out / 'card'}"]
    emit(counts, as_json, [*(f"{name}: {count}" for name, count in counts.items()), *where])


def index(
    folder: Annotated[Path, typer.Argument(help="A hospital's folder tree.")],
    out: Annotated[Path, typer.Option(help="Catalogue to write or bring up to date (SQLite).")] = Path("catalogue.sqlite"),
    workers: Annotated[int, typer.Option(min=1, help="Files read in parallel.")] = 2,
    together_with: TogetherWith = None,
    max_pixels: MaxPixels = None,
    memory_limit: MemoryLimit = None,
    img_geometry: ImgGeometry = None,
    *,
    sharing: SharingOptions,
    cluster: ClusterOptions,
    how: HowProgress = "auto",
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Print (never store) the path of each file that was not read, or read with a warning.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Walk a folder and account for every file: read, duplicate, not an image, or rejected with its reason."""
    from pipeline.scans.folder import index_folder
    from pipeline.scans.identity import Pseudonyms, default_key_path
    from pipeline.scans.on_cluster import ReadingWork, read_by_workers
    from pipeline.scans.raw_img import state_img_geometry

    existing_folder(folder, "folder")
    state_img_geometry(img_geometry)
    limits = limits_of(max_pixels, memory_limit, workers)
    follow(follow_links)
    share = sharing.share(folder)
    key_path = site_key or default_key_path()
    pseudonyms = Pseudonyms.load_or_create(key_path)
    make_look = look = None
    if together_with:
        from pipeline.inference.looking import Look  # imports torch, which nobody else needs here

        make_look = partial(Look, [bundle.absolute() for bundle in bundles_named(together_with)])
        look = make_look()
    unread: list[str] = []

    def note(path: Path, record: FileRecord) -> None:
        if show_paths and record.status != "read":
            unread.append(f"{printable(path)}: {record.status} ({record.code})")
        elif show_paths and (record.warnings or record.reason):
            unread.append(f"{printable(path)}: read, but {'; '.join(filter(None, (record.warnings, record.reason)))}")

    with cluster.workers() as those, progress("files", how) as advance:
        reader = None
        if those is not None:
            work = ReadingWork(Path(os.path.abspath(folder)), key_path.absolute(), limits.max_pixels, img_geometry, make_look)
            reader = partial(read_by_workers, those, work, pseudonyms)
        counts = index_folder(
            folder,
            out,
            pseudonyms=pseudonyms,
            workers=workers,
            limits=limits,
            progress=advance,
            on_file=note,
            look=look,
            models="" if look is None else look.id,
            share=share,
            reader=reader,
        )
    emit(counts.summary(), as_json, unread + ends(counts.summary()))
    leave(counts.status("read"), counts.status("rejected"))

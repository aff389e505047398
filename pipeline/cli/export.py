"""``export``: predictions for other systems (DICOM, NIfTI, PNG, COCO), or a bundle as one file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, FollowLinks, SiteKey, existing_bundle, existing_folder, follow, leave
from pipeline.cli.runs import Plugin
from pipeline.errors import ConfigError
from pipeline.plugins import load_plugin

if TYPE_CHECKING:
    from pipeline.export.run import Summary
    from pipeline.scans.identity import Pseudonyms


def add_to(app: typer.Typer) -> None:
    app.command("export")(command(export))


def export(
    source: Annotated[Path, typer.Argument(help="Folder that `ocuseg predict` or `segment` wrote; or a bundle, with --onnx.")],
    formats: Annotated[
        str | None,
        typer.Option("--format", help="Of predictions, separated by commas: seg, sr, sc, pdf (DICOM), nifti, png, coco, thickness."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files, one a case; with --onnx the file (default: NAME.onnx beside the bundle)."),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option("--from", help="The folder of scans, whose DICOM files the objects then belong to: same patient and study."),
    ] = None,
    case: Annotated[list[str] | None, typer.Option("--case", help="Only this case; may be given several times.")] = None,
    labelmap: Annotated[bool, typer.Option("--labelmap", help="Segmentations as LABELMAP: smaller, and few viewers know it.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Also cases that a reviewer rejected.")] = False,
    organisation: Annotated[
        str, typer.Option(help="Whose reviewers verify reports: without it no report of measurements says that it is verified.")
    ] = "",
    onnx: Annotated[bool, typer.Option("--onnx", help="A bundle as an ONNX file, which says in its metadata how it is used.")] = False,
    plugin: Plugin = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Write predictions as DICOM objects or other programs' files, or a segmentation bundle as one file that other programs run."""
    from pipeline.types.run_record import RUN_FILE

    if not (source / RUN_FILE).is_file():
        if formats is not None or not onnx:
            existing_bundle(source)  # says so where it is neither
            raise ConfigError("export needs a format: give --onnx" if formats is None else "--format is of predictions")
        _export_bundle(source, out, plugin, as_json)
        return
    if onnx:
        raise ConfigError("--onnx is of a bundle, and this folder holds predictions; give --format seg,sr,sc,pdf")
    if formats is None or out is None:
        raise ConfigError("export of predictions needs --format (seg, sr, sc, pdf, nifti, png, coco, thickness) and --out FOLDER")
    from pipeline.export.case import Settings
    from pipeline.export.run import Predictions, export_folder

    _check_apart(out, source, scans)
    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    predictions = Predictions(source, Settings(wanted, labelmap, organisation, rejected))
    if scans is not None:
        follow(follow_links)
        with progress("originals") as advance:
            predictions.find_originals(existing_folder(scans, "--from"), _names(site_key), advance)
    with progress("export") as advance:
        summary = export_folder(predictions, out, case or (), advance)
    emit(_told(summary, out), as_json, _lines(summary, out))
    leave(len(summary.exported), len(summary.failed))


def _check_apart(out: Path, source: Path, scans: Path | None) -> None:
    """What is exported must not come back as a scan, nor as a case."""
    real = out.resolve()
    for other, what in ((scans, "the folder of scans, where it would be read as scans"), (source, "the folder of predictions")):
        if other is not None and (real == other.resolve() or other.resolve() in real.parents):
            raise ConfigError(f"--out lies inside {what}; give a folder of its own")


def _names(site_key: Path | None) -> Pseudonyms | None:
    """The site key where there is one: without it files are found by their contents alone."""
    from pipeline.scans.identity import Pseudonyms, default_key_path

    path = site_key or default_key_path()
    return Pseudonyms.load(path) if site_key is not None or path.is_file() else None


def _told(summary: Summary, out: Path) -> dict[str, Any]:
    cases = [
        {"case": one.case, "files": [str(path) for path in one.files], "written": one.new, "notes": list(one.notes)}
        for one in summary.exported
    ]
    return {"out": str(out), "cases": cases, "failed": summary.failed}


def _lines(summary: Summary, out: Path) -> list[str]:
    notes: dict[str, int] = {}
    for one in summary.exported:
        for note in one.notes:
            notes[note] = notes.get(note, 0) + 1
    files, new = sum(len(one.files) for one in summary.exported), sum(one.new for one in summary.exported)
    return [
        *(f"{case}: failed, {why}" for case, why in summary.failed.items()),
        *(f"{count} {'case' if count == 1 else 'cases'}: {note}" for note, count in notes.items()),
        f"cases: {len(summary.exported)} exported, {len(summary.failed)} failed",
        f"files: {files} ({new} written now, {files - new} there already)",
        f"written to: {out}",
    ]


def _export_bundle(bundle: Path, out: Path | None, plugin: list[Path] | None, as_json: bool) -> None:
    bundle = existing_bundle(bundle)
    for path in plugin or []:
        load_plugin(path)
    from pipeline.bundles.bundle import load_bundle
    from pipeline.bundles.onnx_file import export_onnx
    from pipeline.bundles.shipped_models import is_shipped

    loaded = load_bundle(bundle)
    file = out or (Path.cwd() if is_shipped(bundle) else bundle.absolute().parent) / f"{loaded.config.name}.onnx"
    if file.is_dir():
        raise ConfigError(f"--out {str(file)!r} is a folder; give the file to write, such as {loaded.config.name}.onnx")
    apart = export_onnx(loaded, file)
    found = {"file": str(file), "bundle_id": loaded.id, "bytes": file.stat().st_size, "largest_difference": apart}
    emit(found, as_json, [f"logits differ from torch's by at most {apart:.1e}", f"written: {file}"])

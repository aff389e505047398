"""A bundle for other programs: ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit
from pipeline.cli.data import AsJson, existing_bundle
from pipeline.cli.runs import BundlePath, Plugin, load_plugin
from pipeline.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    app.command("export")(command(export))


def export(
    bundle: BundlePath,
    onnx: Annotated[bool, typer.Option("--onnx", help="As an ONNX file, which says in its metadata how it is used.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write (default: NAME.onnx beside the bundle, in the current folder for a model of ocuseg's own)."),
    ] = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """Write a segmentation bundle as one file that other programs run."""
    bundle = existing_bundle(bundle)
    if not onnx:
        raise ConfigError("export needs a format: give --onnx")
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

"""From a folder of scans to cases: ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.clusters import ClusterOption, DashboardOption, client_of
from pipeline.cli.console import command, emit, program, progress
from pipeline.cli.data import (
    AsJson,
    FollowLinks,
    MaxPixels,
    MemoryLimit,
    SiteKey,
    TogetherWith,
    bundles_named,
    ends,
    existing_bundle,
    existing_folder,
    follow,
    leave,
    limits_of,
)
from pipeline.cli.runs import BundlePath, Device, Doubt, Engine, Plugin, load_plugin
from pipeline.cli.sharing import HowProgress, InputList, MaxFailures, RetryFailed, Scratch, ShardOption, StopAfter, share_of
from pipeline.cli.stated import AxialLength, FieldAngle, ImgGeometry, Patients, PixelMm, StatedKind
from pipeline.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    app.command("predict")(command(predict))


def predict(
    bundle: BundlePath,
    folder: Annotated[Path, typer.Argument(help="A hospital's folder tree of raw scans.")],
    out: Annotated[Path, typer.Option(help="Folder for masks, objects and ledger; an interrupted prediction is continued.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also keep each class's probabilities (of a segmentation bundle).")
    ] = False,
    doubt: Doubt = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Files read, and results written, in parallel (default: as cores and memory allow).")
    ] = None,
    together_with: TogetherWith = None,
    max_pixels: MaxPixels = None,
    memory_limit: MemoryLimit = None,
    modality: StatedKind = None,
    pixel_mm: PixelMm = None,
    field_angle: FieldAngle = None,
    axial_length: AxialLength = None,
    patients: Patients = "folder",
    img_geometry: ImgGeometry = None,
    device: Device = "auto",
    engine: Engine = "torch",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images that go through the network together (default: as the device needs).")
    ] = None,
    plugin: Plugin = None,
    shard: ShardOption = None,
    input_list: InputList = None,
    retry_failed: RetryFailed = False,
    stop_after: StopAfter = None,
    scratch: Scratch = None,
    max_failures: MaxFailures = None,
    how: HowProgress = "auto",
    cluster: ClusterOption = None,
    dashboard: DashboardOption = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print at the end where the time went.")] = False,
    as_json: AsJson = False,
) -> None:
    """Segment every scan in a folder, or detect its objects, as the bundle was trained to; the ledger lists every file."""
    bundle = existing_bundle(bundle)
    existing_folder(folder, "folder")
    if plugin and cluster is not None:
        raise ConfigError("--plugin and --cluster cannot be combined: the workers of a cluster would not load it")
    for path in plugin or []:
        load_plugin(path)
    further = bundles_named(together_with)
    from pipeline.inference.desk import is_complete
    from pipeline.inference.folder import predict_folder
    from pipeline.inference.on_cluster import OnCluster
    from pipeline.inference.profile import Profile
    from pipeline.inference.uses import doubts_in, eyes_lines, records_in
    from pipeline.scans.identity import Pseudonyms, default_key_path
    from pipeline.scans.stated import stated

    optics = {"field_angle": field_angle, "axial_length": axial_length}
    said = stated(modality, pixel_mm, **optics, patients=patients, img_geometry=img_geometry)
    limits = limits_of(max_pixels, memory_limit, workers)
    follow(follow_links)
    share = share_of(folder, shard, input_list, retry_failed, stop_after, scratch, max_failures)
    pseudonyms = Pseudonyms.load_or_create(site_key or default_key_path())
    spent = Profile()
    with client_of(cluster, dashboard) as client, progress("predicting", how) as advance:
        counts = predict_folder(
            [bundle, *further],
            folder,
            out,
            device=device,
            engine=engine,
            probabilities=probabilities,
            doubt=doubt,
            batch_size=batch_size,
            workers=workers,
            pseudonyms=pseudonyms,
            stated=said,
            limits=limits,
            progress=advance,
            profile=spent,
            share=share,
            cluster=None if client is None else OnCluster(client, site_key or default_key_path()),
        )
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

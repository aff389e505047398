"""A camera, a stream or a video under a network: ``live``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, SiteKey, existing_bundle
from pipeline.cli.runs import BundlePath, Device, Engine, Plugin
from pipeline.errors import EXIT_INTERRUPTED, EXIT_SOME_REJECTED, ConfigError, NothingUsableError
from pipeline.plugins import load_plugin


def add_to(app: typer.Typer) -> None:
    app.command("live")(command(live))


def live(
    bundle: BundlePath,
    source: Annotated[str, typer.Option(help="A camera's number (0), a video file, or an address such as rtsp://HOST/PATH.")],
    out: Annotated[Path, typer.Option(help="Folder for snapshots, their cases and report, and recordings.")] = Path("live"),
    video: Annotated[
        Path | None, typer.Option(help="Open no window: write the overlays to this video (.mp4, .avi), of a file every frame of it.")
    ] = None,
    real_time: Annotated[
        bool | None,
        typer.Option(
            "--real-time/--every-frame",
            help="How a video file plays: at its own pace, the newest frame first, or each frame however long it takes"
            " (default: in the window in real time, with --video every frame).",
        ),
    ] = None,
    fps: Annotated[
        float,
        typer.Option(min=0, help="In real time: the network sees a coarser picture where it would be slower than this; 0: never coarser."),
    ] = 10.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long (default: when the source ends, or at Ctrl-C).")] = None,
    reconnect: Annotated[float, typer.Option(min=0, help="Seconds for which a lost camera or stream is tried again.")] = 60.0,
    patient: Annotated[
        str | None, typer.Option(help="Whose eye it is, for snapshots; a pseudonym is written (default: a patient of its own).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the window, on 127.0.0.1; 0: any that is free.")] = 8765,
    device: Device = "auto",
    engine: Engine = "torch",
    plugin: Plugin = None,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model finds in a camera's or video's frames while they come, in a browser window or as a video."""
    bundle = existing_bundle(bundle)
    if patient is not None and (not patient.strip() or Path(patient).name != patient):
        raise ConfigError(f"--patient {patient!r} must be a name that a folder can have")
    for path in plugin or []:
        load_plugin(path)
    from pipeline.live.source import kind_of
    from pipeline.live.start import Wishes, started
    from pipeline.live.video import check_video

    at_own_pace = (video is None if real_time is None else real_time) or kind_of(source) == "camera"
    if real_time is False and kind_of(source) == "camera":
        raise ConfigError("--every-frame: a camera does not wait; leave it out")
    wishes = Wishes(bundle, source, out, None if video is None else check_video(video), at_own_pace, fps, reconnect, patient)
    session = started(wishes, device=device, engine=engine, key_path=site_key)
    interrupted = False
    with ExitStack() as stack:
        if video is None:
            from pipeline.live.server import Window

            window = stack.enter_context(Window(session, port))
            typer.echo(f"live: {window.url}   (Ctrl-C ends)", err=True)
        advance = stack.enter_context(progress("live")) if video is not None else None
        try:
            session.run(seconds=seconds, progress=advance)
        except KeyboardInterrupt:  # how a camera's session ends; only a file that was to become a video is not whole
            session.stop()
            interrupted = video is not None and not session.capture.live
    told = session.summary()
    emit(told, as_json, summary_lines(told))
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not told["shown"] and not session.stopped_by_hand:
        raise NothingUsableError("no frame came from the source")
    if told["lost"] or told["refused"]:
        raise typer.Exit(EXIT_SOME_REJECTED)


def summary_lines(told: dict[str, Any]) -> list[str]:
    """The end of a session for a person."""
    lines = [f"frames: {told['shown']} shown, {told['dropped']} dropped"]
    if told["fps"] is not None:
        late = ", ".join(f"{name} {value:g}" for name, value in told["latency_ms"].items())
        spent = ", ".join(f"{name} {value:g}" for name, value in told["stages_ms"].items())
        lines.append(f"frames a second: {told['fps']:g}; delay in ms: {late}; spent in ms (median): {spent}")
    if told["detail"] < 1:
        lines.append(f"to keep up, the network saw {told['detail']:.0%} of its detail (--fps 0: always all)")
    if told["reconnections"]:
        lines.append(f"the source was lost and came back {told['reconnections']} times")
    if told["refused"]:
        lines.append(f"frames that the model could not take: {told['refused']} ({told['refusal']})")
    if told["lost"]:
        lines.append(f"warning: {told['lost']}")
    lines += [f"video: {path}" for path in told["videos"]]
    if told["report"]:
        lines.append(f"snapshots: {len(told['snapshots'])}; report: {told['report']}")
    return lines

"""A session from what a user asked for: what can go wrong does so before the first frame is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.bundles.bundle import load_bundle
from pipeline.inference.predict import Predictor
from pipeline.live.capture import Capture
from pipeline.live.detail import Detail
from pipeline.live.look import Look
from pipeline.live.session import Session
from pipeline.live.snapshots import Snapshots
from pipeline.live.source import OpenCVSource
from pipeline.live.video import VideoFile
from pipeline.scans.identity import Pseudonyms, default_key_path
from pipeline.training.platform import prepare_machine


@dataclass(frozen=True)
class Wishes:
    """``real_time``: a file plays at its own pace, and the newest frame wins, as of a camera; else every frame counts. ``video``: no
    window, but this file. ``least_fps``: see :class:`~pipeline.live.detail.Detail`."""

    bundle: Path
    source: str
    out: Path
    video: Path | None
    real_time: bool
    least_fps: float
    patience_s: float
    patient: str | None = None


def started(wishes: Wishes, *, device: str = "auto", engine: str = "torch", key_path: Path | None = None) -> Session:
    """A session whose source is open and whose network is ready; it is to be run.

    Raises
    ------
    BundleError, ConfigError: the model, the source, the engine or the key cannot be used.
    """
    source = OpenCVSource(wishes.source)  # before the network, which takes longer
    loaded = load_bundle(wishes.bundle)
    predictor = Predictor(loaded, prepare_machine(device), engine)
    keep_up = wishes.real_time or source.live
    one_size = loaded.config.data.normalise.working_size is not None  # some networks take no other
    look = Look(predictor, Detail(wishes.least_fps if keep_up and not one_size else 0.0), keep_up=keep_up)
    look.prepare()
    names = Pseudonyms.load_or_create(key_path or default_key_path())
    snapshots = Snapshots(wishes.out, wishes.bundle, wishes.patient, names, device)
    video = None if wishes.video is None else VideoFile(wishes.video, source.fps, clocked=keep_up)
    reopen = partial(OpenCVSource, wishes.source)
    capture = Capture(source, reopen, every_frame=not keep_up, real_time=wishes.real_time, patience_s=wishes.patience_s)
    return Session(capture, look, snapshots, wishes.out, video=video, window=wishes.video is None)

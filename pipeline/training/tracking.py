"""What a run leaves in MLflow, recorded so that training never waits for a server and nothing is lost when one goes away.

Every record is first appended to a spool on disk (``RUN/unsent``); a sender delivers it in order. The run goes on at full
speed while the server is away; what could not be sent stays on disk and is sent by :func:`send_unsent`.

How a training run calls it (rank 0 only; other ranks pass ``active=False`` and every call does nothing)::

    tracker = open_tracker(config, run_dir, active=accelerator.is_main_process, resume=resume)
    tracker.start(card_name=..., card_text=..., split=split.to_json(), manifest=store.manifest(), environment=environment(device))
    tracker.epoch(step, {"train/loss": 0.4, "train/loss/dice": 0.3, "validation/dice/vessel": 0.79})
    tracker.table("validation_per_image", rows)
    tracker.picture("validation_overlay_0", image)
    tracker.bundle(bundle_path, {"test/dice": 0.81})
    delivery = tracker.finish("FINISHED")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pipeline.config import RunConfig

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Delivery:
    """How far the records of a run have come. ``message`` is one sentence for the user when something is still unsent."""

    sent: int
    unsent: int
    run_id: str | None
    model_version: str | None = None
    message: str | None = None


class Tracker:
    """Records one run. No method raises because of the server, and none waits for it but :meth:`finish`, for a bounded time."""

    def __init__(self, config: RunConfig, run_dir: Path, *, active: bool = True, resume: bool = False) -> None:
        self._config, self._run_dir, self._active = config, run_dir, active

    @property
    def run_id(self) -> str | None:
        """The MLflow run, or None as long as no server has answered."""
        return None

    def start(
        self,
        *,
        card_name: str,
        card_text: str,
        split: Any,
        manifest: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Record what the run is made of. On a resumed run this only notes the resumption.

        Parameters
        ----------
        card_name, card_text: the data card's ``name`` and its whole text (its hash is recorded with it).
        split: JSON value or JSON text of the split, CaseKeys only.
        manifest: one row an image: ``case``, ``sha256`` and whatever else says what was trained on; never a path.
        environment: :func:`pipeline.training.provenance.environment`.
        extra: further parameters, such as ``{"parameters": 290_000}``.
        """

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Record one epoch's numbers under MLflow step ``step``. None is left out (undefined), NaN is recorded as NaN."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record rows (one an image) as the artifacts ``tables/NAME.csv`` and ``tables/NAME.json``."""

    def picture(self, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Record uint8 (H, W) or (H, W, 3) as the artifact ``pictures/NAME.png``."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a copy of one file as the artifact ``FOLDER/<its name>``."""

    def bundle(self, path: Path, metrics: Mapping[str, float | None]) -> None:
        """Record the bundle folder as the artifact ``bundle/`` and register it as a model version with the config's alias."""

    def finish(self, status: Status, *, wait_seconds: float = 30.0) -> Delivery:
        """End the run and wait at most ``wait_seconds`` for the records to arrive; says what is still unsent."""
        return Delivery(0, 0, None)


def open_tracker(config: RunConfig, run_dir: Path, *, active: bool = True, resume: bool = False) -> Tracker:
    """Start recording a run (``resume=True`` continues the MLflow run that ``run_dir`` belongs to).

    Raises
    ------
    ConfigError: a tracking URI that holds a password or cannot be used at all.
    """
    return Tracker(config, run_dir, active=active, resume=resume)


def send_unsent(run_dir: Path, *, uri: str | None = None, wait_seconds: float = 120.0) -> Delivery:
    """Send what a run could not (``ocuseg train --send RUN``).

    Raises
    ------
    ConfigError: the folder is not a run, or the server still does not answer.
    """
    return Delivery(0, 0, None)

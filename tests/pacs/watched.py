"""A watch with a bundle whose answer is known, and one that dies by SIGKILL at chosen moments."""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.bundles.bundle import Bundle
from pipeline.inference import folder_work, worker
from pipeline.pacs.connect import connected
from pipeline.pacs.listen import Receiver
from pipeline.pacs.outbox import Outbox
from pipeline.pacs.settings import load_pacs
from pipeline.pacs.study_states import StudyStates
from pipeline.pacs.study_steps import Wishes
from pipeline.pacs.watch import Watch
from pipeline.scans.identity import Pseudonyms
from tests.inference.conftest import make_bundle
from tests.inference.crash_driver import InThisProcess, in_child, status_of

KEY = Pseudonyms(b"a site key for tests")
FORMATS = ("seg", "sr", "sc")


def watch(pacs_file: Path, work: Path, *, formats: tuple[str, ...] = FORMATS, receiver: Receiver | None = None) -> dict[str, int]:
    """One look at everything that is there, in this process."""
    name, settings = load_pacs(pacs_file, None)
    wishes = Wishes(work, [work], formats, keep=True, device="cpu")
    own = Watch(name, lambda: connected(name, settings, work), wishes, KEY, rest_s=0, since_days=10_000, retries=0, receiver=receiver)
    made = make_bundle(work / "bundle", thresholds={"vessel": 0.4})
    with known_bundle(made):
        return own.run(once=True)


@contextmanager
def known_bundle(made: Bundle) -> Iterator[None]:
    """Predictions are of ``made``, and files are decoded in this process: to start others would cost a second."""
    with mock.patch.object(folder_work, "open_bundle", return_value=made), mock.patch.object(worker, "Pool", InThisProcess):
        yield


def dies_before(holder: type, method: str, is_moment: Callable[..., bool]) -> None:
    """Arm this process."""
    function = getattr(holder, method)

    def step(*arguments: Any, **options: Any) -> Any:
        if is_moment(*arguments, **options):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(holder, method, step)


def watch_and_die(pacs_file: Path, work: Path, said: Path) -> None:
    """Watch again and again in forks of this process, of which each dies at another moment; ``said`` gets how each ended.

    Imports come first, so that a death costs little.
    """
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO)
    for name in ("seg", "sr", "sc"):
        importlib.import_module(f"pipeline.export.formats.{name}")
    for name in ("highdicom", "pyarrow.parquet", "pipeline.pacs.dicomweb", "scipy.ndimage", "skimage.measure", "nibabel"):
        importlib.import_module(name)
    sent: list[str] = []

    def third_is_sent(outbox: Outbox, pacs: str, sha256: str, *ended: str) -> bool:
        sent.append(sha256)
        return len(sent) == 3

    moments: list[Callable[[], None]] = [
        *(
            lambda state=state: dies_before(StudyStates, "advance", lambda own, study, to, reason="": to == state)  # type: ignore[misc]
            for state in ("pulled", "predicted", "exported")
        ),
        lambda: dies_before(Outbox, "record", third_is_sent),
        lambda: dies_before(StudyStates, "advance", lambda own, study, to, reason="": to == "pushed"),
        lambda: None,
    ]
    for moment in moments:

        def one(moment: Callable[[], None] = moment) -> None:
            moment()
            watch(pacs_file, work)

        os.write(1, f"status {status_of(in_child(one))}\n".encode())

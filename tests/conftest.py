"""What every test may rely on."""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import settings

import tests.tracking.forked_sender  # noqa: F401 - from here on

# A busy machine is no fault of the code, and the same commit gives the same verdict.
settings.register_profile("ocuseg", deadline=None, derandomize=True)
settings.load_profile("ocuseg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# There is one fork server for all tests of a process, and it reads this when the first of them needs it.
multiprocessing.set_forkserver_preload(["tests.training.preloaded"])


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through it again, in five thousand tests."""
    gc.collect()
    gc.freeze()


def shared_folder() -> Path:
    """Where real scans and weights lie: beside the checkout, or as OCUSEG_SHARED says."""
    return Path(os.environ.get("OCUSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_data(name: str) -> Path:
    """A folder of real scans, or a visible skip."""
    return _shared("data", name)


def shared_faults(name: str) -> Path:
    """A folder of inputs that once met a fault, or a visible skip."""
    return _shared("faults", name)


def shared_weights(name: str) -> Path:
    """A file of pretrained weights, or a visible skip."""
    return _shared("weights", name)


def _shared(kind: str, name: str) -> Path:
    path = shared_folder() / kind / name
    if not path.exists():
        # Of scans and weights not everybody has all; the inputs that met a fault are one set, of which none may go missing unseen.
        if kind == "faults" and path.parents[len(Path(name).parts) - 1].is_dir():
            pytest.fail(f"{kind}/{name} is gone, or is called otherwise")
        pytest.skip(f"{kind}/{name} is not beside this checkout (OCUSEG_SHARED)")
    return path

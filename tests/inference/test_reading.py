"""One file on its way to the network: the memory that is set aside for it, and what counts as reading."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ScanError
from pipeline.inference.model_set import ModelSet
from pipeline.inference.predict import Predictor
from pipeline.inference.profile import Profile
from pipeline.inference.reading import File, read_file
from pipeline.memory import Budget, Limits
from pipeline.scans.record import Opened
from pipeline.scans.workers import Admit, Pool
from tests.inference.test_folder import KEY

WAIT_S = 1.0


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 20, 30), 3 * 600 * (2 + 8) + 600 * 4),  # with its probabilities, which wait for a writer
        ((1, 5, 20, 30), 5 * 600 * (2 + 2)),  # becomes a mask slice by slice
    ],
)
def test_memory_is_set_aside_until_the_result_is_written_and_waiting_for_it_is_no_reading(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], size: int
) -> None:
    sizes = []

    def take(self: Budget, number: int, asked: int) -> None:
        sizes.append(asked)
        time.sleep(WAIT_S)

    def scan(self: Pool, path: Path, admit: Admit) -> Opened:
        admit(shape, 2)
        return Opened(error=ScanError("empty", "enough is known"))

    monkeypatch.setattr(Budget, "take", take)
    monkeypatch.setattr(Pool, "scan", scan)
    profile = Profile()
    with Pool(tmp_path, KEY, Limits.chosen()) as pool:
        read = read_file(
            File(tmp_path / "a.png", "", ""), 0, pool, ModelSet([Predictor(bundle)]), lambda scan, path: scan, Budget(1), profile
        )
    assert (read.code, sizes) == ("empty", [size])
    assert profile.to_json()["stages"]["read and decode"] < WAIT_S / 2

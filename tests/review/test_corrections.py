"""Corrections: stored whole, named by what they hold, read back equal, and never as something else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import OcusegError
from pipeline.review.corrections import (
    CorrectedObject,
    Correction,
    CorrectionRecord,
    corrections_folder,
    model_sha256,
    read_correction,
    remove_leftovers,
    write_correction,
)


def correction() -> Correction:
    masks = tuple(np.random.default_rng(seed).integers(0, 4, (30, 40), np.uint8) for seed in (0, 1))
    depth = np.linspace(1, 20, 80, dtype=np.float32).reshape(2, 40).round(2)
    depth[1, 7] = np.nan
    objects = (CorrectedObject.model_validate({"id": 1, "plane": 1, "class": "drusen", "box": (1, 2, 9, 8)}),)
    record = CorrectionRecord(case="A_R_1_1", base="ab" * 32, tools=("brush", "fill"), seconds=12.5)
    return Correction(record, masks, {"ILM": depth, "RPE": depth + 5}, objects)


def test_a_correction_comes_back_equal_and_is_stored_once(tmp_path: Path) -> None:
    made = correction()
    name = write_correction(tmp_path, made)
    assert write_correction(tmp_path, correction()) == name
    assert [path.name for path in corrections_folder(tmp_path).iterdir()] == [name]
    (corrections_folder(tmp_path) / name / "Thumbs.db").touch()
    found = read_correction(tmp_path, name)
    assert found.record == made.record
    assert all(np.array_equal(one, other) for one, other in zip(found.masks, made.masks, strict=True))
    assert list(found.surfaces) == ["ILM", "RPE"]
    assert np.allclose(found.surfaces["RPE"], made.surfaces["RPE"], atol=0.005, equal_nan=True)
    assert found.objects == made.objects


@pytest.mark.parametrize("name", ["../../run.json", "AB" * 32, "ab" * 32])
def test_a_correction_that_is_not_there_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(OcusegError, match="correction"):
        read_correction(tmp_path, name)


def test_what_a_killed_process_left_goes_when_nobody_can_be_writing_it(tmp_path: Path) -> None:
    name = write_correction(tmp_path, correction())
    old, young = (corrections_folder(tmp_path) / f".{letter * 64}.0123456789ab.part" for letter in "ab")
    for folder in (old, young):
        folder.mkdir()
        (folder / "mask_000.png").touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in corrections_folder(tmp_path).iterdir()) == sorted([young.name, name])


def test_a_changed_correction_is_told(tmp_path: Path) -> None:
    name = write_correction(tmp_path, correction())
    (corrections_folder(tmp_path) / name / "mask_001.png").unlink()
    with pytest.raises(OcusegError, match="was changed after it was stored"):
        read_correction(tmp_path, name)


def test_the_models_hash_is_of_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "mask_000.png").write_bytes(b"one")
    before = model_sha256(tmp_path)
    (tmp_path / "image_000.png").write_bytes(b"picture")
    assert model_sha256(tmp_path) == before
    (tmp_path / "mask_000.png").write_bytes(b"two")
    assert model_sha256(tmp_path) != before

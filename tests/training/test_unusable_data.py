"""Files that cannot be read and classes of which nothing is labelled: said before any training, or left out and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.splits import Split, make_split
from pipeline.errors import CardError, NothingUsableError
from pipeline.types import CaseKey
from tests.patience import LONG_S
from tests.training.tiny import COLUMNS, ROWS, tiny_config, train_tiny, write_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def planned(root: Path) -> Split:
    """The split that a run of ``tiny_config`` makes."""
    config = tiny_config(root)
    card = load_card(config.data.card)
    return make_split(card, find_cases(card, root), config.data.split, config.seed)


def file_of(root: Path, folder: str, key: CaseKey) -> Path:
    return root / folder / f"{key.patient}_{key.eye}.png"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(("folder", "damage"), [("images", truncate), ("masks", empty)])
def test_a_case_that_cannot_be_read_is_named_or_left_out_and_counted(
    root: Path, tmp_path: Path, folder: str, damage: Callable[[Path], None]
) -> None:
    split = planned(root)
    lost = split.train[1]
    damage(file_of(root, folder, lost))
    with pytest.raises(CardError, match=rf"^case {lost}: .*data\.skip_unreadable: true"):
        train_tiny(tiny_config(root), root, tmp_path / "stopped")
    train_tiny(tiny_config(root, data__skip_unreadable=True, train__epochs=1), root, tmp_path / "run")
    kept = Split.load(tmp_path / "run" / "split.json")
    assert kept.unreadable == (lost,)
    assert set(kept.train) == set(split.train) - {lost}
    assert (kept.validation, kept.test) == (split.validation, split.test)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert str(lost) not in {row["case"] for row in manifest}
    assert len(manifest) == 11


def test_a_case_larger_than_the_limit_is_named(root: Path) -> None:
    """The limit is read as a process starts, so this one is a process of its own."""
    lost = min(find_cases(load_card(tiny_config(root).data.card), root), key=lambda case: case.key)
    with Image.open(lost.image) as image:
        image.resize((4 * COLUMNS, 4 * ROWS)).save(lost.image)
    program = """
import sys
from pathlib import Path
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.store import CaseStore
card, root = load_card(sys.argv[1]), Path(sys.argv[2])
CaseStore(card, find_cases(card, root), NormaliseConfig())
"""
    command = [sys.executable, "-c", program, tiny_config(root).data.card, str(root)]
    environment = os.environ | {"OCUSEG_MAX_PIXELS": str(2 * COLUMNS * ROWS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert f"case {lost.key}: " in done.stderr
    assert f"declares {16 * COLUMNS * ROWS:,} pixels; the limit is {2 * COLUMNS * ROWS:,}" in done.stderr


def test_a_part_of_which_nothing_can_be_read_stops_the_run(root: Path, tmp_path: Path) -> None:
    keys = planned(root).validation
    for key in keys:
        truncate(file_of(root, "images", key))
    with pytest.raises(NothingUsableError, match=f"none of the {len(keys)} validation cases can be read, such as {keys[0]}"):
        train_tiny(tiny_config(root, data__skip_unreadable=True), root, tmp_path / "run")


def test_labels_that_do_not_fit_are_no_unreadable_files(root: Path, tmp_path: Path) -> None:
    lost = planned(root).train[0]
    Image.new("L", (COLUMNS - 3, ROWS)).save(file_of(root, "masks", lost))
    with pytest.raises(CardError, match=f"case {lost}: the label"):
        train_tiny(tiny_config(root, data__skip_unreadable=True), root, tmp_path / "run")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_class_without_a_labelled_pixel_stops_the_run(root: Path, tmp_path: Path, part: str) -> None:
    for key in dict(planned(root))[part]:  # type: ignore[call-overload]
        Image.new("L", (COLUMNS, ROWS)).save(file_of(root, "masks", key))
    said = {
        "train": r"card tiny: not one pixel of 'blob' is labelled in the 8 training cases; .*`ocuseg card check`.*data\.classes",
        "validation": r"card tiny: none of the 2 validation cases has a labelled pixel.*data\.split",
    }
    with pytest.raises(NothingUsableError, match=said[part]):
        train_tiny(tiny_config(root), root, tmp_path / "run")
    assert not (tmp_path / "run" / "split.json").exists()

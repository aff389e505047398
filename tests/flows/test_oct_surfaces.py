"""workflows/oct_surfaces.py: the device's lines as depths, errors of a network whose surfaces are known, and what is kept of them."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.cards.card import load_card
from pipeline.config import load_config, run_files
from pipeline.evaluation.device_lines import LINES, device_surfaces
from pipeline.evaluation.row import Row
from pipeline.types import Scan
from tests.conftest import shared_data
from tests.scans.test_vendor import LARGEST, Vol

ROOT = Path(__file__).resolve().parents[2]
RUNS = run_files(ROOT / "configs" / "oct_surfaces.yaml")
ROWS, COLUMNS = 96, 64
LABELS = load_card("phantom_oct_layers").label_map
BUNDLE = SimpleNamespace(label_map=LABELS)
TOPS = (20.0, 30.0, 38.0, 44.0, 50.0, 62.0, 70.0, 84.0)
"""Depths of the eight surfaces in the stub's answer."""


@pytest.fixture(scope="module")
def workflow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("oct_surfaces", ROOT / "workflows" / "oct_surfaces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["oct_surfaces"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def answer(scan: Scan) -> npt.NDArray[np.float32]:
    """Certain layers between TOPS: float32 (K, H, W)."""
    layers = np.zeros((len(LABELS), *scan.geometry.shape), np.float32)
    for name, top, bottom in zip(LABELS.layered, TOPS[:-1], TOPS[1:], strict=True):
        layers[LABELS.names.index(name), ..., int(top) : int(bottom), :] = 1
    return layers


@pytest.fixture
def vol(tmp_path: Path) -> Path:
    """One B-scan whose device drew ILM at 20 below the top edge, BM 3 pixels too deep and with a gap, and no nerve fibres."""
    lines = np.full((1, 3, COLUMNS), LARGEST, np.float32)
    lines[0, 0], lines[0, 1, 10:] = 19.5, 72.5
    stored = np.tile(np.linspace(0.2, 0.001, ROWS, dtype=np.float32)[None, :, None], (1, 1, COLUMNS))
    return Vol(stored, lines).save(tmp_path / "eye.vol")


@pytest.fixture
def reader(workflow: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SimpleNamespace(predict=lambda scan: SimpleNamespace(probabilities=answer(scan)), bundle=BUNDLE)
    monkeypatch.setattr(workflow, "Predictor", lambda bundle: predictor)


@pytest.fixture
def row(tmp_path: Path) -> Row:
    mean = {"value": 4.5, "low": 4.0, "high": 5.0}
    own: dict[str, Any] = dict.fromkeys(("mean_abs", "bias", "p95", "jump_found", "jump_true"), mean)
    summary = {"surfaces": {"unit": "um", "surfaces": {"ILM": own | {"columns": 3, "missing": 0}}}}
    return Row("little", "0" * 12, {}, {}, summary, {}, tmp_path)


def test_errors_against_the_device_are_in_um_and_only_where_it_drew(
    workflow: ModuleType, reader: None, vol: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vol.parent / "torn.vol").write_bytes(vol.read_bytes()[:2500])
    bare = Vol(np.ones((1, ROWS, COLUMNS), np.float32), np.full((1, 3, COLUMNS), LARGEST, np.float32)).save(vol.parent / "bare.vol")
    (reading,) = workflow.read_files("little", BUNDLE, [vol.parent / "torn.vol", bare, vol])
    said = capsys.readouterr().out
    assert "torn.vol: left out, the Spectralis file is truncated" in said
    assert "bare.vol: left out, the device drew no lines in it" in said
    assert [error.name for error in reading.errors] == ["ILM", "BM"]
    ilm, bm = reading.rows()
    assert (ilm["unit"], ilm["columns"], ilm["missing"]) == ("um", COLUMNS, 0)
    assert ilm["mean_abs"] == pytest.approx(0, abs=0.1)
    assert bm["columns"] == COLUMNS - 10
    assert bm["bias"] == pytest.approx(-3 * 3.90625, abs=0.1)  # three rows of ScaleZ too high
    assert bm["mean_abs"] == pytest.approx(3 * 3.90625, abs=0.1)
    assert (reading.network, reading.file) == ("little", "eye")


def test_the_picture_shows_the_lines_in_their_colours(workflow: ModuleType, reader: None, vol: Path) -> None:
    (reading,) = workflow.read_files("little", BUNDLE, [vol])
    picture = reading.picture.astype(int)
    for name, there in (("ILM", True), ("BM", True), ("RNFL-GCL", False)):
        colour = [int(workflow.COLOURS[name][at : at + 2], 16) for at in (1, 3, 5)]
        assert bool((np.abs(picture - colour).max(axis=2) < 12).sum() > 50) == there, name


def test_a_volume_is_shown_where_the_device_drew(workflow: ModuleType, reader: None, tmp_path: Path) -> None:
    lines = np.full((4, 3, COLUMNS), LARGEST, np.float32)
    lines[0, 0] = 19.5
    path = Vol(np.full((4, ROWS, COLUMNS), 0.1, np.float32), lines).save(tmp_path / "cube.vol")
    colour = [int(workflow.COLOURS["ILM"][at : at + 2], 16) for at in (1, 3, 5)]
    (reading,) = workflow.read_files("little", BUNDLE, [path])
    assert (np.abs(reading.picture.astype(int) - colour).max(axis=2) < 12).sum() > 500  # the line, and not its legend alone


def test_real_lines_lie_in_the_picture_and_in_order() -> None:
    paths = sorted(shared_data("spectralis_vol").glob("Willis*.vol"))
    assert paths
    for path in paths:
        true = device_surfaces(path)
        assert true.names in {("ILM", "BM"), ("ILM", "RNFL-GCL", "BM")}
        gap = np.diff(true.depth, axis=0)
        assert np.nanmin(gap) > 0
        assert 0.5 <= np.nanmin(true.depth) <= np.nanmax(true.depth) <= 496


@dataclass
class Recorder:
    """A tracker that only remembers."""

    tables: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)

    def table(self, name: str, rows: Any) -> None:
        self.tables[name] = rows

    def picture(self, name: str, picture: Any) -> None:
        self.pictures.append(name)

    def numbers(self, metrics: Any) -> None:
        self.scores |= metrics


def test_what_was_measured_is_kept_beside_the_study_and_in_its_run(
    workflow: ModuleType, reader: None, row: Row, vol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()

    @contextmanager
    def opened(config: Any, folder: Path, *, resume: bool) -> Any:
        assert resume
        assert folder == tmp_path
        yield recorder

    monkeypatch.setattr(workflow, "open_tracker", opened)
    config = load_config(RUNS[0])
    readings, phantoms = workflow.read_files("little", BUNDLE, [vol]), workflow.phantom_rows([row])
    workflow.keep(tmp_path, config, phantoms, readings)
    (line,) = phantoms
    assert [line[name] for name in ("network", "surface", "unit")] == ["little", "ILM", "um"]
    assert [line[name] for name in ("mean_abs", "low", "high", "jump_true")] == [4.5, 4.0, 5.0, 4.5]
    assert json.loads((tmp_path / "phantom_surfaces.json").read_text(encoding="utf-8")) == phantoms
    kept = json.loads((tmp_path / "device_lines.json").read_text(encoding="utf-8"))
    assert [line["surface"] for line in kept] == ["ILM", "BM"]
    assert kept == recorder.tables["device_lines"]
    table = " ".join((tmp_path / "device_lines.md").read_text(encoding="utf-8").split())
    assert "| little | eye | BM | um | 11.7 |" in table
    assert recorder.pictures == ["little_eye"]
    with Image.open(tmp_path / "little_eye.png") as picture:
        assert picture.size == readings[0].picture.shape[1::-1]
    assert recorder.scores == {"little/eye/ILM um": kept[0]["mean_abs"], "little/eye/BM um": kept[1]["mean_abs"]}


@pytest.mark.parametrize("place", [0, 1])
def test_both_networks_learn_the_same_in_the_same_way(place: int) -> None:
    config = load_config(RUNS[place])
    assert set(LINES.values()) <= set(LABELS.surface_names)
    first = load_config(RUNS[0])
    assert config.data.model_copy(update={"slices": None}) == first.data
    assert (config.data.slices is not None) == (place == 1)
    assert (config.seed, config.task, config.train.minutes) == (first.seed, first.task, first.train.minutes)

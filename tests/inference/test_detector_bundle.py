"""A saved bundle of the real detection task around a detector of two lines: from weights on disk to objects on disk, and stopped midway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bundles.bundle import build_task, load_bundle, save_bundle
from pipeline.config import RunConfig, parse_config
from pipeline.inference.batching import Batching
from pipeline.inference.folder import predict_folder
from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, Sizes
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import read_image, write_png
from pipeline.types import Target
from tests.inference.spots import KINDS

KEY = Pseudonyms(b"a site key for tests")


class Brightest(Detector):
    """Finds one object of class 1: a square of 8 pixels around the brightest pixel, in which its mask is the upper half."""

    multiple: int = 1
    has_masks: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        return {"nothing": self.weight.sum()}

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        found = []
        for image in images:
            place = int(image.sum(dim=0).argmax())
            row, column = divmod(place, image.shape[-1])
            count = 1 if float(image.max()) > float(image.min()) else 0
            mask = torch.zeros(1, 8, 8)
            mask[:, :4] = 1
            box = torch.tensor([[column - 4.0, row - 4.0, column + 4.0, row + 4.0]])
            found.append(Detections(box[:count], torch.ones(count, dtype=torch.int64), torch.full((count,), 0.75), mask[:count]))
        return found


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a registered name, so that its config is one that a bundle may hold."""
    entry = MODELS["retinanet"]
    monkeypatch.setitem(MODELS._entries, "retinanet", replace(entry, build=lambda config, in_channels, out_channels: Brightest()))


@pytest.fixture
def saved(tmp_path: Path, registered: None) -> Path:
    settings = "{name: tiny, data: {card: phantom, normalise: {field_of_view: whole}}, task: {name: detection}, model: {name: retinanet}}"
    config: RunConfig = parse_config(settings)
    save_bundle(
        tmp_path / "bundle",
        task=build_task(config, 3, KINDS),
        config=config,
        label_map=KINDS,
        card_sha256="c" * 64,
        metrics={},
        thresholds={"kind1": 0.6, "kind2": 0.9},
        input_channels=3,
        modality="fundus",
    )
    return tmp_path / "bundle"


def put(root: Path, count: int) -> list[tuple[int, int]]:
    """``count`` pictures with one bright pixel each; returns where."""
    generator, places = np.random.default_rng(5), []
    for number in range(count):
        pixels = generator.integers(0, 90, size=(40, 57, 3), dtype=np.uint8)
        row, column = int(generator.integers(8, 32)), int(generator.integers(8, 49))
        pixels[row, column] = 255
        path = root / f"P{number:03d}" / "V1" / "scan_OD.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, pixels)
        places.append((row, column))
    return places


def run(bundle: Path, tmp_path: Path, out: str = "out") -> dict[str, int]:
    return predict_folder(bundle, tmp_path / "scans", tmp_path / out, device="cpu", pseudonyms=KEY)


def state(out: Path) -> dict[str, str]:
    """Every file's hash, less times."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("journal.sqlite", "ledger.csv", ".lock")):
        content = path.read_bytes()
        if path.name in ("case.json", "run.json"):
            record: dict[str, Any] = json.loads(content)
            content = json.dumps({k: v for k, v in record.items() if k not in ("seconds", "started")}).encode()
        found[path.relative_to(out).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def test_from_saved_weights_to_objects_on_disk(tmp_path: Path, saved: Path) -> None:
    ((row, column),) = put(tmp_path / "scans", 1)
    assert load_bundle(saved).task.thresholds == {"kind1": 0.6, "kind2": 0.9}
    assert run(saved, tmp_path)["done"] == 1
    (case,) = (tmp_path / "out" / "cases").iterdir()
    (found,) = json.loads((case / "objects.json").read_text())["objects"]
    assert found == {
        "id": 1,
        "plane": 0,
        "class": "kind1",
        "score": 0.75,
        "box": [column - 4, row - 4, column + 4, row + 4],
        "area_px": 32,
        "size_mm": None,
    }
    ids = read_image(case / "instances_000_1.png")
    expected = np.zeros((40, 57), dtype=np.uint16)
    expected[row - 4 : row, column - 4 : column + 4] = 1
    assert (ids == expected).all()
    assert (read_image(case / "mask_000.png") == expected).all()


def test_a_grey_plane_holds_nothing_and_is_a_finished_case(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "scans" / "P1" / "V1" / "grey_OD.png"
    path.parent.mkdir(parents=True)
    write_png(path, np.full((40, 57, 3), 80, dtype=np.uint8))
    assert run(saved, tmp_path)["done"] == 1
    (case,) = (tmp_path / "out" / "cases").iterdir()
    listed = json.loads((case / "objects.json").read_text())
    assert (listed["has_masks"], listed["objects"]) == (True, [])


@pytest.mark.parametrize("moment", [1, 3])
def test_stopped_midway_and_started_again_it_ends_like_one_that_never_stopped(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    put(tmp_path / "scans", 4)
    run(saved, tmp_path, "whole")
    begun = []
    real = Batching._results

    def stopped(*arguments: Any) -> Any:
        begun.append(0)
        if len(begun) == moment:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Batching, "_results", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(saved, tmp_path)
    assert not (tmp_path / "out" / "coco.json").exists()
    assert run(saved, tmp_path)["done"] == 4
    assert state(tmp_path / "out") == state(tmp_path / "whole")
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"]) == 4

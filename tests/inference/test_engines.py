"""Engines: whatever runs the network, the masks are the same, and the records say what it was."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from pipeline.bundles.bundle import build_task, load_bundle, save_bundle
from pipeline.cli import app
from pipeline.config import parse_config
from pipeline.inference.engines import choice
from pipeline.inference.engines.choice import EngineChoice
from pipeline.inference.predict import Predictor
from pipeline.phantoms.fundus import draw_fundus
from pipeline.registry import Registry
from pipeline.scans.raster import read_image, write_png
from pipeline.tasks.base import Task
from pipeline.types import CaseKey, Geometry, Scan
from pipeline.types.run_record import EngineRecord
from tests.inference.conftest import VESSEL
from tests.tasks.test_fitting import LESION, batch_of, task_of

PHANTOMS = {f"P{seed}_OD.png": draw_fundus(seed, "R", (120, 150)).image for seed in (1, 2)}


def untrained_bundle(path: Path, network: str, options: str = "") -> None:
    """Its threshold is the median probability on a phantom, so that half of the pixels are found."""
    config = parse_config(f"{{name: tiny, data: {{card: c}}, task: {{name: semantic{options}}}, model: {network}}}")
    torch.manual_seed(0)
    task = build_task(config, 3, VESSEL)
    threshold = 0.5
    for _ in range(2):
        save_bundle(
            path,
            task=task,
            config=config,
            label_map=VESSEL,
            card_sha256="c" * 64,
            metrics={},
            thresholds={"vessel": threshold},
            input_channels=3,
            modality="fundus",
        )
        pixels = np.moveaxis(PHANTOMS["P1_OD.png"], -1, 0)
        found = Predictor(load_bundle(path)).predict(
            Scan(pixels, Geometry(pixels.shape[1:]), "fundus", CaseKey("p", "R", "v", "i"), "a" * 64)
        )
        assert found.probabilities is not None
        threshold = float(np.median(found.probabilities[found.probabilities > 0]))


def predict(folder: Path, engine: str) -> Any:
    options = ["--out", folder / engine, "--engine", engine, "--device", "cpu", "--site-key", folder / "key"]
    return CliRunner().invoke(app, ["predict", str(folder / "bundle"), str(folder / "scans"), *map(str, options)])


def test_masks_are_the_same_and_records_say_what_ran(tmp_path: Path) -> None:
    untrained_bundle(tmp_path / "bundle", "{name: wnet_little, widths: [4, 8], deep_supervision: 0}", ", flips: true, tile: [96, 128]")
    (tmp_path / "scans").mkdir()
    for name, image in PHANTOMS.items():
        write_png(tmp_path / "scans" / name, image)
    masks = {}
    for engine in ("torch", "onnxruntime"):
        ended = predict(tmp_path, engine)
        assert ended.exit_code == 0, ended.output
        out = tmp_path / engine
        run = json.loads((out / "run.json").read_text())
        assert run["engines"] == {run["bundle_id"]: {"name": engine, "wanted": engine, "why": ""}}
        assert [json.loads(path.read_text())["engine"] for path in out.glob("cases/*/case.json")] == [engine] * 2
        masks[engine] = [read_image(path) for path in sorted(out.glob("cases/*/mask_000.png"))]
    for one, other in zip(masks["torch"], masks["onnxruntime"], strict=True):
        assert 0.1 < np.mean(one > 0) < 0.9
        assert np.mean(one != other) < 1e-3  # of these, that the threshold is the median puts more near it than training does


def test_an_engine_that_is_not_there_is_a_sentence_and_auto_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_bundle(tmp_path / "bundle", "{name: unet, widths: [4, 8]}")
    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "P1_OD.png", PHANTOMS["P1_OD.png"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for engine, sentence in (
        ("onnxruntime", "ONNX needs the package onnxruntime: install ocuseg[onnx]"),
        ("onxruntime", "--engine: unknown 'onxruntime'; did you mean 'onnxruntime'?"),
    ):
        refused = predict(tmp_path, engine)
        assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (2, f"error: {sentence}")
        assert not (tmp_path / engine).exists()
    assert predict(tmp_path, "auto").exit_code == 0
    (record,) = json.loads((tmp_path / "auto" / "run.json").read_text())["engines"].values()
    assert (record["name"], record["wanted"]) == ("torch", "auto")
    assert record["why"] == "onnxruntime: ONNX needs the package onnxruntime: install ocuseg[onnx]"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry("--engine", "pipeline.inference.engines.base")
    made.add("torch")(lambda task, channels, device: None)
    monkeypatch.setattr(choice, "ENGINES", made)
    return made


def decided(engines: Registry) -> tuple[Task, EngineRecord]:
    task, batch = task_of("task: {name: semantic}, model: {name: unet, widths: [8, 16]}", LESION), batch_of(200, 240)
    told: list[EngineRecord] = []
    with torch.inference_mode():
        chooser = EngineChoice("auto", task, 3, "cpu")
        chooser.tell(told.append)
        for _ in range(2):  # the second image asks nothing anew
            chooser.decide(lambda: task.predict(batch))
    assert told == [chooser.record]
    return task, told[0]


def remembered(task: Task, channels: int, device: str) -> Any:
    """Calculates once, and then takes no time."""
    known: list[Tensor] = []

    def engine(x: Tensor) -> Tensor:
        if not known:
            known.append(task.network(x))
        return known[0]

    return engine


def test_auto_takes_what_is_faster_on_the_first_image(engines: Registry, caplog: pytest.LogCaptureFixture) -> None:
    engines.add("quick")(remembered)
    caplog.set_level(logging.INFO, "pipeline")
    task, record = decided(engines)
    assert (record.name, task.engine is not None) == ("quick", True)
    assert record.seconds["quick"] < choice.WORTH * record.seconds["torch"]
    assert caplog.messages == [f"engine: quick ({record.why})"]


def test_auto_stays_with_torch_where_the_other_is_no_faster(engines: Registry) -> None:
    def slow(task: Task, channels: int, device: str) -> Any:
        def engine(x: Tensor) -> Tensor:
            time.sleep(0.4)
            logits: Tensor = task.network(x)
            return logits

        return engine

    engines.add("slow")(slow)
    task, record = decided(engines)
    assert (record.name, task.engine) == ("torch", None)
    assert set(record.seconds) == {"slow", "torch"}


@pytest.mark.parametrize("fault", ["finds other pixels", "fails"])
def test_auto_never_takes_what_does_not_find_the_same(engines: Registry, fault: str) -> None:
    def faulty(task: Task, channels: int, device: str) -> Any:
        def engine(x: Tensor) -> Tensor:
            if fault == "fails":
                raise RuntimeError("no such operator")
            return torch.full((len(x), 1, *x.shape[2:]), -9.0)

        return engine

    engines.add("faulty")(faulty)
    task, record = decided(engines)
    assert (record.name, task.engine) == ("torch", None)
    expected = "faulty: failed on the first images (RuntimeError)" if fault == "fails" else "pixels are as torch finds them"
    assert expected in record.why
    assert set(record.seconds) == {"torch"}

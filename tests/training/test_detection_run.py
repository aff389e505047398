"""A detector from config to bundle by the same loop as every network."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.config import RunConfig, load_config
from pipeline.datasets.loader import evaluation_batches
from pipeline.datasets.splits import Split, make_split
from pipeline.errors import ConfigError, InterruptedRun, NothingUsableError, TrainingError
from pipeline.models.base import Network
from pipeline.models.mask_rcnn import MaskRCNN
from pipeline.models.region_svm import LinearHeads
from pipeline.training import run
from pipeline.training.run_folder import prepare_data
from pipeline.training.transfer import load_weights
from pipeline.types import Prediction, no_progress
from tests.training.test_recording import CAPTION, Recorder
from tests.training.tiny import COLUMNS, ROWS, last_state, tiny_config, train_tiny, weights, write_data

TINY = (
    "{name: mask_rcnn, backbone: resnet18, fpn_channels: 8, representation: 16, mask_width: 8, mask_layers: 1, roi_samples: 16, "
    "rpn_samples: 32, rpn_before_nms: [60, 40], rpn_after_nms: [30, 20]}"
)
TINY_BOXES = TINY.replace("mask_rcnn", "faster_rcnn").replace("mask_width: 8, mask_layers: 1, ", "")
EMPTY = "P0_L"


SMALL_RCNN = (
    "{name: rcnn, backbone: mobilenet_v2, size: 32, context: 2, proposals: {side: 32, min_size: 20, colours: [grey], scales: [40]}}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients of two eyes; one image of them has no blob."""
    from PIL import Image

    folder = write_data(tmp_path_factory.mktemp("tiny") / "data")
    Image.new("L", (COLUMNS, ROWS)).save(folder / "masks" / f"{EMPTY}.png")
    Image.fromarray(np.random.default_rng(1).normal(90, 12, (ROWS, COLUMNS, 3)).clip(0, 255).astype(np.uint8)).save(
        folder / "images" / f"{EMPTY}.png"
    )
    return folder


def config(root: Path, model: str = TINY, **changes: Any) -> RunConfig:
    settings = {"task": "{name: detection, detections: 8}", "train__epochs": 2, "data__crops_per_image": 1, "data__crop": "[40, 48]"}
    return tiny_config(root, model, **(settings | changes))


def predicted(run_dir: Path, root: Path) -> tuple[Prediction, Any]:
    """The bundle's prediction of the first test image, and the bundle."""
    bundle = load_bundle(run_dir / "bundle")
    data = prepare_data(config(root), root, run_dir, None, None, no_progress)
    batch, _ = next(iter(evaluation_batches(data.store, data.split.test)))
    return bundle.task.predict(batch)[0], bundle


def test_proposals_are_made_of_what_is_trained_and_validated_on(root: Path, tmp_path: Path) -> None:
    """The test part is read for the leakage guard alone; whoever tests a bundle predicts, and makes them anew."""
    data = prepare_data(config(root, SMALL_RCNN), root, tmp_path / "run", None, None, no_progress)
    for part, keys in data.split:
        there = {data.store.proposals(index) is not None for index in data.store.indices(keys)}
        assert there == {part != "test"}


def test_a_bundle_holds_the_support_vector_machines_of_its_own_weights(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are learnt after the last step, also where a run was interrupted in that, and are what its validation measures."""
    asked = config(root, SMALL_RCNN, train__epochs=1)
    train_tiny(asked, root, tmp_path / "run")
    whole = load_bundle(tmp_path / "run" / "bundle").task.network.state_dict()
    assert whole["linear.fitted"] == 1
    assert whole["linear.svm"].any()
    with monkeypatch.context() as patch:
        patch.setattr(LinearHeads, "fit", interrupted)
        with pytest.raises(InterruptedRun):
            train_tiny(asked, root, tmp_path / "again")
    train_tiny(asked, root, tmp_path / "again", resume=True)
    again = load_bundle(tmp_path / "again" / "bundle").task.network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def interrupted(*_: Any) -> None:
    raise InterruptedRun("while support vector machines were learnt")


def test_a_detector_is_trained_resumed_and_bundled_like_any_network(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "run")
    asked = config(root, train__validation_loss=True, train__ema=0.9)
    with monkeypatch.context() as patch:
        patch.setattr(run, "open_tracker", lambda *_, **__: recorder)
        result = run.train(asked, root, tmp_path / "run", device="cpu")
    kept = load_config(tmp_path / "run" / "config.yaml")
    # Limits of objects are the task's, not the model's to keep; of the card its name is kept, and not its place.
    assert kept.model_dump() == asked.model_copy(update={"data": asked.data.model_copy(update={"card": "tiny"})}).model_dump()
    assert kept.model.anchors is None  # type: ignore[attr-defined]

    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    names = {"rpn_objectness", "rpn_box", "class", "box", "mask"}
    for row in rows:
        for part in ("train", "validation"):
            losses = {name.removeprefix(f"{part}/loss/"): value for name, value in row.items() if name.startswith(f"{part}/loss/")}
            assert losses.keys() == names
            assert row[f"{part}/loss"] == pytest.approx(sum(losses.values()))
        assert 0 <= row["validation/ap50"] <= 1
        assert {"validation/dice", "validation/dice/blob", "validation/mask_ap50", "validation/f1/blob"} <= row.keys()
    assert "validation_precision_recall" in recorder.pictures
    overlay = next(picture for name, picture in recorder.pictures.items() if "precision" not in name)
    assert overlay.shape == (ROWS + CAPTION, 2 * COLUMNS, 3)
    assert re.match(r"validation: .*ap50 0\.\d{4}", result.lines()[0])

    prediction, bundle = predicted(tmp_path / "run", root)
    assert bundle.config.model.anchors is not None
    assert bundle.task.thresholds == bundle.thresholds
    assert bundle.metrics["validation/ap50"] == result.metrics["validation/ap50"]
    assert prediction.boxes is not None
    assert prediction.instance_masks is not None
    assert prediction.instance_masks.shape == (len(prediction.boxes), ROWS, COLUMNS)
    assert "Finds in fundus images: blob." in (tmp_path / "run" / "bundle" / "MODEL_CARD.md").read_text()

    def in_the_second_epoch(done: int, total: int | None, note: str) -> None:
        if (done, total) == (3, 4):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun):
        train_tiny(asked, root, tmp_path / "again", progress=in_the_second_epoch)
    torch.manual_seed(77)
    train_tiny(asked, root, tmp_path / "again", resume=True)
    for part in (weights, last_state):
        whole, resumed = part(tmp_path / "run"), part(tmp_path / "again")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other, _ = predicted(tmp_path / "again", root)
    np.testing.assert_array_equal(prediction.boxes, other.boxes)  # type: ignore[arg-type]
    np.testing.assert_array_equal(prediction.instance_masks, other.instance_masks)  # type: ignore[arg-type]
    split = Split.load(tmp_path / "run" / "split.json")
    assert any(f"{key.patient}_{key.eye}" == EMPTY for _, keys in split for key in keys)


def test_what_cannot_be_trained_is_said_before_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"task\.headline: dice needs a network with masks"):
        train_tiny(config(root, TINY_BOXES, task="{name: detection, headline: dice}"), root, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"model\.weights: Network has no encoder to load weights into; set model\.weights: none"):
        # A stand-in, because building a U-Net imports MONAI, which takes longer than all of this file.
        load_weights(SimpleNamespace(network=Network()), tiny_config(root, "{name: unet, weights: imagenet}"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"there is no file"):
        train_tiny(config(root, TINY.replace("}", ", weights: absent.pth}")), root, tmp_path / "c")
    monkeypatch.setattr(MaskRCNN, "min_batch_size", 2)
    with pytest.raises(ConfigError, match=r"train\.batch_size: mask_rcnn is trained on batches of at least 2"):
        train_tiny(config(root, train__batch_size=1), root, tmp_path / "d")


def test_a_part_without_any_object_is_said_before_training(tmp_path: Path) -> None:
    from PIL import Image

    bare = write_data(tmp_path / "bare")
    asked = config(bare)
    card = load_card(asked.data.card)
    split = make_split(card, find_cases(card, bare), asked.data.split, asked.seed)
    for part, keys in (("validation", split.validation), ("training", split.train)):
        for key in keys:
            Image.new("L", (COLUMNS, ROWS)).save(bare / "masks" / f"{key.patient}_{key.eye}.png")
        said = {"validation": f"none of the {len(keys)} validation cases has", "training": f"labelled in the {len(keys)} training cases"}
        with pytest.raises(NothingUsableError, match=said[part]):
            train_tiny(asked, bare, tmp_path / part)
        assert not (tmp_path / part / "split.json").exists()


def test_an_encoder_from_a_file_is_recorded_and_its_place_is_not(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(5)
    encoder = resnet18(weights=None).state_dict()
    path = tmp_path / "secret place" / "encoder.safetensors"
    path.parent.mkdir()
    save_file(encoder, path)
    recorder = Recorder(tmp_path / "run")
    monkeypatch.setattr(run, "open_tracker", lambda *_, **__: recorder)
    asked = config(root, TINY.replace("}", f", weights: '{path}', frozen_stages: 5}}"), train__epochs=1, train__ema=0.9)
    result = run.train(asked, root, tmp_path / "run", device="cpu")
    extra = recorder.started["extra"]
    assert extra["weights_file"] == "encoder.safetensors"
    assert len(extra["weights_sha256"]) == 64
    rows = recorder.tables["encoder_weights"]
    assert extra["weights_loaded"] == sum(row["what"] == "loaded" for row in rows)
    assert {"entry": "fc.weight", "what": "skipped"} in rows
    bundle = load_bundle(result.bundle)
    assert bundle.config.model.weights == "encoder.safetensors"  # type: ignore[attr-defined]
    assert "secret" not in (result.bundle / "bundle.json").read_text()
    # What is frozen has come through training, averaging and the bundle unchanged, to the bit.
    stored = weights(tmp_path / "run")
    (name,) = (name for name in stored if name.endswith("layer4.1.conv2.weight"))
    assert torch.equal(stored[name], encoder["layer4.1.conv2.weight"])


def test_validation_without_any_object_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.detection import DetectionTask

    summarise = DetectionTask.summarise
    monkeypatch.setattr(
        DetectionTask, "summarise", lambda *given: {name: v for name, v in summarise(*given).items() if not name.startswith("ap")}
    )
    with pytest.raises(TrainingError, match=r"ap50 is undefined, because none of the 2 validation images"):
        train_tiny(config(root, train__epochs=1), root, tmp_path / "run")

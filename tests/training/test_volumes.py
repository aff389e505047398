"""A network of volumes from its config to what its bundle says of a scan, and what a config must say of slices."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.errors import ConfigError, ScanError
from pipeline.evaluation.evaluate import evaluate
from pipeline.inference.predict import Predictor
from pipeline.models.base import memory_format
from pipeline.studies.speed import frames_per_second
from pipeline.tasks.base import Task
from pipeline.training import validation
from pipeline.training.result import TrainingResult
from pipeline.training.run_folder import prepare_data
from pipeline.training.validation import score_images
from pipeline.types import CaseKey, Geometry, Scan
from tests.training.tiny import train_tiny
from tests.training.tiny_volumes import COLUMNS, FLAT, ROWS, SLICES, a_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    result: TrainingResult = train_tiny(a_config(data / "card.md"), data, tmp_path_factory.mktemp("run") / "run")
    return result


def scans(data: Path) -> list[Scan]:
    card = load_card(str(data / "card.md"))
    return [read_scan(card, case) for case in find_cases(card, data)]


def test_training_sees_blocks_of_slices_and_its_loss_falls(result: TrainingResult) -> None:
    history = [json.loads(line) for line in (result.run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [epoch["train/loss"] for epoch in history]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(epoch["validation/loss"]) for epoch in history)
    assert "validation/dice/fluid" in result.metrics


def test_its_bundle_says_one_thing_of_each_slice(data: Path, result: TrainingResult) -> None:
    bundle = load_bundle(result.bundle)
    assert bundle.task.volumes
    assert memory_format(bundle.task) == torch.channels_last_3d
    predictor, scan = Predictor(bundle), scans(data)[0]
    planes = list(predictor.slices(predictor.ready(scan)))
    assert len(planes) == SLICES
    assert all(plane.bundle_id == bundle.id and plane.probabilities is not None for plane in planes)
    whole = predictor.predict(scan)
    assert whole.probabilities is not None
    assert whole.probabilities.shape == (1, SLICES, ROWS, COLUMNS)
    for number, plane in enumerate(planes):
        assert np.array_equal(plane.probabilities, whole.probabilities[:, number])
    assert predictor.layers(whole).shape == (1, SLICES, ROWS, COLUMNS)  # type: ignore[union-attr]


def test_neighbouring_slices_have_a_say_and_a_picture_is_a_volume_of_one(data: Path, result: TrainingResult) -> None:
    predictor, scan = Predictor(load_bundle(result.bundle)), scans(data)[0]
    whole = predictor.predict(scan).probabilities
    picture = Scan(scan.pixels[:, 2], Geometry((ROWS, COLUMNS), (0.004, 0.01), "tag"), "oct", scan.case, scan.sha256)
    alone = predictor.predict(picture).probabilities
    assert whole is not None
    assert alone is not None
    assert alone.shape == (1, ROWS, COLUMNS)
    assert not np.allclose(alone, whole[:, 2])


def test_validation_scores_each_slice_as_the_bundle_predicts_it(data: Path, result: TrainingResult, tmp_path: Path) -> None:
    bundle = load_bundle(result.bundle)
    prepared = prepare_data(a_config(data / "card.md"), data, tmp_path, None, None, lambda *_: None)
    store, key = prepared.store, prepared.store.keys()[3]
    passes: list[int] = []
    bundle.task.register_forward_hook(lambda *_: passes.append(1))
    scored = score_images(bundle.task, store, [key], "cpu", losses=True)
    assert [one.slice_index for one in scored] == list(range(SLICES))
    assert len(passes) == 1, "the losses of a volume are measured once"
    assert all(one.losses == scored[0].losses for one in scored)
    found = [Predictor(bundle).predict(scans(data)[3])]
    layers = bundle.task.layers(found[0])
    assert layers is not None
    for one in scored:
        target = store.source_target(store.indices([key])[one.slice_index])
        both = (layers[0, one.slice_index] & (target.mask.numpy() == 1)).sum()  # type: ignore[union-attr]
        assert one.measures["tp/fluid"].value == both


def test_of_a_volume_all_predictions_are_kept_or_none(
    data: Path, result: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, store = (
        load_bundle(result.bundle).task,
        prepare_data(a_config(data / "card.md"), data, tmp_path, None, None, lambda *_: None).store,
    )
    passes: list[int] = []
    task.network.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(validation, "KEPT_BYTES", (SLICES + 2) * ROWS * COLUMNS * 4)
    found = validation.Predictions(task, store, store.keys()[:2], "cpu")
    first, second = list(found), list(found)
    assert [index for index, _ in first] == [index for index, _ in second] == list(range(2 * SLICES))
    assert len(passes) == 2 + 1, "the first volume is kept, the second is predicted again"
    assert len(found._kept) == SLICES, "and of the second, two slices would have had room"


def test_a_bundle_of_volumes_is_evaluated_and_its_speed_is_a_slices(data: Path, result: TrainingResult, tmp_path: Path) -> None:
    summary = evaluate(result.bundle, str(data / "card.md"), data, out=tmp_path / "out", device="cpu")
    assert summary["images"] == 1
    assert summary["classes"]["fluid"]["mean_per_image"]["dice"]["value"] is not None
    speed = frames_per_second(result.bundle, str(data / "card.md"), data, summary, device="cpu")
    task = load_bundle(result.bundle).task
    assert speed["parameters"] == sum(p.numel() for p in task.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.network(torch.zeros(1, 1, SLICES, ROWS, COLUMNS))
    assert speed["GFLOPs"] == pytest.approx(counter.get_total_flops() / SLICES / 1e9)
    assert speed["images/s"] > 0


def test_slices_further_apart_than_in_training_are_warned_of(data: Path, result: TrainingResult) -> None:
    predictor, scan = Predictor(load_bundle(result.bundle)), scans(data)[0]
    assert predictor.warnings(scan) == ()
    apart = replace(scan, geometry=replace(scan.geometry, spacing_mm=(0.5, 0.004, 0.01), affine=None))
    assert predictor.warnings(apart) == ("slices are 0.5 mm apart, in training 0.2 mm",)
    assert "slices 0.2 mm apart" in (result.bundle / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_slices_that_do_not_lie_on_each_other_are_refused_in_a_sentence(data: Path, result: TrainingResult) -> None:
    config = a_config(data / "card.md", data__normalise="{working_diameter_px: 40}")
    predictor = Predictor(replace(load_bundle(result.bundle), config=config))
    pixels = np.zeros((1, 2, 60, 60), np.uint8)
    pixels[:, 0, 5:55, 5:55], pixels[:, 1, 20:50, 20:50] = 200, 200
    valid = pixels[0] > 0
    scan = Scan(pixels, Geometry((2, 60, 60), None, "unknown"), "oct", CaseKey("p", "R", "1", "i"), "a" * 64)
    with pytest.raises(ScanError, match="slices have fields of view of different size"):
        predictor.predict(scan, valid=valid)


def test_a_run_file_says_slices_if_and_only_if_its_network_is_of_volumes() -> None:
    card = Path("phantom_oct")
    with pytest.raises(ConfigError, match=r"data\.slices is missing: model 'unet' has dims 3; say how many slices a training crop has"):
        a_config(card, slices=None)
    with pytest.raises(ConfigError, match=r"data\.slices: 3 is for a network of volumes; leave it out, or take a model with dims: 3"):
        a_config(card, model=FLAT)
    with pytest.raises(ConfigError, match=r"task\.tile_slices: 4 is for a network of volumes"):
        a_config(card, model=FLAT, slices=None, task__tile_slices=4)
    with pytest.raises(ConfigError, match=r"data\.slices"):
        a_config(card, slices=0)
    assert a_config(card, task__tile_slices=4).data.slices == 3
    assert not Task.volumes


@pytest.mark.parametrize(
    ("model", "sentence"), [("unet", "UNet has no encoder to load weights into"), ("vit", "of images, not of volumes")]
)
def test_weights_of_images_do_not_fill_a_network_of_volumes(data: Path, tmp_path: Path, model: str, sentence: str) -> None:
    small = {"unet": "widths: [4, 8]", "vit": "image_size: 16, patch: 8, width: 16, layers: 3, heads: 2, feedforward: 16, decoder_width: 4"}
    config = a_config(data / "card.md", model=f"{{name: {model}, dims: 3, weights: imagenet, {small[model]}}}")
    with pytest.raises(ConfigError, match=sentence):
        train_tiny(config, data, tmp_path / "run")


def test_a_bundle_of_images_does_not_fill_a_network_of_volumes(data: Path, result: TrainingResult, tmp_path: Path) -> None:
    config = a_config(data / "card.md", model=FLAT[:-1] + f", weights: {result.bundle}}}", slices=None)
    with pytest.raises(ConfigError, match="another architecture"):
        train_tiny(config, data, tmp_path / "run")

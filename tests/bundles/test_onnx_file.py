"""A bundle as an ONNX file: any program that follows its metadata finds the pixels that ocuseg finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.onnx_file import difference
from pipeline.cli import app
from pipeline.errors import BundleError
from pipeline.inference.predict import Predictor
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan
from tests.bundles.test_bundle import CONFIG, LABELS, save

LAYERS = LabelMap((LabelClass(1, "retina", (0, 255, 0)), LabelClass(2, "fluid", (255, 0, 0))))


def export(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_its_metadata_suffice_to_find_the_same_masks(tmp_path: Path) -> None:
    import onnxruntime  # of ocuseg[dev], as other tests' libraries: never skipped

    config = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"norm": "batch"})})  # type: ignore[attr-defined]
    save_with(tmp_path / "bundle", config, LAYERS)
    told = export(tmp_path / "bundle", "--onnx", "--json")
    assert told.exit_code == 0, told.output
    written = tmp_path / "tiny.onnx"
    facts = json.loads(told.stdout)
    assert facts["file"] == str(written)
    assert 0 <= facts["largest_difference"] < 1e-4
    assert str(Path(torch.__file__).parents[2]).encode() not in written.read_bytes(), "nothing of this machine"

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    bundle = load_bundle(tmp_path / "bundle")
    assert said["bundle_id"] == facts["bundle_id"] == bundle.id
    assert LabelMap.from_json(json.loads(said["classes"])) == LAYERS
    assert json.loads(said["working_scale"]) == {"diameter_px": None, "size": None}
    assert json.loads(said["thresholds"]) == {}, "none count between classes that exclude each other"
    (given,) = json.loads(said["inputs"])
    outputs = json.loads(said["outputs"])
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [(given["name"], given["shape"], "tensor(float)")]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [(o["name"], o["shape"], "tensor(float)") for o in outputs]
    assert outputs[0]["channels"] == ["background", "retina", "fluid"]

    predictor = Predictor(bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 45, 71), dtype=np.uint8)
    ready = predictor.ready(Scan(pixels, Geometry((45, 71)), "fundus", CaseKey("p", "R", "v", "i"), "a" * 64))
    ((batch, _),) = predictor.batches(ready)
    (prediction,) = predictor.slices(ready)
    (probabilities,) = session.run(["probabilities"], {"images": batch.images[0][None].numpy()})
    assert prediction.probabilities is not None
    inside = batch.valid[0].numpy()
    np.testing.assert_allclose(probabilities[0] * inside, prediction.probabilities, atol=1e-5)
    by_decision = np.concatenate([1 - probabilities[0].sum(0, keepdims=True), probabilities[0]]).argmax(0)
    expected = predictor.layers(prediction)
    assert expected is not None
    assert all(layer.any() and not layer.all() for layer in expected)
    assert np.mean((by_decision * inside) == LAYERS.mask(expected)) > 0.999


def test_what_enlarging_adds_is_said_so_that_another_program_finds_the_same_masks(tmp_path: Path) -> None:
    import onnxruntime

    normalise = CONFIG.data.normalise.model_copy(update={"working_size": (96, 144)})
    changes = {
        "data": CONFIG.data.model_copy(update={"normalise": normalise}),
        "task": CONFIG.task.model_copy(update={"upscaling_logit": 0.9}),  # type: ignore[attr-defined]
    }
    save_with(tmp_path / "bundle", CONFIG.model_copy(update=changes), LABELS)
    assert export(tmp_path / "bundle", "--onnx").exit_code == 0
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx", providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    added, thresholds = json.loads(said["prediction"])["upscaling_logit"], json.loads(said["thresholds"])
    assert "log2(f / 1.25) * upscaling_logit" in said["decision"]

    predictor = Predictor(load_bundle(tmp_path / "bundle"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 48), dtype=np.uint8)
    ready = predictor.ready(Scan(pixels, Geometry((32, 48)), "fundus", CaseKey("p", "R", "v", "i"), "a" * 64))
    ((batch, _),) = predictor.batches(ready)
    (prediction,) = predictor.slices(ready)
    (probabilities,) = session.run(["probabilities"], {"images": batch.images[0][None].numpy()})
    back = torch.nn.functional.interpolate(torch.from_numpy(probabilities), size=(32, 48), mode="bilinear", antialias=True)[0]
    expected = torch.sigmoid(torch.logit(back) + float(np.log2(3 / 1.25)) * added).numpy()
    assert prediction.probabilities is not None
    inside = predictor.field_of_view(pixels)
    np.testing.assert_allclose(expected * inside, prediction.probabilities, atol=1e-5)
    layers = predictor.layers(prediction)
    assert layers is not None
    limits = np.array([thresholds[name] for name in LABELS.names])[:, None, None]
    assert np.mean((expected >= limits) * inside == layers) > 0.999


def save_with(path: Path, config: Any, label_map: LabelMap) -> None:
    from pipeline.bundles.bundle import build_task

    torch.manual_seed(0)
    save(path, task=build_task(config, 3, label_map), config=config, label_map=label_map, thresholds=dict.fromkeys(label_map.names, 0.5))


def test_a_graph_that_calculates_something_else_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    network = load_bundle(tmp_path / "bundle").task.network
    assert difference(network, network, 3) == 0
    with pytest.raises(BundleError, match="finds other logits than torch"):
        difference(network, lambda images: network(images) + 0.1, 3)
    with pytest.raises(BundleError, match="finds other logits than torch"):
        difference(network, lambda images: network(images) * float("nan"), 3)


def test_a_user_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "bundle")
    bare = export(tmp_path / "bundle")
    assert (bare.exit_code, bare.stderr) == (2, "error: export needs a format: give --onnx\n")
    folder = export(tmp_path / "bundle", "--onnx", "--out", tmp_path)
    assert (folder.exit_code, "is a folder; give the file to write, such as tiny.onnx" in folder.stderr) == (2, True)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    absent = export(tmp_path / "bundle", "--onnx")
    assert (absent.exit_code, absent.stderr) == (2, "error: ONNX needs the package onnxruntime: install ocuseg[onnx]\n")
    assert not (tmp_path / "tiny.onnx").exists()


def test_a_network_that_cannot_be_exported_says_why(tmp_path: Path) -> None:
    model = {"name": "retinanet", "backbone": "mobilenet_v2", "width": 16, "head_layers": 1}
    config = type(CONFIG).model_validate(CONFIG.model_dump() | {"task": {"name": "detection"}, "model": model})
    save_with(tmp_path / "bundle", config, LABELS)
    refused = export(tmp_path / "bundle", "--onnx")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: this bundle cannot become an ONNX graph: a detector finds as many objects as there are")
    assert refused.stderr.count("\n") == 1

"""A bundle says everything, is checked to the last byte, and gives back the very network that was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from pipeline.bundles.bundle import build_task, load_bundle, save_bundle
from pipeline.bundles.sealed import own_hash
from pipeline.config import RunConfig
from pipeline.errors import BundleError, ConfigError, TrainingError
from pipeline.models.base import MODELS
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement

CONFIG = RunConfig.model_validate(
    {
        "name": "tiny",
        "description": "A test.",
        "data": {"card": "/somewhere/private/phantom.md"},
        "task": {"name": "semantic"},
        "model": {"name": "unet", "widths": [4, 8], "residual_units": 1},
        "tracking": {"uri": "http://user-server:5000"},
    }
)
LABELS = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)


def save(path: Path, seed: int = 0, **changes: object) -> tuple[str, torch.nn.Module]:
    torch.manual_seed(seed)
    task = build_task(CONFIG, 3, LABELS).to(memory_format=torch.channels_last)
    arguments = {
        "task": task,
        "config": CONFIG,
        "label_map": LABELS,
        "card_sha256": "a" * 64,
        "metrics": {"validation/dice": 0.5},
        "thresholds": {"disc": 0.4, "cup": 0.6},
        "input_channels": 3,
        "modality": "fundus",
        "spacing_mm": (0.01, 0.02),
    }
    return save_bundle(path, **{**arguments, **changes}), task  # type: ignore[arg-type]


def a_batch() -> Batch:
    image = torch.rand(3, 21, 34, generator=torch.Generator().manual_seed(1))
    return Batch([image], [torch.ones(21, 34, dtype=torch.bool)], [Placement.identity(21, 34)], [CaseKey("p", "R", "1", "i")])


def test_what_is_loaded_predicts_to_the_bit_what_was_saved(tmp_path: Path) -> None:
    identity, task = save(tmp_path / "bundle")
    before = torch.random.get_rng_state()
    bundle = load_bundle(tmp_path / "bundle")
    assert torch.equal(before, torch.random.get_rng_state())
    assert (bundle.id, bundle.label_map, bundle.modality, bundle.input_channels) == (identity, LABELS, "fundus", 3)
    assert (bundle.spacing_mm, bundle.card_sha256) == ((0.01, 0.02), "a" * 64)
    assert bundle.thresholds == {"disc": 0.4, "cup": 0.6}
    assert bundle.metrics == {"validation/dice": 0.5}
    assert bundle.versions["torch"] == torch.__version__.partition("+")[0] or bundle.versions["torch"] == torch.__version__
    assert not bundle.task.training
    (ours,), (theirs,) = task.predict(a_batch()), bundle.task.predict(a_batch())  # type: ignore[operator]
    assert ours.probabilities is not None
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(28, "No space left on device")]
)
def test_a_full_disk_is_told_and_the_bundle_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    identity, _ = save(tmp_path / "bundle")

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.bundles.bundle.save_file", full)
    with pytest.raises(TrainingError, match=r"the bundle cannot be written \(.*No space left on device.*make room"):
        save(tmp_path / "bundle", seed=1)
    assert load_bundle(tmp_path / "bundle").id == identity
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_no_place_on_this_machine_is_in_it_and_the_research_notice_is(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    record, card = (tmp_path / "bundle" / "bundle.json").read_text(), (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "somewhere" not in record + card
    assert "user-server" not in record + card
    assert "Research use, not for diagnosis" in card
    assert "validation/dice | 0.5000" in card


def test_the_id_follows_weights_and_thresholds_and_nothing_else(tmp_path: Path) -> None:
    first = save(tmp_path / "a")[0]
    assert first == save(tmp_path / "b", metrics={})[0]
    assert first != save(tmp_path / "c", seed=1)[0]
    assert first != save(tmp_path / "d", thresholds={"disc": 0.5, "cup": 0.6})[0]


def test_saving_over_an_older_bundle_leaves_the_new_one_alone(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    (tmp_path / "bundle" / "stray").write_text("")
    identity, _ = save(tmp_path / "bundle", seed=1)
    assert load_bundle(tmp_path / "bundle").id == identity
    assert sorted(p.name for p in (tmp_path / "bundle").iterdir()) == ["MODEL_CARD.md", "bundle.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ["weights.safetensors", "MODEL_CARD.md", "bundle.json"])
def test_every_altered_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "bundle")
    file = tmp_path / "bundle" / name
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(BundleError, match=name):
        load_bundle(tmp_path / "bundle")
    file.unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(tmp_path / "bundle")


def test_a_changed_threshold_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    record = json.loads(path.read_text())
    record["thresholds"]["disc"] = 0.9
    path.write_text(json.dumps(record))
    with pytest.raises(BundleError, match="altered"):
        load_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "bundle"
    save(folder)
    return (folder / "bundle.json").read_text()


@pytest.fixture
def record(saved: str) -> dict[str, Any]:
    """What bundle.json of a sound bundle holds."""
    content: dict[str, Any] = json.loads(saved)
    return content


def sealed(record: dict[str, Any], folder: Path) -> Path:
    """A folder whose bundle.json holds ``record`` under a right hash, as anybody can write it."""

    (folder / "bundle.json").write_text(json.dumps(record | {"sha256": own_hash(record)}))
    return folder


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("thresholds.disc", float("nan"), "thresholds.disc: input should be a finite number"),
        ("thresholds.disc", 1.5, "thresholds.disc: input should be less than or equal to 1"),
        ("thresholds.disc", "0.5", "thresholds.disc: input should be a valid number"),
        ("thresholds.rim", 0.5, "thresholds speak of 'rim', which is no class"),
        ("thresholds", [0.5], "thresholds: input should be"),
        ("spacing_mm", [0.01, -0.02], "spacing_mm.1: input should be greater than 0"),
        ("spacing_mm", [0.01, float("inf")], "spacing_mm.1: input should be a finite"),
        ("spacing_mm", [0.01], "spacing_mm: "),
        ("modality", "x-ray", "modality: unknown 'x-ray'"),
        ("input_channels", 0, "input_channels: "),
        ("input_channels", True, "input_channels: "),
        ("label_map", [], "label_map: "),
        ("label_map.classes", [], "label_map.classes: "),
        ("label_map.classes.0.name", "../../disc", "label_map.classes.0.name: "),
        ("label_map.classes.0.index", 7, "class indices must be 1, 2, 3"),
        ("label_map.classes.1.name", "disc", "class names must differ"),
        ("label_map.classes.1.inside", "rim", "classes are: disc, cup"),
        ("label_map.classes.0.colour", [0, 255], "label_map.classes.0.colour: "),
        ("label_map.layered", ["disc"], "layers exclude each other"),
        ("card_sha256", "a" * 63, "card_sha256: "),
        ("files", {"weights.safetensors": None}, "files.weights.safetensors: "),
        ("metrics", None, "metrics: "),
        ("id", "../../secret", "id: "),
    ],
)
def test_values_that_no_bundle_can_hold_are_refused_at_once(
    record: dict[str, Any], tmp_path: Path, place: str, value: object, said: str
) -> None:
    *keys, last = place.split(".")
    node: Any = record
    for key in keys:
        node = node[int(key) if isinstance(node, list) else key]
    node[last] = value
    with pytest.raises(BundleError) as caught:
        load_bundle(sealed(record, tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["config", "label_map", "thresholds", "input_channels", "modality", "spacing_mm", "files", "versions", "id"]
)
def test_a_missing_key_is_named(record: dict[str, Any], tmp_path: Path, key: str) -> None:
    del record[key]
    with pytest.raises(BundleError, match=f"{key}: is required and missing"):
        load_bundle(sealed(record, tmp_path))


def test_weights_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"widths": (4, 8, 16)})})
    save(tmp_path / "bundle", config=other)
    with pytest.raises(BundleError, match="do not fit its network"):
        load_bundle(tmp_path / "bundle")


def test_a_model_this_installation_does_not_have_is_said(tmp_path: Path) -> None:

    save(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    record = json.loads(path.read_text())
    record["config"]["model"] = {"name": "from_a_plugin"}
    record["sha256"] = own_hash(record)
    path.write_text(json.dumps(record))
    with pytest.raises(BundleError, match="does not understand its config"):
        load_bundle(tmp_path / "bundle")


def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        load_bundle(tmp_path)


def test_a_plugins_network_that_promises_nothing_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = MODELS["unet"]
    monkeypatch.setitem(MODELS._entries, "unet", replace(entry, build=lambda *_: torch.nn.Conv2d(3, 1, 1)))
    with pytest.raises(ConfigError, match=r"model\.name: unet builds a Conv2d: let that class inherit pipeline\.models\.base\.Network"):
        build_task(CONFIG, 3, LABELS)

"""What a machine cannot do is said in one sentence: memory, disk, number formats, waiting."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from pipeline.datasets.store import CaseStore
from pipeline.errors import TrainingError
from pipeline.models import precision
from pipeline.tasks.semantic import SemanticTask
from pipeline.training import checkpoint
from pipeline.training.checkpoint import newest
from pipeline.training.run import make_accelerator
from tests.training.tiny import tiny_config, train_tiny, write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.mark.parametrize("where", ["forward", "predict"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), MemoryError()])
def test_too_little_memory_names_the_settings_that_help(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def too_much(self: SemanticTask, batch: Any) -> None:
        raise error

    monkeypatch.setattr(SemanticTask, where, too_much)
    with pytest.raises(
        TrainingError, match=r"^(GPU )?memory did not suffice: .*data\.crop \(of volumes data\.slices\), .*task\.tile"
    ) as caught:
        train_tiny(tiny_config(root, train__epochs=1), root, tmp_path / "run")
    assert caught.value.exit_code == 4


def test_too_little_memory_for_a_sample_blames_no_case(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: CaseStore, index: int) -> Any:
        raise MemoryError

    monkeypatch.setattr(CaseStore, "plane", too_much)
    with pytest.raises(TrainingError, match=r"^memory did not suffice: lower train\.batch_size"):
        train_tiny(tiny_config(root, train__epochs=1), root, tmp_path / "run")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("Error while serializing: I/O error: No space left on device")]
)
def test_a_full_disk_is_said_and_the_checkpoint_before_stays(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_file = checkpoint.save_file

    def full_after_the_first(tensors: Any, path: Path) -> None:
        if newest(tmp_path / "run" / "checkpoints") is not None:
            raise error
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_after_the_first)
    with pytest.raises(
        TrainingError, match=r"the checkpoint cannot be written \(.*No space left on device\).*ocuseg train --resume .*run --root"
    ):
        train_tiny(tiny_config(root, train__epochs=3), root, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000001-00000000"]


def test_bfloat16_only_where_the_cpu_has_it_and_a_warning_where_it_is_asked_for_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "bfloat16_slowdown", lambda device: 21.6)
    for features, native in (({}, False), ({"_is_avx512_bf16_supported"}, True), ({"_is_amx_tile_supported"}, True)):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda name=name, features=features: name in features, raising=False)
        for wanted, expected in (("auto", native), ("float32", False), ("bfloat16", True)):
            caplog.clear()
            assert precision.choose_precision(wanted, "cpu") == ("bfloat16" if expected else "float32")
            warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert len(warned) == (wanted == "bfloat16" and not native)
            assert all("CPU only emulates bfloat16" in text and "22 times as long" in text and "auto" in text for text in warned)


def test_autocast_lets_a_network_calculate_in_the_chosen_format() -> None:
    layer, image = torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)
    for chosen, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with precision.autocast("cpu", chosen):
            assert layer(image).dtype == dtype


@pytest.mark.parametrize(("chosen", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_training_calculates_in_the_chosen_format(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, dtype: torch.dtype
) -> None:
    forward, seen = SemanticTask.forward, set()

    def noted(self: SemanticTask, batch: Any) -> Any:
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return forward(self, batch)

    monkeypatch.setattr(SemanticTask, "forward", noted)
    train_tiny(tiny_config(root, train__epochs=1, train__precision=chosen), root, tmp_path / "run")
    assert seen == {dtype}


def test_the_slowdown_is_measured() -> None:
    assert 0.01 < precision.bfloat16_slowdown("cpu") < 1000


def test_shipped_configs_leave_the_precision_to_the_machine() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs"
    assert [path.name for path in configs.rglob("*.yaml") if "precision: bfloat16" in path.read_text(encoding="utf-8")] == []


def test_bfloat16_only_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, native=native: including_emulation or native)
        assert precision.choose_precision("auto", "cuda") == ("bfloat16" if native else "float32")


def test_processes_wait_long_enough_for_each_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr("accelerate.Accelerator", lambda **options: made.update(options))
    make_accelerator(tiny_config(root), "cuda")
    (wait,) = [handler.timeout for handler in made["kwargs_handlers"] if hasattr(handler, "timeout")]
    assert wait >= datetime.timedelta(hours=1)  # torch's own is ten minutes, and the first process writes the bundle alone


def test_plugins_are_part_of_what_a_run_came_from(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("abc")
    train_tiny(tiny_config(root, train__epochs=1), root, tmp_path / "run", plugins=[tmp_path / "mine.py"])
    code = json.loads((tmp_path / "run" / "environment.json").read_text())["code"]
    assert code["plugins"] == {"mine.py": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}

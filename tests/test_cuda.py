"""What only a GPU can show: its number formats, its memory, and that it agrees with the CPU. Skipped, visibly, without one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.bundles.bundle import build_task, load_bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.config import RunConfig
from pipeline.datasets import feed
from pipeline.datasets.loader import CaseStore, TrainingLoader, evaluation_batches
from pipeline.datasets.windows import Windows
from pipeline.errors import InterruptedRun, TrainingError
from pipeline.models.mask_rcnn import in_full_groups
from pipeline.models.precision import choose_precision, has_bfloat16
from pipeline.models.two_stage import TwoStage
from pipeline.tasks.paste import paste
from pipeline.tasks.semantic import SemanticTask
from pipeline.training import steps
from pipeline.training.replay import Replayed
from pipeline.training.steps import Steps
from pipeline.types import Batch
from tests.training.tiny import tiny_config, train_tiny, weights, write_data

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
    # What a driver or a compiler has to say on somebody's machine is not about ocuseg.
    pytest.mark.filterwarnings("default"),
]
ALL = "{rotation_deg: 20, scale: [0.8, 1.25], elastic: 4, gamma: 0.3, gain: 0.2, bias: 0.2, blur_sigma: 1}"
DROPOUT = "{name: unet, widths: [4, 8], dropout: 0.3}"
DETECTOR = (
    "{name: mask_rcnn, backbone: resnet18, fpn_channels: 8, representation: 16, mask_width: 8, mask_layers: 1, roi_samples: 16, "
    "rpn_samples: 32, rpn_before_nms: [60, 40], rpn_after_nms: [30, 20]}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def train(config: RunConfig, root: Path, run_dir: Path, **arguments: Any) -> Any:
    return train_tiny(config, root, run_dir, device=DEVICE, **arguments)


def history(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def store_of(config: RunConfig, root: Path, **options: Any) -> CaseStore:
    card = load_card(config.data.card)
    return CaseStore(card, find_cases(card, root), config.data.normalise, **options)


def batch_on(device: str, store: CaseStore, config: RunConfig) -> Batch:
    """The first training batch, made for ``device``."""
    return next(iter(TrainingLoader(store, store.keys(), config.data, 4, 0, 0, device=device)))


def test_auto_trains_in_bfloat16_where_the_gpu_has_it_and_learns_what_float32_does(root: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("auto", "float32"):
        result = train(tiny_config(root, train__epochs=4, train__precision=precision), root, tmp_path / precision)
        losses[precision] = [row["train/loss"] for row in history(tmp_path / precision)]
        assert {value.dtype for value in weights(tmp_path / precision).values() if value.is_floating_point()} == {torch.float32}
        assert 0 <= result.metrics["validation/dice"] <= 1
        assert losses[precision][-1] < losses[precision][0]
    assert choose_precision("auto", DEVICE) == ("bfloat16" if has_bfloat16(DEVICE) else "float32")
    assert losses["auto"] == pytest.approx(losses["float32"], rel=0.05)


def test_float32_is_multiplied_in_tf32_where_the_gpu_has_it(root: Path, tmp_path: Path) -> None:
    train(tiny_config(root, train__epochs=1), root, tmp_path / "run")  # sets it
    a, b = torch.randn(2, 512, 512, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0)).unbind(0)
    exact = a.double() @ b.double()
    error = float((a @ b - exact).norm() / exact.norm())
    assert error < 1e-3
    assert (error > 1e-5) == (torch.cuda.get_device_capability() >= (8, 0))


def test_too_little_gpu_memory_is_one_sentence_and_the_next_run_goes_well(root: Path, tmp_path: Path) -> None:
    large = tiny_config(root, "{name: unet, widths: [64, 128], first_stride: 1}", data__crop="[512, 512]", train__epochs=1)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        with pytest.raises(TrainingError, match=r"^GPU memory did not suffice: lower train\.batch_size or data\.crop") as caught:
            train(large, root, tmp_path / "large")
        assert caught.value.exit_code == 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    del caught
    train(tiny_config(root, train__epochs=1), root, tmp_path / "small")


def test_a_stopped_run_goes_on_and_ends_close_to_one_that_was_never_stopped(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, train__epochs=6, train__ema=0.9)
    whole = train(config, root, tmp_path / "whole")
    stopped = []

    def advance(done: int, total: int | None = None, note: str = "") -> None:
        if total is not None and done > total / 2 and note.startswith("epoch") and not stopped:
            stopped.append(done)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedRun, match="everything is saved; go on with: ocuseg train --resume"):
        train(config, root, tmp_path / "run", progress=advance)
    resumed = train(config, root, tmp_path / "run", resume=True)
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    last = [history(tmp_path / name)[-1]["train/loss"] for name in ("whole", "run")]
    assert last[1] == pytest.approx(last[0], rel=0.05)
    assert resumed.metrics["validation/dice"] == pytest.approx(whole.metrics["validation/dice"], abs=0.1)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "as written"])
def test_a_training_step_waits_for_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool) -> None:
    """torch raises at every call that would wait for the GPU; the first steps may, while they choose algorithms, make buffers or record."""
    take, taken = Steps.take, []

    def guarded(*arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("default" if len(taken) <= steps.WARM_UP else "error")
        try:
            take(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        taken.append(1)

    monkeypatch.setattr(Steps, "take", guarded)
    if not recorded:
        monkeypatch.setattr(steps, "why_not_recorded", lambda *_: "a test")
    train(tiny_config(root, train__epochs=2, train__ema=0.9), root, tmp_path / "run")
    assert len(taken) == 12


@pytest.mark.parametrize(
    "changes", [{}, {"train__clip_norm": 0.1, "data__augment": ALL}, {"model": "{name: unet, widths: [4, 8], dropout: 0.3}"}]
)
def test_recorded_steps_learn_what_steps_as_written_learn(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    rows, replayed, call = {}, [], Replayed.__call__

    def counted(*arguments: Any) -> Any:
        replayed.append(1)
        return call(*arguments)

    monkeypatch.setattr(Replayed, "__call__", counted)
    for name in ("recorded", "written"):
        if name == "written":
            replayed.clear()
            monkeypatch.setattr(steps, "why_not_recorded", lambda *_: "a test")
        train(tiny_config(root, train__epochs=6, train__ema=0.9, **changes), root, tmp_path / name)
        rows[name] = history(tmp_path / name)
        assert bool(replayed) == (name == "recorded")
    ours, theirs = ([[row[key] for key in ("train/loss", "train/gradient_norm", "learning_rate")] for row in rows[name]] for name in rows)
    loose = "model" in changes  # dropout draws others
    for own, other in zip(ours, theirs, strict=True):
        assert own == pytest.approx(other, rel=0.2 if loose else 0.03)
        assert own[2] == pytest.approx(other[2], rel=1e-5), "the schedule is followed"
    average = [weights(tmp_path / name) for name in rows]
    for key, value in average[0].items() if not loose else ():
        assert float((value.float() - average[1][key].float()).norm()) <= 0.05 * float(value.float().norm()) + 1e-3, key


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_network_whose_losses_ask_for_values_is_trained_as_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    forward = SemanticTask.forward

    def asks(self: SemanticTask, batch: Batch) -> dict[str, torch.Tensor]:
        losses = forward(self, batch)
        for loss in losses.values():
            if when == "forward":
                loss.item()
            elif loss.requires_grad:
                loss.register_hook(lambda gradient: gradient * (1 if gradient.item() > 0 else 2))
        return losses

    replayed: list[int] = []
    monkeypatch.setattr(Replayed, "__call__", lambda *_: replayed.append(1))
    monkeypatch.setattr(SemanticTask, "forward", asks)
    train(tiny_config(root, DROPOUT, train__epochs=3), root, tmp_path / "run")
    losses = [row["train/loss"] for row in history(tmp_path / "run")]
    assert losses[-1] < losses[0]
    assert not replayed
    assert torch.cuda.get_sync_debug_mode() == 0


def test_what_cannot_be_recorded_for_another_reason_is_one_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(steps, "Replayed", failing)
    with pytest.raises(TrainingError, match=r"cannot be recorded as a CUDA graph \(operation not permitted.*train.compile: off"):
        train(tiny_config(root), root, tmp_path / "run")
    train(tiny_config(root, train__compile="off"), root, tmp_path / "off")


@pytest.mark.parametrize("fraction", [0.0, 0.2], ids=["windows travel", "cases lie on the device"])
def test_the_device_makes_the_samples_that_the_cpu_makes(root: Path, monkeypatch: pytest.MonkeyPatch, fraction: float) -> None:
    """Also while it is busy: every batch is asked for before the work of the one before is done."""
    monkeypatch.setattr(feed, "DEVICE_FRACTION", fraction)
    config = tiny_config(root, data__augment=ALL)
    store, busy = store_of(config, root, need="objects"), torch.ones(4096, 4096, device=DEVICE)
    batches = []
    for batch in TrainingLoader(store, store.keys(), config.data, 4, 0, 0, device=DEVICE):
        for _ in range(20):
            busy = busy @ busy
        batches.append(batch)
    for cpu, gpu in zip(TrainingLoader(store, store.keys(), config.data, 4, 0, 0), batches, strict=True):
        assert gpu.images[0].device.type == DEVICE
        assert cpu.targets is not None
        assert gpu.targets is not None
        for valid, other, a, b in zip(cpu.valid, gpu.valid, cpu.images, gpu.images, strict=True):
            same = valid == other.cpu()
            assert float(same.float().mean()) > 0.995
            # A pixel that only one of the two takes to be in the field of view is 0 in the other.
            torch.testing.assert_close(b.cpu() * same, a * same, atol=5e-3, rtol=1e-3)
        for target, moved in zip(cpu.targets, gpu.targets, strict=True):
            assert target.instance_masks is not None
            assert moved.instance_masks is not None
            found, expected = moved.instance_masks.cpu().any(dim=0), target.instance_masks.any(dim=0)
            assert float((found == expected).float().mean()) > 0.995
            assert target.boxes is not None
            assert moved.boxes is not None
            torch.testing.assert_close(moved.boxes.cpu(), target.boxes, atol=1.01, rtol=0)  # a box is fitted to pixels of its mask


def test_loss_and_gradients_are_those_of_the_cpu(root: Path) -> None:
    config = tiny_config(root)
    store, found = store_of(config, root), []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        task = build_task(config, store.channels, store.label_map).to(device)
        loss = torch.stack(list(task(batch_on(device, store, config)).values())).sum()
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None])))
    (loss, gradient), (other_loss, other_gradient) = found
    assert other_loss == pytest.approx(loss, rel=5e-3)
    assert float((other_gradient - gradient).norm() / gradient.norm()) < 5e-2  # TF32


def test_images_predicted_together_are_as_one_at_a_time_and_as_on_the_cpu(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, train__epochs=2)
    train(config, root, tmp_path / "run")
    store, task = store_of(config, root), load_bundle(tmp_path / "run" / "bundle").task
    alone, there = ([batch for batch, _ in evaluation_batches(store, store.keys()[:3], device)] for device in ("cpu", DEVICE))
    parts = ("images", "valid", "placements", "cases", "targets")
    together = Batch(*([value for batch in there for value in getattr(batch, part)] for part in parts))
    on_cpu = [task.predict(batch)[0] for batch in alone]
    task.to(DEVICE)
    at_once = task.predict(together)
    for batch, one, reference in zip(there, at_once, on_cpu, strict=True):
        single = task.predict(batch)[0]
        maps = [torch.as_tensor(prediction.probabilities).cpu() for prediction in (one, single, reference)]
        assert float((maps[0] - maps[1]).abs().max()) < 0.01
        assert float(((maps[0] > 0.5) == (maps[2] > 0.5)).float().mean()) > 0.995


def test_validation_images_travel_as_stored_and_are_those_of_the_cpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, moved, to = store_of(tiny_config(root), root), [], Windows.to

    def recorded(self: Windows, device: torch.device) -> Windows:
        moved.append(self.pixels.dtype)
        return to(self, device)

    monkeypatch.setattr(Windows, "to", recorded)
    there = [batch for batch, _ in evaluation_batches(store, store.keys(), DEVICE)]
    assert moved == [torch.uint8] * len(store)
    for batch, (other, _) in zip(there, evaluation_batches(store, store.keys()), strict=True):
        assert batch.images[0].device.type == batch.valid[0].device.type == DEVICE
        torch.testing.assert_close(batch.images[0].cpu(), other.images[0])
        assert torch.equal(batch.valid[0].cpu(), other.valid[0])


def test_masks_are_pasted_as_on_the_cpu() -> None:
    random = torch.Generator().manual_seed(0)
    corners = 200 * torch.rand(60, 2, generator=random)
    boxes = torch.cat([corners, corners + 90 * torch.rand(60, 2, generator=random)], dim=1)
    masks, each = torch.rand(60, 28, 28, generator=random), [(number,) for number in range(60)]
    there, here = (paste(each, boxes, masks.to(device), (240, 300), boxes) for device in (DEVICE, "cpu"))
    assert (there != here).mean() < 1e-5


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_detector_takes_its_steps_with_and_without_recorded_parts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str
) -> None:
    settings = {"task": "{name: detection, detections: 8}", "data__crops_per_image": 1, "data__crop": "[40, 48]"}
    config = tiny_config(root, DETECTOR, train__epochs=3, train__precision=precision, **settings)
    losses = []
    for name in ("recorded", "written"):
        if name == "written":
            monkeypatch.setattr(TwoStage, "dense_parts", ())
        result = train(config, root, tmp_path / name)
        rows = history(tmp_path / name)
        assert {f"train/loss/{name}" for name in ("rpn_objectness", "rpn_box", "class", "box", "mask")} < rows[0].keys()
        assert 0 <= result.metrics["validation/ap50"] <= 1
        losses.append([row["train/loss"] for row in rows])
    assert "cannot be recorded" not in caplog.text
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_masks_of_any_number_of_objects_are_those_of_the_layers_alone() -> None:
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

    torch.manual_seed(0)
    plain = MaskRCNNHeads(8, [8, 8], dilation=1).to(DEVICE)
    grouped = in_full_groups(MaskRCNNHeads)(8, [8, 8], dilation=1).to(DEVICE)
    grouped.load_state_dict(plain.state_dict())
    for count in (0, 1, 63, 64, 65):
        x = torch.randn(count, 8, 14, 14, device=DEVICE)
        ours, theirs = (layers(x.clone().requires_grad_()) for layers in (grouped, plain))
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=5e-3)
        gradients = [torch.autograd.grad(out.square().sum(), layers.parameters()) for out, layers in ((ours, grouped), (theirs, plain))]
        for own, other in zip(*gradients, strict=True):
            torch.testing.assert_close(own, other, atol=0.02 * float(other.abs().max()) + 1e-6, rtol=0.02)


@pytest.mark.slow
def test_a_compiled_network_learns_as_an_uncompiled_one(root: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in ("on", "off"):
        train(tiny_config(root, train__epochs=2, train__compile=compiled), root, tmp_path / compiled)
        losses.append([row["train/loss"] for row in history(tmp_path / compiled)])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)

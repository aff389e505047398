"""What every registered network for pixels promises, asked of each. A new model needs a small configuration below, and nothing else.

Detectors have their own: test_every_detector.py.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.bundles.onnx_file import difference
from pipeline.bundles.onnx_graph import make_graph, start_session
from pipeline.models.base import MODELS, ModelConfig, Network, memory_format
from pipeline.tasks.semantic import SemanticConfig, SemanticTask
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Target
from tests.models.test_every_detector import SMALL as DETECTORS

# Small enough for one core; each line is one configuration that is tested.
SMALL: dict[str, list[dict[str, Any]]] = {
    "unet": [
        {"widths": (4, 8, 12), "residual_units": 2},
        {"widths": (4, 8), "residual_units": 0, "norm": "batch", "dropout": 0.2},
        {"widths": (4, 8, 12), "norm": "group", "head_width": 4, "first_stride": 1},
        {"widths": (4, 8, 12, 16), "residual_units": 1, "deep_supervision": 2},
        {"widths": (4, 8, 12), "attention_gates": True},
    ],
    "vit": [{"image_size": 32, "patch": 8, "width": 16, "layers": 3, "heads": 2, "feedforward": 32, "decoder_width": 16}],
    "swin_unetr": [{"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "window": 4}],
    "segresnet": [{"width": 8, "blocks": (1, 1)}],
    "dynunet": [{"widths": (8, 12, 16), "residual": True, "deep_supervision": 1}],
    "smp": [{"decoder": "deeplabv3plus", "encoder": "tu-test_efficientnet"}],
    "fcn": [
        {"width": 0.125, "dense_width": 32, "norm": "batch"},
        {"width": 0.125, "dense_width": 32, "norm": "batch", "step": 32, "dropout": 0.0},
    ],
    "segnet": [{"width": 0.125}],
    "mobilenet_unet": [{"widths": (8, 8, 8, 8)}],
    "efficientnet_unet": [{"widths": (8, 8)}],
    "patch_classifier": [{"window": 17, "widths": (8, 12), "hidden": 16, "centres": 256, "dropout": 0.2}],
    "wnet_little": [
        {"widths": (4, 8), "deep_supervision": 1},
        {"widths": (4, 6, 8), "between": "softmax", "deep_supervision": 0},
        {"widths": (8, 12), "unshuffle": 2, "deep_supervision": 1},
    ],
}
LONG = "exporting every network takes minutes; OCUSEG_EVERY_GRAPH=1 does"
EVERY_GRAPH = pytest.mark.skipif(not os.environ.get("OCUSEG_EVERY_GRAPH"), reason=LONG)
VARIANTS = [pytest.param(name, settings, id=f"{name}-{number}") for name in SMALL for number, settings in enumerate(SMALL[name])]
EVERY = pytest.mark.parametrize(("name", "settings"), VARIANTS)
FIRST_OR_EVERY = [
    pytest.param(name, settings, id=f"{name}-{number}", marks=EVERY_GRAPH if number else ())
    for name in SMALL
    for number, settings in enumerate(SMALL[name])
]


def network(name: str, settings: dict[str, Any], in_channels: int = 3, out_channels: int = 2, seed: int = 0) -> Network:
    entry = MODELS[name]
    assert entry.config is not None
    torch.manual_seed(seed)
    net = entry.build(entry.config(name=name, **settings), in_channels, out_channels)
    assert isinstance(net, Network)
    return net


def without_dropout(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = MODELS[name].config
    assert config is not None
    return {**settings, "dropout": 0.0} if "dropout" in config.model_fields else settings


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def finest(output: Tensor | list[Tensor]) -> Tensor:
    return output[0] if isinstance(output, list) else output


def batch_of(targets: list[Tensor], image_seed: int = 1) -> Batch:
    rows, columns = targets[0].shape
    return Batch(
        images=[noise(3, rows, columns, seed=image_seed + i) + 2 * (t[None] > 0) for i, t in enumerate(targets)],
        valid=[torch.ones(rows, columns, dtype=torch.bool) for _ in targets],
        placements=[Placement.identity(rows, columns) for _ in targets],
        cases=[CaseKey(f"p{i}", "R", "1", "i") for i in range(len(targets))],
        targets=[Target(mask=t) for t in targets],
    )


def a_mask(rows: int = 37, columns: int = 53) -> Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.int64)
    mask[5:20, 8:30] = 1
    mask[10:15, 12:22] = 3  # the second class lies inside the first
    return mask


def task_of(name: str, settings: dict[str, Any]) -> SemanticTask:
    classes = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)
    return SemanticTask(SemanticConfig(), network(name, settings), classes)


def test_every_registered_model_is_tested_in_one_of_the_two_families() -> None:
    families = {entry.name: entry.config.family for entry in MODELS if entry.config is not None and issubclass(entry.config, ModelConfig)}
    assert sorted(families) == MODELS.names()
    assert sorted(name for name, family in families.items() if family == "semantic") == sorted(SMALL)
    assert sorted(name for name, family in families.items() if family == "detection") == sorted(DETECTORS)


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(37, 53), (64, 48), (1, 3)])
def test_any_image_size_and_any_number_of_channels(name: str, settings: dict[str, Any], channels: int, size: tuple[int, int]) -> None:
    net = network(name, settings, in_channels=channels).eval()
    with torch.no_grad():
        output = net(noise(2, channels, *size))
    assert isinstance(output, Tensor)
    assert output.shape == (2, 2, *size)
    assert torch.isfinite(output).all()


@EVERY
def test_outputs_in_training_all_have_the_images_size(name: str, settings: dict[str, Any]) -> None:
    output = network(name, settings)(noise(2, 3, 37, 53))
    outputs = output if isinstance(output, list) else [output]
    assert len(outputs) == settings.get("deep_supervision", 0) + 1
    assert all(part.shape == (2, 2, 37, 53) for part in outputs)


@EVERY
def test_memory_format_is_kept_and_changes_nothing_but_speed(name: str, settings: dict[str, Any]) -> None:
    net, image = network(name, settings).eval(), noise(2, 3, 37, 53)
    with torch.no_grad():
        before = net(image)
        after = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    for channels in (1, 3):
        net = network(name, settings, in_channels=channels)
        assert memory_format(net) == torch.contiguous_format
        assert memory_format(net.to(memory_format=torch.channels_last)) == torch.channels_last


@EVERY
def test_gradients_reach_every_parameter(name: str, settings: dict[str, Any]) -> None:
    task = task_of(name, without_dropout(name, settings)).train()
    torch.stack(list(task(batch_of([a_mask(), a_mask().flip(1)])).values())).sum().backward()
    without = [key for key, parameter in task.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # The bias of a convolution before a normalisation is taken away again: its gradient is rounding noise, or exactly 0.
    assert [key for key in without if not key.endswith("bias")] == []
    assert all(parameter.grad is not None for parameter in task.parameters())


@EVERY
def test_the_loss_falls_on_one_batch(name: str, settings: dict[str, Any]) -> None:
    task = task_of(name, without_dropout(name, settings)).train()
    optimizer, batch = torch.optim.AdamW(task.parameters(), lr=1e-2), batch_of([a_mask(), a_mask().flip(1)])
    losses = []
    for _ in range(25):
        loss = torch.stack(list(task(batch).values())).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


@EVERY
def test_empty_targets_give_finite_losses_and_gradients(name: str, settings: dict[str, Any]) -> None:
    task = task_of(name, settings).train()
    losses = task(batch_of([torch.zeros(37, 53, dtype=torch.int64), torch.full((37, 53), -1, dtype=torch.int64)]))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


@EVERY
def test_saved_and_loaded_it_answers_to_the_bit_the_same(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net, image = network(name, settings).eval(), noise(1, 3, 37, 53)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    other = network(name, settings, seed=9).eval()
    with torch.no_grad():
        assert not torch.equal(net(image), other(image))
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(net(image), other(image))


@EVERY
def test_one_seed_gives_one_network_and_one_training_step(name: str, settings: dict[str, Any]) -> None:
    def after_a_step() -> list[Tensor]:
        task = task_of(name, settings).train()
        optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
        batch = batch_of([a_mask()] * task.network.min_batch_size)
        torch.stack(list(task(batch).values())).sum().backward()
        optimizer.step()
        return [p.detach() for p in task.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(after_a_step(), after_a_step(), strict=True))


@pytest.mark.parametrize(("name", "settings"), FIRST_OR_EVERY)
def test_it_can_be_exported_with_free_height_and_width(name: str, settings: dict[str, Any]) -> None:
    net = network(name, settings).eval()
    if name == "swin_unetr":
        assert net.not_exportable.startswith("its attention windows are counted in Python")
        return
    assert not net.not_exportable
    multiple = net.multiple
    assert isinstance(multiple, int)
    rows, columns = (multiple * torch.export.Dim(side, min=2, max=512) for side in ("rows", "columns"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own internals
        shapes = ({0: torch.export.Dim.DYNAMIC, 2: rows, 3: columns},)
        exported = torch.export.export(net, (noise(2, 3, 6 * multiple, 5 * multiple),), dynamic_shapes=shapes).module()
        for size in ((2, 3), (9, 4)):
            image = noise(3, 3, size[0] * multiple, size[1] * multiple)
            torch.testing.assert_close(exported(image), net(image), rtol=1e-4, atol=1e-5)


QUICK = ("unet", {"widths": (4, 8), "dims": 3, "slice_halvings": 0})
GRAPHS = [
    pytest.param(name, settings, id=f"{name}-{number}", marks=EVERY_GRAPH)
    for name in SMALL
    if name != "swin_unetr"
    for number, settings in enumerate(SMALL[name])
]


@pytest.mark.parametrize(("name", "settings"), [pytest.param(*QUICK, id="volumes"), *GRAPHS])
def test_its_onnx_graph_finds_what_torch_finds(name: str, settings: dict[str, Any]) -> None:
    task = task_of(name, settings).eval()
    graph = make_graph(task, 3, probabilities=False).SerializeToString()
    assert difference(task.network, start_session(graph), 3) < 1e-4

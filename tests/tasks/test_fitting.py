"""A network's need of memory is known before it looks, and what does not fit is seen in pieces, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import parse_config
from pipeline.models.base import MODELS
from pipeline.tasks import fitting
from pipeline.tasks.base import TASKS
from pipeline.types import Batch, LabelClass, LabelMap, Placement

LESION = LabelMap((LabelClass(1, "lesion", (0, 114, 178)),))


class Wide(nn.Module):
    """Holds, at most, the input and two maps of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(*sides, 3, padding=1) for sides in ((3, width), (width, width), (width, 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.first(x)))
        return out


@pytest.mark.parametrize("inference", [False, True])
def test_the_need_is_that_of_the_tensors_alive_at_once(inference: bool) -> None:
    network, x = Wide(40).eval(), torch.rand(1, 3, 300, 410)
    with torch.inference_mode(inference):
        needed = fitting.bytes_needed(network, network, x)
    assert needed(1_000_000) == pytest.approx(4 * 80e6, rel=0.06)  # the input is the caller's, except for the piece that is measured


def test_a_network_that_brings_all_images_to_one_size_needs_no_more_for_larger_ones() -> None:
    network = Wide(8).eval()
    needed = fitting.bytes_needed(network, lambda x: network(nn.functional.interpolate(x, (200, 200))), torch.rand(1, 3, 300, 410))
    assert needed(10**9) == pytest.approx(needed(10**4), rel=0.2)


def task_of(text: str, label_map: LabelMap) -> Any:
    config = parse_config(f"{{name: t, data: {{card: c}}, {text}}}")
    torch.manual_seed(3)
    network = MODELS[config.model.name].build(config.model, 3, config.task.outputs(label_map))
    return TASKS[config.task.name].build(config.task, network, label_map).eval()


def batch_of(rows: int, columns: int) -> Batch:
    image = torch.rand(3, rows, columns, generator=torch.Generator().manual_seed(1))
    return Batch([image], [torch.ones(rows, columns, dtype=torch.bool)], [Placement.identity(rows, columns)], [None])  # type: ignore[list-item]


def memory(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda device: int(size))


def test_a_picture_that_does_not_fit_is_seen_in_pieces_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = task_of("task: {name: semantic}, model: {name: unet, widths: [8, 16], norm: batch}", LESION), batch_of(300, 420)
    (whole,) = task.predict(batch)
    assert whole.warnings == ()
    needed = fitting.bytes_needed(task.network, task.network, batch.images[0][None])
    memory(monkeypatch, 1.3 * needed(256 * 256) / 0.8)
    (pieces,) = task.predict(batch)
    assert pieces.warnings == ("predicted in tiles of 256 x 256 pixels, because larger ones did not fit into memory",)
    assert pieces.probabilities.shape == whole.probabilities.shape == (1, 300, 420)
    assert np.abs(pieces.probabilities - whole.probabilities).mean() < 0.02
    memory(monkeypatch, 1000)
    with pytest.raises(MemoryError):
        task.predict(batch)


def test_objects_are_found_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("task: {name: detection}, model: {name: retinanet, backbone: mobilenet_v2, width: 16, head_layers: 1}", LESION)
    batch = batch_of(300, 420)
    detect = lambda x: task.network.detect(list(x))  # noqa: E731
    needed = fitting.bytes_needed(task.network, detect, batch.images[0][None])
    memory(monkeypatch, 1.3 * needed(256 * 256) / 0.8)
    (found,) = task.predict(batch)
    assert found.warnings == ("predicted in tiles of 256 x 256 pixels, because larger ones did not fit into memory",)


def test_what_fits_by_far_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, 1 << 40)
    assert fitting.tile_that_fits(nn.Identity(), lambda x: pytest.fail("measured"), torch.rand(1, 3, 300, 420)) is None

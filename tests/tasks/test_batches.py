"""Images, their flips and tiles in batches: what a network finds does not depend on how many it sees at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.tasks import fitting, semantic
from pipeline.types import Batch
from tests.tasks.test_fitting import LESION, batch_of, task_of

NETWORK = "model: {name: unet, widths: [4, 8], norm: batch}"


def images(*sizes: tuple[int, int]) -> Batch:
    parts = [batch_of(*size) for size in sizes]
    fields = ("images", "valid", "placements", "cases")
    return Batch(*([value for part in parts for value in getattr(part, name)] for name in fields))


def maps(task: Any, batch: Batch) -> list[np.ndarray]:
    return [prediction.probabilities for prediction in task.predict(batch)]


@pytest.mark.parametrize("together", [2, 5, 16])
@pytest.mark.parametrize("options", ["", ", flips: true", ", flips: true, tile: 32", ", tile: [64, 32]"])
def test_together_as_one_by_one(monkeypatch: pytest.MonkeyPatch, options: str, together: int) -> None:
    torch.manual_seed(0)
    task = task_of(f"task: {{name: semantic{options}}}, {NETWORK}", LESION)
    batch = images((37, 53), (37, 53), (37, 53), (64, 48))
    alone = maps(task, batch)
    seen: list[int] = []
    monkeypatch.setattr(semantic, "images_at_once", lambda network, run, x, most: min(together, most))
    task.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    found = maps(task, batch)
    assert max(seen) > 1
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_where_memory_runs_out_images_go_one_by_one_then_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(f"task: {{name: semantic, flips: true}}, {NETWORK}", LESION)
    batch = images((300, 260), (300, 260))
    alone = maps(task, batch)
    monkeypatch.setattr(semantic, "images_at_once", lambda network, run, x, most: most)
    room = 300 * 272
    full: list[int] = []

    def limited(module: Any, given: tuple[torch.Tensor]) -> None:
        pixels = len(given[0]) * given[0].shape[-1] * given[0].shape[-2]
        if pixels > room:
            full.append(pixels)
            raise torch.OutOfMemoryError("full")

    task.network.register_forward_pre_hook(limited)
    for one, other in zip(alone, maps(task, batch), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert len(full) == 1
    room = 128 * 128
    (first, _) = task.predict(batch)
    assert first.warnings == ("predicted in tiles of 128 x 128 pixels, because larger ones did not fit into memory",)
    room = 1
    with pytest.raises(torch.OutOfMemoryError):
        task.predict(batch)


def test_a_gpu_takes_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(1, 3, 1000, 1000, device="meta")
    monkeypatch.setattr(fitting, "free_memory", lambda device: 1e9)
    monkeypatch.setattr(fitting, "bytes_needed", lambda network, run, x: lambda pixels: 200.0 * pixels)
    network = torch.nn.Identity()
    assert fitting.images_at_once(network, network, x, 16) == 4
    assert fitting.images_at_once(network, network, x, 3) == 3
    assert fitting.images_at_once(network, network, torch.empty(1, 3, 8, 8), 16) == 1  # on a CPU

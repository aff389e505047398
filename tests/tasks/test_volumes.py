"""The semantic family on volumes: one prediction a slice, tiles and flips, and losses that count every slice's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.models.base import Network
from pipeline.tasks.losses import LOSSES, soft_skeleton
from pipeline.tasks.semantic import SemanticConfig, SemanticTask
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Target

CUP = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)
LAYERS = LabelMap(tuple(LabelClass(i, name, (i, 0, 0)) for i, name in enumerate(("RNFL", "RPE"), 1)))
ALL = LOSSES.names()


class Echo(Network):
    """Gives its input's first channels back as logits, those of slice d plus d: its answer depends on which slice it is."""

    dims = 3

    def __init__(self, channels: int, a_slice: float = 0.0) -> None:
        super().__init__()
        self.channels, self.a_slice = channels, a_slice
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, volumes: Tensor) -> Tensor:
        self.seen.append(tuple(volumes.shape[2:]))
        place = torch.arange(volumes.shape[2], dtype=torch.float32)[:, None, None]
        return volumes[:, : self.channels] * self.scale + self.a_slice * place


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def a_batch(images: list[Tensor], masks: list[Tensor] | None = None, placement: Placement | None = None) -> Batch:
    return Batch(
        images,
        [torch.ones(image.shape[1:], dtype=torch.bool) for image in images],
        [placement or Placement.identity(*image.shape[-2:]) for image in images],
        [CaseKey(f"p{i}", "L", "1", "i") for i in range(len(images))],
        None if masks is None else [Target(mask=mask) for mask in masks],
    )


def task(label_map: LabelMap = CUP, a_slice: float = 0.0, **settings: object) -> SemanticTask:
    return SemanticTask(SemanticConfig.model_validate(settings), Echo(label_map.channels, a_slice), label_map)


def all_slices(trained: SemanticTask, image: Tensor) -> np.ndarray:
    return np.stack([p.probabilities for p in trained.predict(a_batch([image]))], axis=1)  # type: ignore[misc]


def test_a_network_of_dims_3_makes_a_task_of_volumes() -> None:
    assert task().volumes
    assert not SemanticTask(SemanticConfig(), Network(), CUP).volumes


def test_each_slice_of_each_volume_gets_a_prediction_of_its_own_in_order() -> None:
    first, second = noise(2, 3, 7, 10), noise(2, 2, 7, 10, seed=1)
    found = task().predict(a_batch([first, second]))
    expected = [image[:, plane].sigmoid().numpy() for image in (first, second) for plane in range(image.shape[1])]
    assert len(found) == 5
    for prediction, probabilities in zip(found, expected, strict=True):
        np.testing.assert_allclose(prediction.probabilities, probabilities, atol=1e-6)


def test_every_slice_stands_where_its_pixels_came_from() -> None:
    placement = Placement(source=(20, 33), crop=(0, 0, 20, 33), resized=(10, 11), pad=(3, 1, 2, 4))
    image = noise(2, 4, *placement.net)
    found = task().predict(a_batch([image], placement=placement))
    for plane, prediction in enumerate(found):
        np.testing.assert_allclose(prediction.probabilities, placement.to_source(image[:, plane].sigmoid()).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ({"tile": 32}, (9, 32, 32)),
        ({"tile": (64, 32)}, (9, 64, 32)),
        ({"tile_slices": 4}, (4, 70, 51)),
        ({"tile": 32, "tile_slices": 4}, (4, 32, 32)),
        ({"tile": 128, "tile_slices": 64}, (9, 70, 51)),
    ],
)
def test_tiles_are_as_thick_as_asked_for_and_agree_with_the_whole_volume(settings: dict[str, Any], largest: tuple[int, ...]) -> None:
    image = noise(2, 9, 70, 51)
    tiled = task(tile_overlap=0.5, **settings)
    np.testing.assert_allclose(all_slices(tiled, image), all_slices(task(), image), atol=1e-5)
    assert set(tiled.network.seen) == {largest}  # type: ignore[arg-type]


def test_memory_is_measured_on_a_tile_and_never_on_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once are what ``tile_slices`` is there to avoid."""
    measured = []

    def noted(network: Any, run: Any, images: torch.Tensor, most: int) -> int:
        measured.append((tuple(images.shape[2:]), most))
        return 1

    monkeypatch.setattr("pipeline.tasks.semantic.images_at_once", noted)
    image = noise(2, 32, 70, 51)
    all_slices(task(tile_slices=4, flips=True), image)
    all_slices(task(tile=32, tile_slices=4), image)
    assert all(most == 1 or shape[0] == 4 for shape, most in measured)
    assert {shape for shape, most in measured if most > 1} == {(4, 70, 51), (4, 32, 32)}


def test_losses_of_validation_are_of_the_tiles_that_prediction_sees() -> None:
    """What is predicted by tiles may not fit into memory as a whole."""
    image, mask = noise(2, 9, 40, 51), torch.randint(0, 3, (9, 40, 51), generator=torch.Generator().manual_seed(1))
    whole, tiled = task(), task(tile=32, tile_slices=4, tile_overlap=0.5)
    for each in (whole, tiled):
        each.train()
        found = each.validation_losses(a_batch([image], [mask]))
        assert each.training
        assert set(each.network.seen) == {(9, 40, 51) if each is whole else (4, 32, 32)}  # type: ignore[arg-type]
        torch.testing.assert_close(found, whole(a_batch([image], [mask])))
    tiled(a_batch([image], [mask]))
    assert tiled.network.seen[-1] == (9, 40, 51)  # type: ignore[index]


def test_flips_leave_the_order_of_the_slices_alone() -> None:
    image = noise(2, 5, 7, 10)
    np.testing.assert_allclose(all_slices(task(a_slice=1.0, flips=True), image), all_slices(task(a_slice=1.0), image), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "cldice"])
@pytest.mark.parametrize("label_map", [CUP, LAYERS])
def test_a_volumes_loss_is_that_of_all_its_slices_together(name: str, label_map: LabelMap) -> None:
    image, mask = noise(label_map.channels, 3, 6, 9), torch.randint(-1, 3, (3, 6, 9), generator=torch.Generator().manual_seed(1))
    volume = task(label_map, losses={name: 1.0})(a_batch([image], [mask]))[name]
    flat = SemanticTask(SemanticConfig(losses={name: 1.0}), _Flat(), label_map)
    planes = Batch(
        list(image.unbind(1)),
        [torch.ones(6, 9, dtype=torch.bool)] * 3,
        [Placement.identity(6, 9)] * 3,
        [CaseKey("p", "L", "1", "i")] * 3,
        [Target(mask=plane) for plane in mask],
    )
    torch.testing.assert_close(volume, flat(planes)[name])
    assert volume.item() > 0.1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("independent", [True, False])
def test_of_a_volume_too_the_truth_costs_nothing_its_opposite_much_and_what_is_not_valid_nothing(name: str, independent: bool) -> None:
    truth = torch.zeros(1, 1, 9, 12, 20)
    truth[..., 3:6, 4:7, 2:18] = 1
    valid = torch.ones(1, 1, 9, 12, 20, dtype=torch.bool)
    if not independent:
        truth = torch.cat([1 - truth, truth], dim=1)
    sure, loss = 30 * (2 * truth - 1), LOSSES[name].build
    assert loss(sure, truth, valid, independent).item() == pytest.approx(0, abs=0.02)
    assert loss(-sure, truth, valid, independent).item() > 0.9
    valid[..., 10:] = False
    before = loss(sure, truth, valid, independent)
    sure[..., 11:] = 99
    assert loss(sure, truth, valid, independent) == before


def test_the_skeleton_of_a_tube_through_the_slices_is_its_centre_line() -> None:
    tube = torch.zeros(1, 1, 15, 9, 11)
    tube[..., 3:6, 4:7] = 1
    skeleton = soft_skeleton(tube, 3)[0, 0]
    assert (skeleton[2:-2, 4, 5] == 1).all()
    skeleton[:, 4, 5] = 0
    assert not skeleton[2:-2].any()


def test_a_volume_of_one_slice_has_the_planes_skeleton() -> None:
    plane = noise(1, 2, 12, 17).sigmoid()
    assert torch.equal(soft_skeleton(plane[:, :, None], 4)[:, :, 0], soft_skeleton(plane, 4))


class _Flat(Network):
    def forward(self, images: Tensor) -> Tensor:
        return images

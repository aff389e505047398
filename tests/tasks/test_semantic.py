"""The semantic family: what it trains on, and that what it predicts stands where it belongs in the source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.base import Network
from pipeline.tasks.base import Task
from pipeline.tasks.layers import one_channel_a_class
from pipeline.tasks.semantic import SemanticConfig, SemanticTask
from pipeline.types import Batch, CaseKey, Geometry, LabelClass, LabelMap, Placement, Prediction, Target

ONE = LabelMap((LabelClass(1, "vessel", (255, 0, 0)),))
CUP = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)
THREE = LabelMap(tuple(LabelClass(i, name, (i, 0, 0)) for i, name in enumerate(("artery", "vein", "crossing"), 1)))


class Echo(Network):
    """Gives its input's first channels back as logits, so that a prediction is known in advance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, : self.channels] * self.scale


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(images: list[Tensor], masks: list[Tensor] | None = None, placements: list[Placement] | None = None) -> Batch:
    sizes = [image.shape[-2:] for image in images]
    return Batch(
        images,
        [torch.ones(rows, columns, dtype=torch.bool) for rows, columns in sizes],
        placements or [Placement.identity(rows, columns) for rows, columns in sizes],
        [CaseKey(f"p{i}", "L", "1", "i") for i in range(len(images))],
        None if masks is None else [Target(mask=mask) for mask in masks],
    )


def only(task: SemanticTask, image: Tensor, placement: Placement | None = None) -> np.ndarray:
    (prediction,) = task.predict(batch([image], placements=[placement] if placement else None))
    assert prediction.probabilities is not None
    return prediction.probabilities


def task(label_map: LabelMap = ONE, **settings: object) -> SemanticTask:
    return SemanticTask(SemanticConfig.model_validate(settings), Echo(label_map.channels), label_map)


@pytest.mark.parametrize("label_map", [ONE, CUP, THREE])
def test_channels_and_layers_say_the_same(label_map: LabelMap) -> None:
    mask = torch.tensor([[-1, 0, 1], [2, 3, 0]]) if label_map is not ONE else torch.tensor([[-1, 0, 1], [1, 0, 0]])
    channels = one_channel_a_class(mask[None], label_map)[0]
    assert channels.shape == (label_map.channels, 2, 3)
    np.testing.assert_array_equal(channels[-len(label_map) :].bool().numpy(), label_map.layers(mask.numpy()))


@pytest.mark.parametrize("label_map", [ONE, CUP, THREE])
def test_probabilities_are_of_the_foreground_alone(label_map: LabelMap) -> None:
    image = noise(4, 5, 7)
    expected = image[None].softmax(1)[0, 1:] if label_map is THREE else image[: len(label_map)].sigmoid()
    found = only(task(label_map), image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_prediction_stands_where_its_pixels_came_from() -> None:
    placement = Placement(source=(20, 33), crop=(4, 6, 10, 12), resized=(10, 12), pad=(3, 1, 2, 4))
    image = noise(1, *placement.net)
    found = only(task(), image, placement)
    assert found.shape == (1, 20, 33)
    np.testing.assert_allclose(found[0, 4:14, 6:18], image[0, 3:13, 1:13].sigmoid().numpy(), atol=1e-6)
    found[0, 4:14, 6:18] = 0
    assert not found.any()


def test_images_of_unequal_size_share_a_batch_and_the_padding_has_no_say() -> None:
    images, masks = (
        [noise(1, 9, 14), noise(1, 12, 8, seed=1)],
        [torch.zeros(9, 14, dtype=torch.int64), torch.ones(12, 8, dtype=torch.int64)],
    )
    losses = {"cross_entropy": 1.0}
    together = task(losses=losses)(batch(images, masks))["cross_entropy"]
    alone = [task(losses=losses)(batch([i], [m]))["cross_entropy"] for i, m in zip(images, masks, strict=True)]
    sizes = [9 * 14, 12 * 8]
    torch.testing.assert_close(together, (alone[0] * sizes[0] + alone[1] * sizes[1]) / sum(sizes))


def test_ignored_pixels_and_those_outside_the_field_of_view_have_no_say() -> None:
    image, mask = noise(1, 6, 9), torch.zeros(6, 9, dtype=torch.int64)
    mask[2:4, 3:5] = -1
    seen = batch([image], [mask])
    seen.valid[0][0] = False
    first = task()(seen)
    image[:, 2:4, 3:5], image[:, 0], mask[0] = 99, -99, 1
    assert task()(seen) == first


def test_weights_multiply_each_named_loss() -> None:
    one, mask = noise(1, 6, 9), torch.ones(6, 9, dtype=torch.int64)
    plain, weighted = (task(losses={"dice": w, "focal": 2 * w})(batch([one], [mask])) for w in (1.0, 3.0))
    assert list(plain) == ["dice", "focal"]
    for name in plain:
        torch.testing.assert_close(weighted[name], 3 * plain[name])


def test_deep_supervision_weighs_coarser_outputs_less_and_all_of_them_sum_to_one() -> None:
    class Several(Network):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [images, 2 * images, 3 * images]

    image, mask = noise(1, 6, 9), torch.ones(6, 9, dtype=torch.int64)
    config = SemanticConfig(losses={"cross_entropy": 1.0})
    found = SemanticTask(config, Several(), ONE)(batch([image], [mask]))["cross_entropy"]
    parts = [task(losses={"cross_entropy": 1.0})(batch([k * image], [mask]))["cross_entropy"] for k in (1, 2, 3)]
    torch.testing.assert_close(found, (4 * parts[0] + 2 * parts[1] + parts[2]) / 7)


def test_tiles_and_the_whole_image_agree_for_a_network_without_context() -> None:
    image = noise(1, 70, 101)
    np.testing.assert_allclose(only(task(tile=32, tile_overlap=0.5), image), only(task(), image), atol=1e-5)


def test_averaging_over_flips_brings_every_view_back() -> None:
    image = noise(1, 7, 10)
    np.testing.assert_allclose(only(task(flips=True), image), only(task(), image), atol=1e-6)


def test_enlarging_adds_to_the_logits_by_doublings_beyond_one_and_a_quarter() -> None:
    image = torch.full((1, 40, 60), -0.5)  # the same everywhere, so that bringing it to the source changes no value
    for source, octaves in (((40, 60), 0.0), ((32, 48), 0.0), ((16, 24), 1.0), ((8, 12), 2.0), ((80, 120), 0.0)):
        placement = Placement(source, (0, 0, *source), (40, 60))
        expected = torch.sigmoid(torch.tensor(-0.5 + 0.9 * octaves)).item()
        np.testing.assert_allclose(only(task(upscaling_logit=0.9), image, placement), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="exclude each other"):
        task(THREE, upscaling_logit=0.9)


def test_predicting_leaves_the_training_mode_as_it_was() -> None:
    trained = task().train()
    only(trained, noise(1, 7, 10))
    assert trained.training
    assert trained.network.training


def test_score_counts_inside_the_field_of_view_and_what_is_labelled() -> None:
    mask = torch.tensor([[1, 1, 0, 0, -1], [1, 0, 0, 0, 1]])
    probabilities = np.array([[[0.9, 0.1, 0.9, 0.1, 0.9], [0.9, 0.1, 0.1, 0.1, 0.9]]], dtype=np.float32)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 4] = False
    found = task().score(Prediction(probabilities), Target(mask=mask), Geometry((2, 5)), valid)
    assert {name: measure.value for name, measure in found.items()} == {
        "dice/vessel": pytest.approx(2 * 2 / (2 * 2 + 1 + 1)),
        "iou/vessel": pytest.approx(2 / 4),
        "tp/vessel": 2,
        "fp/vessel": 1,
        "fn/vessel": 1,
    }


def test_a_summary_has_the_mean_over_images_and_all_pixels_together() -> None:
    trained, images = task(), []
    for probabilities, mask in (([0.9, 0.9, 0.1], [1, 1, 0]), ([0.9, 0.1, 0.1], [0, 1, 1])):
        given = Prediction(np.array([[probabilities]], dtype=np.float32))
        images.append(trained.score(given, Target(mask=torch.tensor([mask])), Geometry((1, 3))))
    found = trained.summarise(images)
    assert found["dice/vessel"] == found["dice"] == pytest.approx((1 + 0) / 2)
    assert found["dice_pooled/vessel"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found["iou_pooled"] == pytest.approx(2 / 5)
    assert not [name for name in found if name.startswith(("tp", "fp", "fn"))]


def test_thresholds_are_found_for_each_independent_class_and_then_used() -> None:
    trained = task(CUP)
    mask = torch.zeros(4, 10, dtype=torch.int64)
    mask[:, :4], mask[:, :2] = 1, 3
    probabilities = np.full((2, 4, 10), 0.05, dtype=np.float32)
    probabilities[0, :, :4], probabilities[1, :, :2] = 0.3, 0.9
    given = Prediction(probabilities)
    trained.thresholds = trained.tune(lambda: iter([(given, Target(mask=mask), None)]))
    assert set(trained.thresholds) == {"disc", "cup"}
    assert 0.05 < trained.thresholds["disc"] <= 0.3
    np.testing.assert_array_equal(trained.layers(given), CUP.layers(mask.numpy()))
    assert task(THREE).tune(lambda: iter([])) == {}


@pytest.mark.parametrize(("losses", "sentence"), [({"dise": 1.0}, "did you mean 'dice'"), ({"dice": 0.0}, "above 0"), ({}, "at least 1")])
def test_a_wrong_loss_is_said(losses: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SemanticConfig(losses=losses)


NESTED = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0), inside="disc")), overlapping=True)


@pytest.mark.parametrize("label_map", [ONE, CUP, NESTED, THREE])
@pytest.mark.parametrize("flips", [False, True])
def test_counts_give_the_scores_of_predictions(label_map: LabelMap, flips: bool) -> None:
    """Of images with ignored pixels and a field of view, at thresholds that are not one half, one of them without any object."""
    ours = task(label_map, flips=flips)
    ours.thresholds = {name: 0.3 + 0.1 * place for place, name in enumerate(label_map.names)}
    images = [noise(4, 9, 12, seed=1), noise(4, 7, 5, seed=2)]
    most = 2 ** len(label_map) if label_map.overlapping else len(label_map) + 1
    masks = [torch.randint(-1, most, (9, 12), generator=torch.Generator().manual_seed(3)), torch.zeros(7, 5, dtype=torch.int64)]
    whole = batch(images, masks)
    whole.valid[0][:3] = False
    counts = ours.count(whole)
    assert counts is not None
    assert (counts.dtype, counts.shape) == (torch.int64, (2, len(label_map), 3))
    targets, sizes = whole.targets or (), [Geometry((9, 12)), Geometry((7, 5))]
    expected = [ours.score(*parts) for parts in zip(ours.predict(whole), targets, sizes, whole.valid, strict=True)]
    assert [ours.count_scores(numbers) for numbers in counts] == expected
    assert expected[0][f"tp/{label_map.names[0]}"].value


def test_what_stands_elsewhere_in_the_source_is_not_counted_here() -> None:
    placement = Placement(source=(20, 24), crop=(0, 0, 20, 24), resized=(10, 12))
    assert task().count(batch([noise(1, 10, 12)], [torch.zeros(10, 12, dtype=torch.int64)], [placement])) is None


def test_what_follows_the_trees_of_vessels_is_not_counted_pixel_by_pixel() -> None:
    here = batch([noise(2, 10, 12)], [torch.zeros(10, 12, dtype=torch.int64)])
    vessels = LabelMap((LabelClass(1, "a", (255, 0, 0), role="artery"), LabelClass(2, "v", (0, 0, 255), role="vein")), overlapping=True)
    assert task(vessels).count(here) is not None
    assert task(vessels, vessel_trees=True).count(here) is None
    with pytest.raises(ConfigError, match="role artery"):
        task(CUP, vessel_trees=True)


def test_a_task_that_cannot_predict_is_none() -> None:
    class Half(Task):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {}

    with pytest.raises(TypeError, match="predict"):
        Half()

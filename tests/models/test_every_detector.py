"""What every registered detector promises, asked of each of them. A new detector needs a small configuration below, and nothing else."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, DetectorConfig
from pipeline.tasks.detection import DetectionConfig, DetectionTask
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Target

SMALL_RCNN: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "fpn_channels": 16,
    "representation": 32,
    "score_threshold": 0.01,
    "roi_samples": 32,
    "rpn_before_nms": (100, 100),
    "rpn_after_nms": (50, 50),
    "anchors": {"sizes": ((8,), (16,), (32,), (64,), (128,))},
}
SMALL_SEARCH = {"side": 64, "min_size": 10, "scales": (25,), "colours": ("rgb",), "similarities": (("colour", "texture", "size", "fill"),)}
SMALL_FAST_RCNN: dict[str, Any] = {
    **{name: SMALL_RCNN[name] for name in ("backbone", "fpn_channels", "representation", "score_threshold", "roi_samples")},
    "proposals": SMALL_SEARCH,
}
SMALL_DETR = {"backbone": "mobilenet_v2", "width": 32, "heads": 4, "queries": 8, "decoder_layers": 2, "feedforward": 32}
# Small enough for one core (a step on two 64 x 96 images well under 0.1 s); each line is one configuration that is tested.
SMALL: dict[str, list[dict[str, Any]]] = {
    "mask_rcnn": [
        {**SMALL_RCNN, "mask_width": 16, "mask_layers": 1},
        {**SMALL_RCNN, "mask_width": 16, "mask_layers": 1, "heads": "v2"},
    ],
    "faster_rcnn": [{**SMALL_RCNN, "fpn_channels": 32}],
    "fast_rcnn": [SMALL_FAST_RCNN, {**SMALL_FAST_RCNN, "pooling": "pool"}],
    "rcnn": [{"backbone": "resnet18", "size": 32, "context": 2, "samples": 24, "chunk": 100, "proposals": SMALL_SEARCH}],
    "sliding_window": [{"sides": (20, 34), "ratios": (1.0,), "hidden": 32, "samples": 16}],
    "retinanet": [
        {"backbone": "resnet18", "width": 16, "head_layers": 1, "anchors": {"sizes": ((16,), (32,), (64,), (128,), (256,))}},
        {"backbone": "efficientnet_lite0", "width": 16, "head_layers": 2},
    ],
    "ssd": [
        {"variant": "vgg16", "width": 0.125, "anchors": (8, 12, 18, 27, 40, 60, 80)},
        {"variant": "lite", "width": 0.25, "anchors": (8, 12, 18, 27, 40, 60, 80)},
    ],
    "localiser": [{"backbone": "mobilenet_v2", "grid": 3, "width": 16, "hidden": 32, "dropout": 0.0}],
    "yolov3": [{"backbone": "mobilenet_v2", "neck": 64}],
    "detr": [
        {**SMALL_DETR, "encoder_layers": 1},
        {**SMALL_DETR, "encoder_layers": 0, "stride": 16, "points": False, "auxiliary": False, "dropout": 0.0},
    ],
}
# Learning rate of Adam for the one-batch test, where 1e-3 does not suit.
RATES: dict[str, float] = {
    "mask_rcnn": 5e-4,
    "fast_rcnn": 2e-3,
    "yolov3": 1e-2,
    "detr": 1e-2,
    "rcnn": 3e-4,
    "sliding_window": 4e-3,
}
# Trainable parameters that one batch need not reach: {name of the detector: {regular expression: why}}.
UNREACHED: dict[str, dict[str, str]] = {
    "fast_rcnn": {r"backbone\.fpn\.layer_blocks\.[1-3]\..*": "boxes of an image this small are all looked at on the finest level"},
    "detr": {r"net\.model\.decoder\.layers\.0\.self_attn.*": "queries begin at 0: in the first layer they have nothing to tell each other"},
}

# Steps on one batch after which the loss must have fallen, where twelve are more than are needed.
STEPS: dict[str, int] = {"rcnn": 6}

CLASSES, ROWS, COLUMNS = 2, 64, 96
DETECTORS = [entry.name for entry in MODELS if entry.config is not None and issubclass(entry.config, DetectorConfig)]
VARIANTS = [
    pytest.param(name, number, id=f"{name}-{number}") for name in SMALL if name in DETECTORS for number, _ in enumerate(SMALL[name])
]
# By module, so that all tests of one network follow each other, in one process that trains it once.
EVERY = pytest.mark.parametrize(("name", "number"), VARIANTS, scope="module")


def config_of(name: str, number: int) -> DetectorConfig:
    kind = MODELS[name].config
    assert kind is not None
    config = kind(name=name, **SMALL[name][number])  # type: ignore[call-arg]
    assert isinstance(config, DetectorConfig)
    return config


def network(name: str, number: int, in_channels: int = 3, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    net = MODELS[name].build(config_of(name, number), in_channels, CLASSES)
    assert isinstance(net, Detector)
    assert not net.compilable
    assert net.not_exportable
    return net


def image_of(target: Target, rows: int, columns: int, channels: int = 3, seed: int = 1) -> Tensor:
    """Faint noise with each object drawn as a rectangle whose brightness says its class."""
    image = 0.1 * torch.randn((channels, rows, columns), generator=torch.Generator().manual_seed(seed))
    assert target.boxes is not None
    assert target.labels is not None
    for (left, top, right, bottom), label in zip(target.boxes.int().tolist(), target.labels.tolist(), strict=True):
        image[:, top:bottom, left:right] += 2.0 if label == 1 else -2.0
    return image


def objects(*boxes: tuple[int, int, int, int, int], rows: int = ROWS, columns: int = COLUMNS) -> Target:
    """A target of (left, top, right, bottom, label)."""
    table = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 5)
    masks = torch.zeros(len(boxes), rows, columns, dtype=torch.bool)
    for mask, (left, top, right, bottom, _) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Target(boxes=table[:, :4].float(), labels=table[:, 4], instance_masks=masks)


TWO = (objects((6, 8, 38, 40, 1), (56, 20, 88, 56, 2)), objects((50, 4, 86, 36, 1), (10, 24, 26, 56, 2)))
EVERY_SIZE = (
    objects((4, 4, 12, 12, 1), (20, 4, 38, 22, 2), (50, 10, 90, 50, 1)),
    objects((4, 44, 16, 56, 2), (40, 2, 67, 29, 1), (18, 2, 78, 62, 2)),
)
NONE = objects()
IMAGES = [image_of(target, ROWS, COLUMNS, seed=seed) for seed, target in enumerate(TWO)]


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def train(net: Detector, steps: int, rate: float, targets: Sequence[Target] = TWO) -> list[float]:
    """The sum of the losses before each step on one batch."""
    net.train()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=rate)
    sums = []
    for _ in range(steps):
        loss = total(net(IMAGES, targets))
        sums.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
    return sums


@functools.cache
def trained(name: str, number: int) -> tuple[Detector, list[float]]:
    """A network after a few steps on one batch, in evaluation mode, and its losses. Whoever changes it copies it first."""
    net = network(name, number)
    sums = train(net, STEPS.get(name, 12), RATES.get(name, 1e-3))
    return net.eval(), sums


def check(found: Detections, rows: int, columns: int, has_masks: bool) -> None:
    count = len(found.boxes)
    assert [(tuple(value.shape), value.dtype) for value in (found.boxes, found.labels, found.scores)] == [
        ((count, 4), torch.float32),
        ((count,), torch.int64),
        ((count,), torch.float32),
    ]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([columns, rows, columns, rows])).all()
    assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
    assert ((found.labels >= 1) & (found.labels <= CLASSES)).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert (found.masks is not None) == has_masks
    if found.masks is not None:
        assert (found.masks.dtype, len(found.masks)) == (torch.float32, count)
        assert ((found.masks >= 0) & (found.masks <= 1)).all()


def task_of(net: Detector) -> DetectionTask:
    classes = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "lesion", (255, 0, 0))))
    return DetectionTask(DetectionConfig(score_threshold=0.0), net, classes).eval()


def a_batch(target: Target, placement: Placement | None = None) -> Batch:
    """The first image alone."""
    valid = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    return Batch([IMAGES[0]], [valid], [placement or Placement.identity(ROWS, COLUMNS)], [CaseKey("p", "R", "1", "i")], [target])


def assert_same(one: Detections, other: Detections) -> None:
    """The highest-scoring objects are the same but for rounding; which of two near ties comes first, or survives, is not asked."""
    torch.testing.assert_close(one.scores[:5], other.scores[:5], rtol=1e-2, atol=1e-4)
    for box, label, score in zip(one.boxes[:5], one.labels[:5], one.scores[:5], strict=True):
        near = ((other.boxes - box).abs().amax(1) < 0.05) & (other.labels == label) & ((other.scores - score).abs() < 1e-3)
        assert near.any()


def assert_identical(one: Detections, other: Detections) -> None:
    for field in ("boxes", "labels", "scores", "masks"):
        a, b = getattr(one, field), getattr(other, field)
        assert a is b is None or torch.equal(a, b), field


def test_every_registered_detector_is_tested_here() -> None:
    assert sorted(SMALL) == DETECTORS
    assert all(SMALL.values())


@functools.cache
def first_losses(name: str, number: int) -> dict[str, Tensor]:
    return network(name, number).train()(IMAGES, TWO)


@EVERY
def test_losses_are_named_finite_and_carry_gradients(name: str, number: int) -> None:
    losses = first_losses(name, number)
    assert losses
    for key, loss in losses.items():
        assert (loss.ndim, loss.requires_grad, bool(torch.isfinite(loss))) == (0, True, True), key
    assert total(losses) > 0


@EVERY
@pytest.mark.parametrize("targets", [(NONE, NONE), (NONE, TWO[1])], ids=["empty", "mixed"])
def test_images_without_objects_give_finite_losses_and_gradients(name: str, number: int, targets: tuple[Target, Target]) -> None:
    net = network(name, number).train()
    losses = net(IMAGES, targets)
    assert losses.keys() == first_losses(name, number).keys()
    total(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@EVERY
def test_the_loss_falls_on_one_batch(name: str, number: int) -> None:
    _, sums = trained(name, number)
    assert np.mean(sums[-3:]) < 0.6 * sums[0]


@EVERY
def test_gradients_reach_every_trainable_parameter(name: str, number: int) -> None:
    net = network(name, number).train()
    total(net(IMAGES, EVERY_SIZE)).backward()
    allowed = UNREACHED.get(name, {})
    without = [key for key, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [key for key in without if not any(re.fullmatch(pattern, key) for pattern in allowed)] == []


@EVERY
@pytest.mark.parametrize(("size", "channels"), [((37, 53), 1), ((64, 48), 3), ((131, 97), 4)])
def test_any_image_size_and_any_number_of_channels(name: str, number: int, size: tuple[int, int], channels: int) -> None:
    net = network(name, number, in_channels=channels)
    target = objects((4, 6, 30, 34, 1), rows=size[0], columns=size[1])
    image = image_of(target, *size, channels=channels)
    losses = net.train()([image], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())
    (found,) = net.eval().detect([image])
    check(found, *size, has_masks=net.has_masks)


@EVERY
def test_objects_are_found_inside_the_image_highest_scoring_first(name: str, number: int) -> None:
    net, _ = trained(name, number)
    for found in net.detect(IMAGES):
        check(found, ROWS, COLUMNS, net.has_masks)
        assert len(found.boxes) > 0


@EVERY
def test_an_image_alone_equals_the_same_image_in_a_batch(name: str, number: int) -> None:
    net, _ = trained(name, number)
    (alone,) = net.detect(IMAGES[:1])
    larger = torch.nn.functional.pad(IMAGES[1], (0, 40, 0, 70), value=3.0)
    same_size, mixed = net.detect(IMAGES), net.detect([larger, IMAGES[0]])
    assert_same(alone, same_size[0])
    assert_same(alone, mixed[1])
    check(mixed[0], ROWS + 70, COLUMNS + 40, net.has_masks)


@EVERY
def test_validation_losses_touch_no_statistics_and_no_random_state(name: str, number: int) -> None:
    net, _ = trained(name, number)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    results = []
    for _ in range(2):
        random_state = torch.get_rng_state()
        results.append(task_of(net).validation_losses(a_batch(TWO[0])))  # one image, even where training needs more
        assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert results[0]
    assert all(torch.isfinite(loss) for loss in results[0].values())
    assert results[0] == results[1]


@EVERY
def test_a_task_gives_boxes_in_the_source_frame(name: str, number: int) -> None:
    net, _ = trained(name, number)
    # 2/3 and 1/2 network pixels a source pixel; the crop begins 8 rows above the source and 20 columns inside it; a letterbox around.
    placement = Placement(source=(75, 150), crop=(-8, 20, 90, 160), resized=(60, 80), pad=(2, 10, 2, 6))
    (prediction,) = task_of(net).predict(a_batch(TWO[0], placement))
    (found,) = net.detect(IMAGES[:1])
    left, top, right, bottom = found.boxes.double().unbind(1)
    expected = torch.stack([(left - 10) * 2 + 20, (top - 2) * 1.5 - 8, (right - 10) * 2 + 20, (bottom - 2) * 1.5 - 8], dim=1)
    expected = expected.clamp(min=0).minimum(torch.tensor([150.0, 75.0, 150.0, 75.0], dtype=torch.float64))
    inside = (expected[:, 2:] - expected[:, :2]).amin(1) > 1e-3
    assert prediction.boxes is not None
    assert inside.any()
    np.testing.assert_allclose(prediction.boxes, expected[inside].numpy()[:100], atol=1e-3)
    assert (prediction.instance_masks is not None) == net.has_masks
    if prediction.instance_masks is not None:
        assert prediction.instance_masks.shape == (len(prediction.boxes), 75, 150)


@EVERY
def test_saved_and_loaded_it_finds_to_the_bit_the_same(name: str, number: int, tmp_path: Path) -> None:
    net, _ = trained(name, number)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "weights.safetensors")
    other = network(name, number, seed=9).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    for one, another in zip(net.detect(IMAGES), other.detect(IMAGES), strict=True):
        assert len(one.boxes) > 0
        assert_identical(one, another)


@EVERY
def test_one_seed_gives_one_training(name: str, number: int) -> None:
    def after_two_steps() -> dict[str, Tensor]:
        net = network(name, number)
        train(net, 2, 1e-3)
        return net.state_dict()

    one, other = after_two_steps(), after_two_steps()
    assert all(torch.equal(one[key], other[key]) for key in one)


@EVERY
def test_memory_format_is_kept_and_changes_nothing_but_speed(name: str, number: int) -> None:
    net, _ = trained(name, number)
    other = network(name, number, seed=9).eval()
    other.load_state_dict(net.state_dict())
    other.to(memory_format=torch.channels_last)
    assert_same(net.detect(IMAGES[:1])[0], other.detect(IMAGES[:1])[0])
    assert torch.isfinite(total(other.train()(IMAGES, TWO)))


@EVERY
@pytest.mark.parametrize("count", [0, 1, 40])
def test_settings_fitted_to_the_data_are_settings_that_build(name: str, number: int, count: int) -> None:
    config = config_of(name, number)
    sizes = np.random.default_rng(1).uniform(4, 60, (count, 2)).astype(np.float32)
    fitted = config.with_fitted_anchors(sizes)
    # Limits of objects are not the model's to keep: the task says them (with_limits).
    assert type(fitted)(**fitted.model_dump(mode="json")).model_dump() == fitted.model_dump()
    assert fitted.with_fitted_anchors(sizes) == fitted
    net = MODELS[name].build(fitted, 3, CLASSES)
    assert torch.isfinite(total(net.train()(IMAGES, TWO)))

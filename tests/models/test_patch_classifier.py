"""The sliding window: each logit is one patch's, prediction asks a grid, training random centres."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from pipeline.models.patch_classifier import PatchClassifier, PatchClassifierConfig, last_side
from pipeline.tasks.semantic import SemanticConfig, SemanticTask
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Target

SMALL: dict[str, Any] = {"window": 17, "widths": (6, 8), "hidden": 12}


def tiny(seed: int = 0, **settings: Any) -> PatchClassifier:
    torch.manual_seed(seed)
    return PatchClassifier(PatchClassifierConfig(**{**SMALL, **settings}), 3, 2)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_one_pixel(net: PatchClassifier, image: Tensor, row: int, column: int) -> Tensor:
    """Logits (K) of the patch around one pixel of (1, C, H, W), cut out by hand."""
    radius = net.config.window // 2
    around = functional.pad(image, (radius,) * 4, mode="replicate")
    patch: Tensor = net.classifier(around[:, :, row : row + net.config.window, column : column + net.config.window])[0]
    return patch


def test_at_stride_one_each_pixel_has_its_own_patchs_logits() -> None:
    net, image = tiny(stride=1).eval(), noise(1, 3, 11, 14)
    with torch.no_grad():
        logits = net(image)
        assert logits.shape == (1, 2, 11, 14)
        for row, column in ((0, 0), (5, 7), (10, 13), (3, 12)):
            torch.testing.assert_close(logits[0, :, row, column], of_one_pixel(net, image, row, column), rtol=1e-4, atol=1e-5)


def test_between_the_asked_pixels_the_nearest_answers_or_a_mean_of_them() -> None:
    image = noise(1, 3, 13, 16)  # five by six answers at stride 3; the last row and column of them reach past the image
    with torch.no_grad():
        blocks, smooth = tiny(stride=3, enlargement="nearest").eval(), tiny(stride=3).eval()
        asked = torch.stack([torch.stack([of_one_pixel(blocks, image, r, c) for c in range(1, 14, 3)]) for r in range(1, 12, 3)])
        nearest, bilinear = blocks(image)[0], smooth(image)[0]
        for row in range(12):
            for column in range(15):
                torch.testing.assert_close(nearest[:, row, column], asked[row // 3, column // 3], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bilinear[:, 1:11:3, 1:14:3], asked.permute(2, 0, 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bilinear[:, 4, 5], (2 * asked[1, 1] + asked[1, 2]) / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_chunks_change_the_memory_and_nothing_else(chunk: int) -> None:
    images = noise(2, 3, 20, 28)
    net, sizes = tiny(stride=2, chunk=chunk).eval(), []
    net.classifier.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        logits = net(images)
        torch.testing.assert_close(logits, tiny(stride=2).eval()(images), rtol=1e-4, atol=1e-5)
    assert sum(sizes) == 2 * 10 * 14
    assert max(sizes) <= max(chunk, 2 * 14)  # at least one row of answers at a time


def a_batch(mask: Tensor) -> Batch:
    rows, columns = mask.shape
    return Batch(
        images=[noise(3, rows, columns)],
        valid=[torch.ones(rows, columns, dtype=torch.bool)],
        placements=[Placement.identity(rows, columns)],
        cases=[CaseKey("p", "R", "1", "i")],
        targets=[Target(mask=mask)],
    )


def test_in_training_only_the_drawn_centres_have_logits_and_a_loss() -> None:
    net = tiny(centres=37).train()
    image = noise(1, 3, 21, 26)
    logits = net(image)
    assert net.loss_mask is not None
    seen = net.loss_mask[0, 0]
    assert int(seen.sum()) == 37
    assert not logits[0, :, ~seen].any()
    row, column = seen.nonzero()[5].tolist()
    torch.testing.assert_close(logits[0, :, row, column], of_one_pixel(net, image, row, column), rtol=1e-4, atol=1e-5)
    assert not torch.equal(net(image), logits)  # others the next time

    classes = LabelMap((LabelClass(1, "disc", (0, 255, 0)), LabelClass(2, "cup", (255, 0, 0))), overlapping=True)
    task = SemanticTask(SemanticConfig(losses={"cross_entropy": 1.0}), net, classes).train()
    mask = torch.zeros(21, 26, dtype=torch.int64)
    mask[5:15, 8:20] = 3
    torch.manual_seed(4)
    loss = task(a_batch(mask))["cross_entropy"]
    seen = net.loss_mask[0, 0]
    torch.manual_seed(4)
    logits = net(noise(3, 21, 26)[None])
    truth = (mask > 0).float().expand(2, -1, -1)
    torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(logits[0][:, seen], truth[:, seen]))


def test_a_small_crop_is_looked_at_everywhere_and_prediction_forgets_the_centres() -> None:
    net = tiny(centres=10_000).train()
    net(noise(2, 3, 9, 12))
    assert net.loss_mask is not None
    assert net.loss_mask.all()
    net.eval()(noise(1, 3, 9, 12))
    assert net.loss_mask is None


@pytest.mark.parametrize(("window", "sides"), [(17, [7, 2, 0]), (33, [15, 6, 2]), (65, [31, 14, 6, 2])])
def test_what_is_left_of_a_window(window: int, sides: list[int]) -> None:
    assert [last_side(window, number + 1) for number in range(len(sides))] == sides


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 16}, "window 16 must be odd"),
        ({"widths": (4, 4, 4)}, "too small for 3 convolutions"),
        ({"widths": (4, 0)}, "must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PatchClassifierConfig(**{**SMALL, **settings})

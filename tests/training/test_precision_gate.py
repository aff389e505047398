"""A bundle predicts in bfloat16 only where that finds the pixels of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.models.base import Network
from pipeline.tasks.semantic import SemanticConfig, SemanticTask
from pipeline.training.precision_gate import gated_precision
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Prediction

VESSEL = LabelMap((LabelClass(1, "vessel", (255, 0, 0)),))
ROWS, COLUMNS = 37, 53


class Steps(Network):
    """Logits of a linear map; ``gain`` and ``shift`` say how far they lie from the threshold."""

    def __init__(self, gain: float, shift: float) -> None:
        super().__init__()
        self.map = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.map.weight, gain)
        nn.init.constant_(self.map.bias, shift)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.map(x)
        return out


def batches(image: Tensor) -> list[Batch]:
    return [
        Batch([image], [torch.ones(ROWS, COLUMNS, dtype=torch.bool)], [Placement.identity(ROWS, COLUMNS)], [CaseKey("p", "R", "v", "i")])
    ]


def task(gain: float, shift: float) -> SemanticTask:
    return SemanticTask(SemanticConfig(), Steps(gain, shift), VESSEL)


def test_pixels_far_from_the_threshold_are_the_same() -> None:
    own, image = task(8.0, 0.0), torch.where(torch.rand(1, ROWS, COLUMNS) < 0.5, 1.0, -1.0)
    assert gated_precision(own, batches(image), "bfloat16") == "bfloat16"
    assert own.precision == "float32"


def test_pixels_at_the_threshold_are_not() -> None:
    image = 1 + torch.rand(1, ROWS, COLUMNS) * 1e-3  # bfloat16 keeps no digit of what tells them apart
    assert gated_precision(task(1.0, -1.0005), batches(image), "bfloat16") == "float32"


def test_a_network_that_finds_boxes_is_asked_once() -> None:
    asked = []

    class Boxes(SemanticTask):
        def predict(self, batch: Batch) -> list[Prediction]:
            asked.append(self.precision)
            return [Prediction(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), scores=np.zeros(0, np.float32))]

    own = Boxes(SemanticConfig(), Steps(8.0, 0.0), VESSEL)
    assert gated_precision(own, batches(torch.zeros(1, ROWS, COLUMNS)) * 3, "bfloat16") == "float32"
    assert asked == ["float32"]


def test_without_images_nothing_is_known() -> None:
    assert gated_precision(task(8.0, 0.0), [], "bfloat16") == "float32"


def test_float32_needs_no_comparison() -> None:
    def unused() -> list[Batch]:
        pytest.fail("asked for images")

    assert gated_precision(task(8.0, 0.0), (batch for batch in [1] if unused()), "float32") == "float32"  # type: ignore[misc]

"""The runs that are written for a GPU (configs/idrid_full_size.yaml): each real network takes one training step and predicts by tiles.

Everything is as the study file says but for the crop and the tile, which are of ``SIDE`` pixels here instead of 1,000 so that two cores
need seconds, one image a step, and random weights instead of ImageNet's. OCUSEG_FULL_SIDE=1000 takes the step on whole crops: up to
5 GiB and, on one core, 10 (DETR) to 24 (SSD) seconds a network.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bundles.bundle import build_task
from pipeline.cards.card import load_card
from pipeline.config import RunConfig, load_config, run_files
from pipeline.tasks.base import Task
from pipeline.training.optimise import make_optimizer
from pipeline.types import Batch, CaseKey, Placement, Target

STUDY = Path(__file__).resolve().parents[2] / "configs" / "idrid_full_size.yaml"
SIDE = int(os.environ.get("OCUSEG_FULL_SIDE", "160"))
# Millions of parameters for three classes. As published for COCO's 80 or 90: DETR 41, Faster R-CNN 41.8, Mask R-CNN 44.4, RetinaNet
# 34.0, SSD300 35.6 and YOLOv3 61.9; what is missing are the last layers' further classes.
PARAMETERS = {"detr": 41.56, "faster_rcnn": 41.36, "mask_rcnn": 43.99, "retinanet": 32.25, "ssd": 24.01, "yolov3": 61.53}


def as_written(name: str) -> RunConfig:
    """The run's config, with crop and tile of ``SIDE`` pixels, anchors from its data's kind of boxes, and no weights."""
    config = load_config(STUDY / name)
    assert config.data.crop == (1000, 1000)
    assert config.task.tile == (1000, 1000)  # type: ignore[attr-defined]
    sizes = np.random.default_rng(0).uniform(8, 120, (60, 2)).astype(np.float32)
    model = config.model.model_copy(update={"weights": "none"}).with_fitted_anchors(sizes)  # type: ignore[attr-defined]
    return config.model_copy(update={"model": model, "task": config.task.model_copy(update={"tile": (SIDE, SIDE)})})


def a_batch(rows: int, columns: int) -> Batch:
    """A grey picture of two bright rectangles, a disc and a lesion."""
    boxes = torch.tensor([[20.0, 30.0, 90.0, 104.0], [100.0, 60.0, 118.0, 82.0]])
    image = 0.1 * torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, rows, columns, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
        image[:, top:bottom, left:right] += 1
    target = Target(boxes=boxes, labels=torch.tensor([1, 3]), instance_masks=masks)
    valid, placement = torch.ones(rows, columns, dtype=torch.bool), Placement.identity(rows, columns)
    return Batch([image], [valid], [placement], [CaseKey("p", "R", "1", "i")], [target])


def one_step(task: Task, config: RunConfig) -> dict[str, float]:
    """Forward, backward and the optimiser's step on one crop; the losses before it."""
    optimizer = make_optimizer(task, config.train)
    losses = task.train()(a_batch(SIDE, SIDE))
    torch.stack(list(losses.values())).sum().backward()
    assert config.train.clip_norm is not None
    assert torch.isfinite(torch.nn.utils.clip_grad_norm_(task.parameters(), config.train.clip_norm))
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def test_every_run_of_the_study_is_tested_here() -> None:
    assert [path.name for path in run_files(STUDY)] == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_network_as_written_takes_a_step_and_predicts_by_tiles(name: str) -> None:
    config = as_written(name)
    torch.manual_seed(config.seed)
    task = build_task(config, 3, load_card(config.data.card).label_map)
    assert sum(p.numel() for p in task.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], rel=0.001)
    before = {key: p.detach().sum().item() for key, p in task.named_parameters()}
    losses = one_step(task, config)
    assert losses
    assert all(np.isfinite(loss) for loss in losses.values())
    moved = [key for key, p in task.named_parameters() if p.detach().sum().item() != before[key]]
    assert len(moved) > 0.7 * len(before)  # SSD's coarse levels have no object to look at
    (prediction,) = task.predict(a_batch(SIDE, SIDE + SIDE // 2))
    assert prediction.boxes is not None
    assert prediction.scores is not None
    assert np.isfinite(prediction.boxes).all()
    assert (prediction.boxes >= 0).all()
    assert (prediction.boxes <= [SIDE + SIDE // 2, SIDE] * 2).all()
    assert (prediction.instance_masks is not None) == (name == "mask_rcnn")

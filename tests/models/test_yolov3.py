"""YOLOv3: its size as published, its box arithmetic, assignment, and its losses in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.ops import box_iou

from pipeline.errors import ConfigError
from pipeline.models.darknet import Darknet53
from pipeline.models.yolo_loss import Places, assign, decode, encode, places_of, size_iou, yolo_losses
from pipeline.models.yolov3 import COCO, YoloV3, YoloV3Config, build
from pipeline.types import Target

STRIDES = (8, 16, 32)
ANCHORS = torch.tensor(COCO, dtype=torch.float32).reshape(3, 3, 2)
LIGHT = {"backbone": "mobilenet_v2", "neck": 32}


def places(rows: int = 352, columns: int = 544) -> Places:
    return places_of([(rows // stride, columns // stride) for stride in STRIDES], STRIDES, ANCHORS)


def number_of(scale: int, anchor: int, row: int, column: int, rows: int = 352, columns: int = 544) -> int:
    """The number of an output, counted by hand."""
    before = sum(3 * (rows // stride) * (columns // stride) for stride in STRIDES[:scale])
    return before + (anchor * (rows // STRIDES[scale]) + row) * (columns // STRIDES[scale]) + column


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def blank(where: Places, classes: int = 2, level: float = -20.0) -> Tensor:
    """Raw outputs of one image that say, beyond doubt, that there is nothing."""
    raw = torch.zeros(1, len(where.cell), 5 + classes)
    raw[..., 4] = level
    return raw


def losses(raw: Tensor, where: Places, target: Target, also_above: float | None = None, box_loss: str = "squared") -> dict[str, float]:
    found = yolo_losses(raw, where, ANCHORS, [target], ignore_above=0.5, also_above=also_above, box_loss=box_loss)  # type: ignore[arg-type]
    return {name: loss.item() for name, loss in found.items()}


def test_parameters_are_as_published() -> None:
    net = build(YoloV3Config(), 3, 80)
    assert parameters(net) == 61_949_149
    assert parameters(net.encoder) == 40_584_928
    kernels = [m for m in net.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels) == 52  # and the classifier's layer makes 53


@pytest.mark.parametrize("backbone", ["darknet53", "mobilenet_v2", "resnet18"])
def test_outputs_are_three_anchors_a_cell_at_three_scales(backbone: str) -> None:
    config = YoloV3Config(backbone=backbone, neck=32)
    encoder = Darknet53(1, blocks=(1, 1, 1, 1, 1), width=2) if backbone == "darknet53" else build(config, 1, 4).encoder
    net = YoloV3(config, encoder, 4).eval()
    with torch.no_grad():
        assert [tuple(o.shape) for o in net.raw(torch.zeros(1, 1, 416, 416))] == [(1, 3, n, n, 9) for n in (52, 26, 13)]
        wide = [tuple(o.shape[1:]) for o in net.raw(torch.zeros(1, 1, 352, 544))]  # 528 columns, padded
    assert wide == [(3, 44, 68, 9), (3, 22, 34, 9), (3, 11, 17, 9)]


def test_features_of_darknet_halve_and_double() -> None:
    net = Darknet53(3, blocks=(1, 1, 1, 1, 1), width=2)
    shapes = [tuple(feature.shape[1:]) for feature in net(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]
    assert net.widths == (8, 16, 32, 64)


def test_outputs_are_numbered_by_scale_anchor_row_and_column() -> None:
    where = places()
    assert len(where.cell) == 3 * (44 * 68 + 22 * 34 + 11 * 17)
    number = number_of(1, 2, 5, 30)
    assert (where.cell[number].tolist(), where.stride[number].item(), where.anchor[number].tolist()) == ([30, 5], 16, [59, 119])
    scales = [torch.zeros(1, 3, 352 // s, 544 // s, 7) for s in STRIDES]
    scales[1][0, 2, 5, 30] = 1
    assert torch.cat([scale.flatten(1, 3) for scale in scales], 1)[0, number].tolist() == [1] * 7


def test_a_box_is_decoded_from_its_cell_and_anchor() -> None:
    where, raw = places(), torch.zeros(3 * (44 * 68 + 22 * 34 + 11 * 17), 4)
    number = number_of(2, 0, 3, 7)  # anchor 116 x 90
    raw[number] = torch.tensor([0.0, math.log(3), math.log(0.5), 0.0])  # sigmoid: 1/2 and 3/4
    left, top, right, bottom = decode(raw, where)[number].tolist()
    assert ((left + right) / 2, (top + bottom) / 2) == (pytest.approx(7.5 * 32), pytest.approx(3.75 * 32))
    assert (right - left, bottom - top) == (pytest.approx(58), pytest.approx(90))


def test_encode_is_the_inverse_of_decode() -> None:
    where = places()
    raw = torch.randn(len(where.cell), 4, generator=torch.Generator().manual_seed(0))
    boxes = decode(raw.double(), where)
    torch.testing.assert_close(encode(boxes, where), raw.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(decode(encode(boxes, where), where), boxes, rtol=1e-6, atol=1e-6)


def test_widths_and_heights_overlap_in_closed_form() -> None:
    shown = size_iou(torch.tensor([[10.0, 20.0]]), torch.tensor([[10.0, 20.0], [20.0, 10.0], [5.0, 20.0]]))
    torch.testing.assert_close(shown, torch.tensor([[1.0, 100 / 300, 0.5]]))


def test_an_object_is_assigned_the_best_anchor_in_the_cell_of_its_centre() -> None:
    box = torch.tensor([[200.0, 100.0, 260.0, 219.0]])  # 60 x 119 around (230, 159.5): anchor 59 x 119, the third of stride 16
    _, outputs, objects = assign([box], places(), ANCHORS, None)
    assert (outputs.tolist(), objects.tolist()) == ([number_of(1, 2, 159 // 16, 230 // 16)], [0])


def test_objects_in_one_place_all_get_an_anchor() -> None:
    box = torch.tensor([200.0, 100.0, 260.0, 219.0])
    _, outputs, objects = assign([torch.stack([box] * 9)], places(), ANCHORS, None)
    assert len(set(outputs.tolist())) == 9
    assert sorted(objects.tolist()) == list(range(9))
    assert outputs[0] == number_of(1, 2, 9, 14)
    cells = {(int(x), int(y), int(s)) for (x, y), s in zip(places().cell[outputs], places().stride[outputs, 0], strict=True)}
    assert cells == {(28, 19, 8), (14, 9, 16), (7, 4, 32)}  # the same centre on each scale
    assert len(assign([torch.stack([box] * 10)], places(), ANCHORS, None)[0]) == 9  # there is no tenth anchor


def test_further_anchors_are_assigned_only_where_their_iou_is_high_enough_and_they_are_free() -> None:
    boxes = torch.tensor([[200.0, 100.0, 260.0, 219.0], [100.0, 100.0, 110.0, 120.0]])
    near = (size_iou(boxes[:, 2:] - boxes[:, :2], ANCHORS.reshape(-1, 2)) > 0.3).sum(1).tolist()
    _, outputs, objects = assign([boxes], places(), ANCHORS, 0.3)
    assert [objects.tolist().count(number) for number in (0, 1)] == near
    assert min(near) > 1
    assert len(set(outputs.tolist())) == sum(near)
    rivals = assign([boxes[[0, 0]]], places(), ANCHORS, 0.3)[2].tolist()
    assert rivals[:2] == [0, 1]  # the second's own is never taken by the first's further ones
    assert len(rivals) == near[0]


def test_a_centre_on_the_images_edge_belongs_to_the_last_cell() -> None:
    _, outputs, _ = assign([torch.tensor([[540.0, 348.0, 548.0, 356.0]])], places(), ANCHORS, None)
    assert outputs.tolist() == [number_of(0, 0, 43, 67)]


def test_losses_of_one_cell_in_closed_form() -> None:
    where = places()
    number = number_of(0, 1, 20, 31)  # anchor 16 x 30
    raw = blank(where)
    raw[0, number] = torch.tensor([0.3, -0.2, 0.1, 0.4, 1.0, 0.5, -1.5])
    centre = (31.5 * 8, 20.25 * 8)
    box = torch.tensor([[centre[0] - 10, centre[1] - 15, centre[0] + 10, centre[1] + 15]])  # 20 x 30
    found = losses(raw, where, Target(boxes=box, labels=torch.tensor([2])))

    def soft(x: float) -> float:
        return math.log1p(math.exp(x))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert found["objectness"] == pytest.approx(soft(-1.0), rel=1e-4)
    assert found["class"] == pytest.approx(soft(0.5) + soft(1.5), rel=1e-5)  # not the first, but the second
    squares = [(sigmoid(0.3) - 0.5) ** 2, (sigmoid(-0.2) - 0.25) ** 2, (0.1 - math.log(20 / 16)) ** 2, 0.4**2]
    assert found["box"] == pytest.approx(sum(squares), rel=1e-5)


def test_complete_iou_in_closed_form() -> None:
    where = places()
    raw = blank(where)
    raw[0, number_of(0, 1, 20, 31), :4] = torch.tensor([0.0, 0.0, 0.0, 0.0])  # 16 x 30 around (252, 164)
    target = Target(boxes=torch.tensor([[248.0, 149.0, 264.0, 179.0]]), labels=torch.tensor([1]))  # the same, four to the right
    overlap, distance = 12 / 20, 4**2 / (20**2 + 30**2)
    assert losses(raw, where, target, box_loss="ciou")["box"] == pytest.approx(1 - overlap + distance, rel=1e-5)


def test_outputs_that_overlap_an_object_but_are_not_assigned_learn_nothing() -> None:
    where = places()
    target = Target(boxes=torch.tensor([[244.0, 149.0, 260.0, 179.0]]), labels=torch.tensor([1]))
    raw = blank(where)
    raw[0, number_of(0, 1, 20, 31), 4] = 20
    alone = losses(raw, where, target)["objectness"]
    raw[0, number_of(0, 1, 20, 32), 4] = 3  # eight pixels aside: IoU 1/3, so it is wrong
    assert losses(raw, where, target)["objectness"] == pytest.approx(alone + math.log1p(math.exp(3)), rel=1e-4)
    raw[0, number_of(0, 1, 20, 32), 0] = -20  # drawn within four pixels: IoU .6, so it is left alone
    assert losses(raw, where, target)["objectness"] == pytest.approx(alone, abs=1e-4)


def test_an_image_without_objects_teaches_objectness_alone() -> None:
    where = places()
    found = losses(blank(where, level=0.0), where, Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)))
    assert found["objectness"] == pytest.approx(len(where.cell) * math.log(2), rel=1e-4)
    assert (found["class"], found["box"]) == (0, 0)


def test_a_small_network_learns_one_batch_and_finds_its_objects() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[16.0, 12.0, 52.0, 44.0], [70.0, 30.0, 90.0, 58.0]])
    image = torch.zeros(3, 64, 100)
    image[0, 12:44, 16:52], image[1, 30:58, 70:90] = 2.0, 2.0
    image, target = image + 0.1 * torch.randn(3, 64, 100), Target(boxes=boxes, labels=torch.tensor([1, 2]))
    config = YoloV3Config(neck=32, anchors=((8, 8), (12, 12), (16, 16), (20, 28), (24, 24), (28, 20), (36, 32), (40, 40), (48, 48)))
    net = YoloV3(config, Darknet53(3, blocks=(1, 1, 1, 1, 1), width=8), 2).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    sums = []
    for _ in range(60):
        loss = torch.stack(list(net([image, image], [target, target]).values())).sum()
        sums.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sums[-1] < 0.1 * sums[0]
    with torch.no_grad():
        for _ in range(20):  # the running statistics follow the weights
            net([image, image], [target, target])
    (found,) = net.eval().detect([image])
    assert found.labels[:2].sort().values.tolist() == [1, 2]
    assert found.scores[1] > 0.5
    assert box_iou(found.boxes[:2][found.labels[:2].argsort()], boxes).diagonal().min() > 0.7
    assert (found.scores[2:] < 0.3).all()


def test_a_score_is_objectness_times_class_and_unlikely_boxes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(YoloV3Config(**LIGHT, score_threshold=0.3), 1, 2).eval()
    scales = [torch.full((1, 3, 64 // stride, 96 // stride, 7), -20.0) for stride in STRIDES]
    scales[0][0, 1, 2, 3] = torch.tensor([0.0, 0.0, 0.0, 0.0, math.log(9), math.log(4), -math.log(4)])  # 0.9 * (0.8, 0.2)
    monkeypatch.setattr(net, "raw", lambda images: scales)
    (found,) = net.detect([torch.zeros(1, 64, 96)])
    torch.testing.assert_close(found.boxes, torch.tensor([[28.0 - 8, 20 - 15, 28 + 8, 20 + 15]]))  # anchor 16 x 30
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.scores, torch.tensor([0.72]))


def test_anchors_come_from_the_data_smallest_first_for_the_finest_scale() -> None:
    shapes = np.array([(8 * k, 6 * k) for k in range(1, 10)], np.float32)
    config = YoloV3Config(**LIGHT).with_fitted_anchors(np.repeat(shapes, 5, axis=0))
    assert config.anchors == tuple((8.0 * k, 6.0 * k) for k in range(1, 10))
    net = YoloV3(config, build(config, 1, 1).encoder, 1)
    assert net.anchors.tolist() == np.reshape(config.anchors, (3, 3, 2)).tolist()
    assert config.with_fitted_anchors(shapes + 1) is config  # what is given stays
    assert YoloV3Config().with_fitted_anchors(np.zeros((0, 2), np.float32)).anchors is None
    assert build(YoloV3Config(**LIGHT), 1, 1).anchors.reshape(9, 2).tolist() == [list(map(float, pair)) for pair in COCO]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs 9 anchors"):
        YoloV3Config(anchors=((1, 2), (3, 4)))
    with pytest.raises(ConfigError, match="no ImageNet weights v1 of 'darknet53'"):
        Darknet53(3, blocks=(1, 1, 1, 1, 1), width=2).load("imagenet")

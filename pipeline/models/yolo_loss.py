"""How YOLOv3 encodes boxes, which of its outputs are assigned to which object, and the losses.

Paper: Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767, sections 2.1 to 2.3. As in the paper: box = cell
corner + sigmoid(t_xy) cells, anchor * exp(t_wh); one anchor is assigned to an object; other outputs that overlap an object by more
than .5 have no objectness loss; classes are independent (sigmoid). What differs, each in its place below: the box loss may be complete
IoU (Zheng et al., "Distance-IoU Loss", AAAI 2020, arXiv:1911.08287); more than one anchor may be assigned to an object; objects whose
best anchor is the same one all get an anchor; sums are divided by the number of assigned outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.detector import boxes_and_labels
from pipeline.types import Target

BoxLoss = Literal["ciou", "squared"]
LARGEST = 8.0  # of t_wh: anchors grow to 3,000 times their size at most, so that no exponential overflows


@dataclass(frozen=True, eq=False)
class Places:
    """Where each of a picture's N outputs stands: ``cell`` float32 (N, 2) column and row, ``stride`` (N, 1), ``anchor`` (N, 2) w, h.

    Outputs are numbered scale by scale, finest first, in each by anchor, row and column: ``offsets`` is each scale's first number
    and ``grids`` its (rows, columns).
    """

    cell: Tensor
    stride: Tensor
    anchor: Tensor
    offsets: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


def places_of(grids: Sequence[tuple[int, int]], strides: Sequence[int], anchors: Tensor) -> Places:
    """Places of scales with (rows, columns) ``grids``; ``anchors`` float32 (scales, anchors, 2), width and height in pixels."""
    cells, steps, sizes, offsets = [], [], [], [0]
    for (rows, columns), stride, of_scale in zip(grids, strides, anchors, strict=True):
        row, column = torch.meshgrid(torch.arange(rows, device=anchors.device), torch.arange(columns, device=anchors.device), indexing="ij")
        cell = torch.stack([column, row], -1).reshape(1, -1, 2).expand(len(of_scale), -1, -1)
        cells.append(cell.reshape(-1, 2).float())
        steps.append(anchors.new_full((cell.shape[0] * cell.shape[1], 1), float(stride)))
        sizes.append(of_scale[:, None].expand(-1, rows * columns, -1).reshape(-1, 2))
        offsets.append(offsets[-1] + len(sizes[-1]))
    return Places(torch.cat(cells), torch.cat(steps), torch.cat(sizes), tuple(offsets[:-1]), tuple(grids), tuple(strides))


def decode(raw: Tensor, places: Places) -> Tensor:
    """Raw t_x, t_y, t_w, t_h (..., N, 4) -> boxes (..., N, 4) xyxy in pixels."""
    centre = (places.cell + raw[..., :2].sigmoid()) * places.stride
    half = places.anchor * raw[..., 2:4].clamp(max=LARGEST).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode(boxes: Tensor, places: Places) -> Tensor:
    """The inverse: boxes (N, 4) xyxy, one a place and centred in its cell -> raw t_x, t_y, t_w, t_h (N, 4)."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    within = (centre / places.stride - places.cell).clamp(1e-6, 1 - 1e-6)  # exactly on the edge a sigmoid would need infinity
    return torch.cat([within.logit(), (size / places.anchor).log()], dim=-1)


def at(places: Places, numbers: Tensor) -> Places:
    """Only the places with those numbers int64 (P)."""
    return Places(places.cell[numbers], places.stride[numbers], places.anchor[numbers], places.offsets, places.grids, places.strides)


def assign(objects: Sequence[Tensor], places: Places, anchors: Tensor, also_above: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs assigned to a batch's objects (each picture's boxes (T, 4)): int64 (P) indices of pictures, outputs and objects; objects
    are numbered through all pictures.

    Each object gets the anchor, of all scales, with the highest IoU of width and height, in the cell of its centre; where that anchor
    is already assigned to an earlier object, the next best free one (in the paper's code the later object replaces the earlier).
    Then every free anchor whose IoU exceeds ``also_above`` is assigned to it as well; the paper has none of these (None).
    Values are copied from the device once for all pictures.
    """
    boxes = torch.cat(list(objects))
    shapes = anchors.reshape(-1, 2)
    overlaps = size_iou(boxes[:, 2:] - boxes[:, :2], shapes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    numbers = []
    for offset, (rows, columns), stride, of_scale in zip(places.offsets, places.grids, places.strides, anchors, strict=True):
        column, row = (centre / stride).long().unbind(1)
        cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        numbers += [offset + anchor * rows * columns + cell for anchor in range(len(of_scale))]
    number, overlap = torch.stack([torch.stack(numbers, 1).double(), overlaps.double()]).cpu()
    ranked = overlap.argsort(dim=1, descending=True, stable=True)
    found: list[tuple[int, int, int]] = []
    first = 0
    for image, own in enumerate(objects):
        part = slice(first, first + len(own))
        assigned = _assigned(number[part].long().tolist(), overlap[part].tolist(), ranked[part].tolist(), also_above)
        found += [(image, output, first + truth) for output, truth in assigned.items()]
        first += len(own)
    images, outputs, truths = torch.tensor(found, dtype=torch.int64).reshape(-1, 3).to(boxes.device, non_blocking=True).unbind(1)
    return images, outputs, truths


def _assigned(numbers: list[list[int]], overlap: list[list[float]], ranked: list[list[int]], also_above: float | None) -> dict[int, int]:
    """Output -> object of one picture. Rows are objects, columns anchors: the outputs' numbers, their IoU, their order by it."""
    assigned: dict[int, int] = {}
    for truth, order in enumerate(ranked):
        free = [anchor for anchor in order if numbers[truth][anchor] not in assigned]
        if free:
            assigned[numbers[truth][free[0]]] = truth
    if also_above is not None:
        for truth, order in enumerate(ranked):
            for anchor in order:
                if overlap[truth][anchor] > also_above:
                    assigned.setdefault(numbers[truth][anchor], truth)
    return assigned


def size_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of widths and heights (T, 2) and (A, 2) laid on one centre -> (T, A)."""
    shared = torch.minimum(sizes[:, None], anchors[None]).prod(-1)
    return shared / (sizes.prod(-1)[:, None] + anchors.prod(-1)[None] - shared)


def yolo_losses(
    raw: Tensor,
    places: Places,
    anchors: Tensor,
    targets: Sequence[Target],
    *,
    ignore_above: float,
    also_above: float | None,
    box_loss: BoxLoss,
) -> dict[str, Tensor]:
    """Losses ``objectness``, ``class`` and ``box`` of raw outputs float32 (B, N, 5 + C): t_x, t_y, t_w, t_h, objectness, classes.

    Each is a sum divided by the number of outputs assigned to an object (but at least one an image), so that it weighs the
    same whatever the image's size and however many objects it holds; the paper leaves the sum as it is. Without any object there is
    only objectness to learn, and the others are 0.
    """
    from torchvision.ops import box_iou  # importing torchvision takes a second

    boxes, labels = zip(*(boxes_and_labels(target) for target in targets), strict=True)
    truths = [own.to(raw) for own in boxes]
    images, numbers, objects = assign(truths, places, anchors, also_above)
    assigned = torch.zeros_like(raw[..., 4], dtype=torch.bool)
    assigned[images, numbers] = True
    with torch.no_grad():
        overlap = torch.stack(
            [
                box_iou(decode(of_image, places), own).amax(1) if len(own) else of_image.new_zeros(len(of_image))
                for of_image, own in zip(raw, truths, strict=True)
            ]
        )
    counted = (assigned | ~(overlap > ignore_above)).to(raw)
    chosen = raw[images, numbers]
    box = _box_loss(chosen, torch.cat(truths)[objects], at(places, numbers), box_loss)
    classes = functional.one_hot(torch.cat(labels)[objects] - 1, raw.shape[-1] - 5).to(raw)
    kind = functional.binary_cross_entropy_with_logits(chosen[:, 5:], classes, reduction="sum")
    objectness = functional.binary_cross_entropy_with_logits(raw[..., 4], assigned.to(raw), counted, reduction="sum")
    divisor = max(len(numbers), len(targets))
    return {"objectness": objectness / divisor, "class": kind / divisor, "box": box / divisor}


def _box_loss(raw: Tensor, truths: Tensor, where: Places, kind: BoxLoss) -> Tensor:
    if kind == "ciou":
        from torchvision.ops import complete_box_iou_loss

        loss: Tensor = complete_box_iou_loss(decode(raw, where), truths, reduction="sum")
        return loss
    target = encode(truths, where)
    return ((raw[:, :2].sigmoid() - target[:, :2].sigmoid()) ** 2).sum() + ((raw[:, 2:4] - target[:, 2:]) ** 2).sum()

"""How YOLOv3 writes boxes as numbers, which of its outputs answers for which object, and what it is then told.

Paper: Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767, sections 2.1 to 2.3. As in the paper: box = cell
corner + sigmoid(t_xy) cells, base box * exp(t_wh); one base box answers for an object; other outputs that overlap an object by more
than .5 are told nothing; classes are independent (sigmoid). What differs, each in its place below: the box loss may be complete
IoU (Zheng et al., "Distance-IoU Loss", AAAI 2020, arXiv:1911.08287); more base boxes than one may answer for an object; objects
that meet in one place are all kept; sums are divided by the number of outputs that answer.
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
LARGEST = 8.0  # of t_wh: base boxes grow to 3,000 times their size at most, so that no exponential overflows


@dataclass(frozen=True, eq=False)
class Places:
    """Where each of a picture's N outputs stands: ``cell`` float32 (N, 2) column and row, ``stride`` (N, 1), ``anchor`` (N, 2) w, h.

    Outputs are numbered scale by scale, finest first, in each by base box, row and column: ``offsets`` is each scale's first number
    and ``grids`` its (rows, columns).
    """

    cell: Tensor
    stride: Tensor
    anchor: Tensor
    offsets: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


def places_of(grids: Sequence[tuple[int, int]], strides: Sequence[int], anchors: Tensor) -> Places:
    """Places of scales with (rows, columns) ``grids``; ``anchors`` float32 (scales, base boxes, 2), width and height in pixels."""
    cells, steps, bases, offsets = [], [], [], [0]
    for (rows, columns), stride, of_scale in zip(grids, strides, anchors, strict=True):
        row, column = torch.meshgrid(torch.arange(rows, device=anchors.device), torch.arange(columns, device=anchors.device), indexing="ij")
        cell = torch.stack([column, row], -1).reshape(1, -1, 2).expand(len(of_scale), -1, -1)
        cells.append(cell.reshape(-1, 2).float())
        steps.append(anchors.new_full((cell.shape[0] * cell.shape[1], 1), float(stride)))
        bases.append(of_scale[:, None].expand(-1, rows * columns, -1).reshape(-1, 2))
        offsets.append(offsets[-1] + len(bases[-1]))
    return Places(torch.cat(cells), torch.cat(steps), torch.cat(bases), tuple(offsets[:-1]), tuple(grids), tuple(strides))


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
    """Which outputs answer for which of a batch's objects, given as each picture's boxes (T, 4): numbers int64 (P) of pictures, of
    outputs and of objects, which are counted through all pictures.

    Each object gets the base box, of all scales, that is likest to it in width and height, in the cell of its centre; where that
    one answers for an earlier object, the next likest that is free (in the paper's code the later object replaces the earlier).
    Then every free base box whose likeness exceeds ``also_above`` answers for it too; the paper has none of these (None).
    The device is asked once for all pictures.
    """
    boxes = torch.cat(list(objects))
    shapes = anchors.reshape(-1, 2)
    likeness = size_iou(boxes[:, 2:] - boxes[:, :2], shapes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    numbers = []
    for offset, (rows, columns), stride, of_scale in zip(places.offsets, places.grids, places.strides, anchors, strict=True):
        column, row = (centre / stride).long().unbind(1)
        cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        numbers += [offset + base * rows * columns + cell for base in range(len(of_scale))]
    number, liked = torch.stack([torch.stack(numbers, 1).double(), likeness.double()]).cpu()
    ranked = liked.argsort(dim=1, descending=True, stable=True)
    found: list[tuple[int, int, int]] = []
    first = 0
    for image, own in enumerate(objects):
        part = slice(first, first + len(own))
        answers = _answers(number[part].long().tolist(), liked[part].tolist(), ranked[part].tolist(), also_above)
        found += [(image, output, first + truth) for output, truth in answers.items()]
        first += len(own)
    images, outputs, truths = torch.tensor(found, dtype=torch.int64).reshape(-1, 3).to(boxes.device, non_blocking=True).unbind(1)
    return images, outputs, truths


def _answers(numbers: list[list[int]], likeness: list[list[float]], ranked: list[list[int]], also_above: float | None) -> dict[int, int]:
    """Objects of one picture by the numbers of the outputs that answer for them, from rows of what each base box would be."""
    answers: dict[int, int] = {}
    for truth, order in enumerate(ranked):
        free = [base for base in order if numbers[truth][base] not in answers]
        if free:
            answers[numbers[truth][free[0]]] = truth
    if also_above is not None:
        for truth, order in enumerate(ranked):
            for base in order:
                if likeness[truth][base] > also_above:
                    answers.setdefault(numbers[truth][base], truth)
    return answers


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

    Each is a sum divided by the number of outputs that answer for an object (but at least one an image), so that it weighs the
    same whatever the image's size and however many objects it holds; the paper leaves the sum as it is. Without any object there is
    only objectness to learn, and the others are 0.
    """
    from torchvision.ops import box_iou  # importing torchvision takes a second

    boxes, labels = zip(*(boxes_and_labels(target) for target in targets), strict=True)
    truths = [own.to(raw) for own in boxes]
    images, numbers, objects = assign(truths, places, anchors, also_above)
    answers = torch.zeros_like(raw[..., 4], dtype=torch.bool)
    answers[images, numbers] = True
    with torch.no_grad():
        overlap = torch.stack(
            [
                box_iou(decode(of_image, places), own).amax(1) if len(own) else of_image.new_zeros(len(of_image))
                for of_image, own in zip(raw, truths, strict=True)
            ]
        )
    counted = (answers | ~(overlap > ignore_above)).to(raw)
    chosen = raw[images, numbers]
    box = _box_loss(chosen, torch.cat(truths)[objects], at(places, numbers), box_loss)
    classes = functional.one_hot(torch.cat(labels)[objects] - 1, raw.shape[-1] - 5).to(raw)
    kind = functional.binary_cross_entropy_with_logits(chosen[:, 5:], classes, reduction="sum")
    objectness = functional.binary_cross_entropy_with_logits(raw[..., 4], answers.to(raw), counted, reduction="sum")
    divisor = max(len(numbers), len(targets))
    return {"objectness": objectness / divisor, "class": kind / divisor, "box": box / divisor}


def _box_loss(raw: Tensor, truths: Tensor, where: Places, kind: BoxLoss) -> Tensor:
    if kind == "ciou":
        from torchvision.ops import complete_box_iou_loss

        loss: Tensor = complete_box_iou_loss(decode(raw, where), truths, reduction="sum")
        return loss
    target = encode(truths, where)
    return ((raw[:, :2].sigmoid() - target[:, :2].sigmoid()) ** 2).sum() + ((raw[:, 2:4] - target[:, 2:]) ** 2).sum()

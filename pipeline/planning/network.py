"""Which task and network, how wide, and what they minimise."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.planning.choice import Choice, percent
from pipeline.planning.facts import SetFacts
from pipeline.planning.frame import FINEST_LINE_PX, Frame
from pipeline.planning.machine import Machine

LIGHT = {"mobilenet_v2": "mobilenet_unet", "efficientnet_lite0": "efficientnet_unet"}
"""Encoders for a CPU, and the U-Net on each; the first whose weights lie on the machine is taken."""
HEAVY = "resnet50"


@dataclass(frozen=True)
class Network:
    """``settings``: the sections ``task`` and ``model`` · ``pretrained``: its encoder begins from ImageNet weights · ``bytes_per_px`` of a
    training step and ``us_per_px`` on two cores, for each working pixel of a batch, measured on the networks of docs/results.
    """

    settings: list[Choice]
    pretrained: bool
    bytes_per_px: float
    us_per_px: float


def is_detection(facts: SetFacts) -> bool:
    """Objects rather than pixels are learnt: only boxes are known, or single objects are labelled and an image holds several."""
    return facts.labels == "boxes" or (facts.labels == "instances" and any((cls.objects or 0) > 1 for cls in facts.known))


def plan_network(facts: SetFacts, frame: Frame, machine: Machine) -> Network:
    if is_detection(facts):
        return _detector(facts, frame, machine)
    task = _semantic_task(facts)
    if facts.thin or facts.modality == "oct":
        return _unet(facts, frame, machine, task)
    if known := [unet for encoder, unet in LIGHT.items() if encoder in machine.pretrained]:
        why = "A U-Net on an encoder that has seen ImageNet: compact structures are learnt from few images and in a third of the steps."
        model = [Choice("model.name", known[0], why), Choice("model.weights", "imagenet")]
        return Network([*task, *model], pretrained=True, bytes_per_px=2200, us_per_px=1.25)
    return _unet(facts, frame, machine, task)


def _semantic_task(facts: SetFacts) -> list[Choice]:
    exclusive = "a pixel belongs to at most one class" if not facts.overlapping else "classes may overlap, so each is decided separately"
    why = f"Masks are labelled, so each pixel is classified; {exclusive}."
    losses = "Dice is insensitive to how rare a class is; cross-entropy keeps gradients smooth and probabilities meaningful."
    empty = [cls for cls in facts.known if cls.held < 0.7]
    if empty:
        losses += f" Dice is summed over the batch, so images without {empty[0].name} ({percent(1 - empty[0].held)} of them) still count."
    choices = [Choice("task.name", "semantic", why), Choice("task.losses", {"dice": 1.0, "cross_entropy": 1.0}, losses)]
    if facts.thin and facts.modality != "oct":
        choices.append(
            Choice("task.flips", True, "Predictions of four flipped views are averaged: better on thin structures, at four times the time.")
        )
    return choices


def _unet(facts: SetFacts, frame: Frame, machine: Machine, task: list[Choice]) -> Network:
    """A U-Net from scratch: shallow for what is told by its neighbourhood (vessels), deep for what is told by its place."""
    local = bool(facts.thin) and facts.modality != "oct"
    if local:
        widths = [32, 64, 128, 256] if machine.gpu else [12, 24, 48, 96]
        why = "A U-Net of four levels: thin structures need little context, and pretrained encoders gained nothing at equal time."
    else:
        widths = [32, 64, 128, 256, 320] if machine.gpu else [16, 32, 64, 96, 128]
        why = "A U-Net of five levels: the class of a pixel depends on distant context."
        if facts.modality != "oct":
            why += " With ImageNet weights on the machine (docs/models.md) it would have a pretrained encoder."
    if not machine.gpu:
        why += " Narrow, so that a CPU trains it in minutes."
    choices = [Choice("model.name", "unet", why), Choice("model.widths", widths)]
    cost = 1.0
    width = min((cls.width_px or 0.0) * frame.factor for cls in facts.thin) if local else FINEST_LINE_PX
    if width < FINEST_LINE_PX:
        cost = 3.5
        choices.append(Choice("model.first_stride", 1, f"Structures of {width:.1f} pixels need a first level at full resolution."))
    choices += [
        Choice("model.residual_units", 2),
        Choice("model.norm", "batch", "Batch normalisation, because a batch holds crops of several images."),
        Choice(
            "model.head_width",
            widths[0] // 2 + 2 if widths[0] == 12 else 8,
            "A head at full resolution, which can also output an empty mask.",
        ),
    ]
    return Network([*task, *choices], pretrained=False, bytes_per_px=80.0 * widths[0] * cost, us_per_px=0.04 * widths[0] * cost)


def _detector(facts: SetFacts, frame: Frame, machine: Machine) -> Network:
    boxes = facts.labels == "boxes"
    encoder, pretrained, why = _encoder(machine)
    name = "faster_rcnn" if boxes else "mask_rcnn"
    known = (
        "Only boxes are labelled, so objects are found by boxes"
        if boxes
        else "Single objects are labelled, so each is found by itself, with its mask"
    )
    task = [Choice("task.name", "detection", f"{known}.")]
    if frame.crop is not None:
        task.append(Choice("task.tile", list(frame.crop), "Predicted in tiles of the size that was trained on."))
    model = [Choice("model.name", name, f"Two stages, which find small and rare objects best. {why}"), Choice("model.backbone", encoder)]
    model += [Choice("model.weights", "imagenet")] if pretrained else []
    if not machine.gpu:
        light = {"fpn_channels": 64, "representation": 256, "roi_samples": 128, "rpn_before_nms": [500, 300], "rpn_after_nms": [250, 100]}
        light |= {} if boxes else {"mask_width": 64, "mask_layers": 2}
        narrow = "Narrow pyramid and heads and few proposals, for a CPU."
        model += [Choice(f"model.{key}", value, narrow if key == "fpn_channels" else "") for key, value in light.items()]
    return Network([*task, *model], pretrained, bytes_per_px=12_000 if machine.gpu else 4_000, us_per_px=1.0)


def _encoder(machine: Machine) -> tuple[str, bool, str]:
    for name in (HEAVY, *LIGHT) if machine.gpu else LIGHT:
        if name in machine.pretrained:
            return name, True, f"Its encoder {name} begins from ImageNet weights, which lie on this machine."
    return (
        "resnet18",
        False,
        "No ImageNet weights were found on this machine, so its encoder learns from scratch; docs/models.md says where to put them.",
    )

"""At which scale a network looks, and how much of an image at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.planning.choice import Choice
from pipeline.planning.facts import SetFacts
from pipeline.planning.machine import Machine

WIDEST_LINE_PX, LINE_PX = 7.0, 5.0
"""Thin structures up to the one are left at the source's own scale; wider ones are brought to the other."""
FINEST_LINE_PX = 1.75
"""Thinner structures want a first level at full resolution."""
OBJECT_PX, OBJECT_PX_GPU = 56.0, 96.0
"""Side of the smallest class of compact structures in the working frame: half a pixel of its outline is then worth 0.02 Dice."""
BOX_PX, BOX_PX_GPU = 20.0, 32.0
"""The same for boxes, which have to overlap by half only."""
SIDE, SIDE_GPU = 384, 512
"""Of a crop."""
WHOLE_PX, WHOLE_PX_GPU = 512 * 512, 1024 * 1024
"""Images of up to so many working pixels are trained on whole."""
BSCAN_ROWS, BSCAN_COLUMNS, BSCAN_COLUMNS_GPU = 512, 192, 384
_ALIKE = 1.05
_STEP = 32


@dataclass(frozen=True)
class Frame:
    """``factor``: working pixels per source pixel · ``plane``: (rows, columns) of the median image there · ``crop``: what is seen at once
    in training, None: whole images."""

    factor: float
    plane: tuple[int, int]
    crop: tuple[int, int] | None

    @property
    def whole(self) -> bool:
        """Whether all of an image is seen at once."""
        return self.crop is None or all(side >= extent for side, extent in zip(self.crop, self.plane, strict=True))

    @property
    def seen(self) -> tuple[int, int]:
        return self.crop or self.plane


def plan_frame(facts: SetFacts, machine: Machine, objects: bool) -> tuple[Frame, list[Choice]]:
    """The frame, and the settings ``data.normalise`` and ``data.crop`` that make it; ``objects``: for a detector."""
    factor, why_scale = _factor(facts, machine, objects)
    scale, factor = _scale_settings(facts, factor)
    plane = (round(facts.plane[0] * factor), round(facts.plane[1] * factor))
    if "working_size" in scale:
        plane = scale["working_size"][0], scale["working_size"][1]
    crop, why_crop = _crop(facts, machine, plane, objects)
    method, why_method = _method(facts)
    return Frame(factor, plane, crop), [
        Choice("data.normalise", method | scale, f"{why_method} {why_scale}"),
        Choice("data.crop", None if crop is None else list(crop), why_crop),
    ]


def _method(facts: SetFacts) -> tuple[dict[str, Any], str]:
    """How grey values are normalised, and which channels are taken."""
    channels = {"channels": "grey"} if len(facts.channels) > 1 else {}
    mixed = " Some images are colour and some grey, so all are made grey." if channels else ""
    if facts.modality == "fundus" and facts.field_px:
        why = "Mean 0 and variance 1 of each channel in the field of view, which is found in the picture, as it will be in a raw folder."
        return {"method": "zscore", "field_of_view": "detect"} | channels, why + mixed
    if facts.modality == "oct":
        why = "Grey levels of OCT have no common zero and a few bright outliers, so they are scaled to 0..1 between two percentiles."
        return {"method": "percentile", "percentiles": [1.0, 99.5], "field_of_view": "whole"} | channels, why + mixed
    return {
        "method": "zscore",
        "field_of_view": "whole",
    } | channels, "Mean 0 and variance 1 over the whole image, which has no dark surround." + mixed


def _factor(facts: SetFacts, machine: Machine, objects: bool) -> tuple[float, str]:
    """How much images are reduced, and why."""
    if facts.modality == "oct":
        rows = facts.plane[0]
        if rows <= 1.25 * BSCAN_ROWS:
            return 1.0, f"B-scans of {rows} rows keep their own scale."
        return BSCAN_ROWS / rows, f"B-scans of {rows} rows are reduced to {BSCAN_ROWS}."
    if objects:
        return _reduced(facts, BOX_PX_GPU if machine.gpu else BOX_PX, "boxes")
    if facts.thin:
        width = min(cls.width_px or math.inf for cls in facts.thin)
        name = min(facts.thin, key=lambda cls: cls.width_px or math.inf).name
        if width <= WIDEST_LINE_PX:
            return 1.0, f"{name} is thin ({width:.1f} pixels across), so the images keep their own scale: reduced, it would be lost."
        return (
            LINE_PX / width,
            f"{name} is {width:.1f} pixels across, which is more than a network needs: reduced to {LINE_PX:g}, it sees more.",
        )
    return _reduced(facts, OBJECT_PX_GPU if machine.gpu else OBJECT_PX, "objects")


def _reduced(facts: SetFacts, target: float, what: str) -> tuple[float, str]:
    sides = [(cls.side_px, cls.name) for cls in facts.known if cls.side_px]
    if not sides:
        return 1.0, "The images keep their own scale."
    side, name = min(sides)
    if side <= target * _ALIKE:
        return 1.0, f"{name} is small ({side:.0f} pixels across), so the images keep their own scale."
    return (
        target / side,
        f"The smallest {what} ({name}) are {side:.0f} pixels across; at about {target:g}, images are cheap and outlines still exact.",
    )


def _scale_settings(facts: SetFacts, factor: float) -> tuple[dict[str, Any], float]:
    """The settings that bring images to one scale, none where they have it, and the factor after rounding."""
    if facts.field_px:
        diameter, least, most = facts.field_px
        if factor == 1.0 and most <= _ALIKE * least:
            return {}, 1.0
        rounded = max(round(diameter * factor / _STEP), 1) * _STEP
        return {"working_diameter_px": rounded}, rounded / diameter
    if factor == 1.0 and (facts.one_size or facts.modality != "oct"):
        return {}, 1.0
    rows, columns = (max(round(side * factor / 8), 4) * 8 for side in facts.plane)
    return {"working_size": [rows, columns]}, rows / facts.plane[0]


def _crop(facts: SetFacts, machine: Machine, plane: tuple[int, int], objects: bool) -> tuple[tuple[int, int] | None, str]:
    rows, columns = plane
    if facts.modality == "oct" and not objects:
        wide = min(BSCAN_COLUMNS_GPU if machine.gpu else BSCAN_COLUMNS, columns)
        return (rows, wide), "All rows of a B-scan: layers are told apart by what lies above and below them."
    if objects or not facts.thin:
        if rows * columns <= (WHOLE_PX_GPU if machine.gpu else WHOLE_PX) * 1.1:
            return (
                None,
                f"Whole images of about {rows} x {columns} working pixels: they fit, and the position of a structure helps to find it.",
            )
        side = SIDE_GPU * 2 if machine.gpu and objects else SIDE_GPU if machine.gpu or objects else SIDE
    else:
        side = SIDE_GPU if machine.gpu else SIDE
    crop = tuple(min(side, math.ceil(extent / _STEP) * _STEP) for extent in plane)
    if all(c >= extent for c, extent in zip(crop, plane, strict=True)):
        return (crop[0], crop[1]), f"Images of {rows} x {columns} are small enough to be seen whole."
    return (
        crop[0],
        crop[1],
    ), f"Crops of the {rows} x {columns} working pixels: a batch of crops from several images varies more than one whole image."

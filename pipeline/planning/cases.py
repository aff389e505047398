"""Who is trained on, how samples are varied, and where decoded images lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.planning.choice import Choice, percent
from pipeline.planning.facts import SetFacts
from pipeline.planning.frame import Frame
from pipeline.planning.machine import Machine
from pipeline.planning.network import is_detection
from pipeline.types import Part

FEW_PATIENTS, HARDLY_ANY = 25, 5


def plan_split(parts: Mapping[Part, int], patients: int) -> tuple[Choice, float]:
    """``data.split``, and about which fraction of the images outside the test part is trained on.

    ``parts``: images of each official part, none where there are no such parts · ``patients`` outside the test part.
    """
    split: dict[str, Any] = {"source": "official" if parts else "random"}
    share = 0.1 if patients < FEW_PATIENTS and parts else 0.2
    trained = 1.0
    if parts:
        why = "The card's own parts are kept, so that results compare with others'."
        if "validation" not in parts and patients < 2:
            split["validation"] = 0.0
            why += " It names no validation part, and all training images are of one patient: the last epoch is kept, unvalidated."
        elif "validation" not in parts:
            split["validation"], trained = share, 1 - share
            why += f" It names no validation part: {percent(share)} of the {patients} training patients choose epoch and thresholds."
        if "test" not in parts:
            why += " It names no test part: keep a set apart, or cross-validate."
    elif patients < 2:
        split |= {"validation": 0.0, "test": 0.0}
        why = "All images are of one patient, so there is nobody to validate or test on, and the quality of the network will be unknown."
    elif patients < HARDLY_ANY:
        split, trained = split | {"validation": 0.2, "test": 0.0}, 1 - 1 / patients
        why = f"Only {patients} patients: one validates, none is left to test on. Label more, or test on another set."
    else:
        split, trained = split | {"validation": share, "test": 0.2}, 0.8 - share
        why = f"The card names no parts, so the {patients} patients are split at random (by the seed), both eyes of a person together."
        if patients < FEW_PATIENTS:
            why += " With so few, test each of them once: `ocuseg crossvalidate` on this file."
    split["near_duplicates"] = "drop_from_train"
    return Choice(
        "data.split", split, f"{why} Near-duplicates across parts are removed from training instead of stopping the run."
    ), trained


def plan_augment(facts: SetFacts) -> Choice:
    """``data.augment``."""
    if facts.modality == "oct":
        value: dict[str, Any] = {
            "vertical_flip": 0.0, "quarter_turns": False, "rotation_deg": 8, "scale": [0.75, 1.3],
            "gain": 0.15, "bias": 0.1, "gamma": 0.3, "blur_sigma": 1.0, "noise": 0.05,
        }  # fmt: skip
        return Choice("data.augment", value, "Depth in a B-scan points down; tilt, scale, contrast and speckle differ between instruments.")
    if is_detection(facts):
        value = {"quarter_turns": False, "gamma": 0.2}
        return Choice("data.augment", value, "Boxes stay tight under flips; a rotated box would no longer fit its object.")
    if facts.thin:
        value = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "quarter_turns": True, "gain": 0.2, "bias": 0.2}
        return Choice(
            "data.augment",
            value,
            "Thin structures run in every direction, and flips and quarter turns are exact; interpolation would blur them.",
        )
    value = {"quarter_turns": False, "rotation_deg": 20, "scale": [0.8, 1.25], "gain": 0.2, "bias": 0.2, "gamma": 0.3}
    return Choice("data.augment", value, "Compact structures tolerate rotation and zoom; brightness and colour differ between cameras.")


def plan_storage(facts: SetFacts, frame: Frame, machine: Machine) -> list[Choice]:
    """``data.cache``, ``data.workers`` and ``data.skip_unreadable``, only where they are not the defaults."""
    out = []
    working, stored = math.prod(frame.plane), 0 if frame.factor == 1.0 else math.prod(facts.plane)
    gib = facts.images * facts.slices * (working * (max(facts.channels) + 2) + stored * 2) / 2**30
    if gib > 0.4 * machine.memory_gib:
        why = f"Decoded images take about {gib:.0f} GiB, too much for {machine.memory_gib:.0f} GiB of memory, so they are cached on disk."
        out.append(Choice("data.cache", "disk", why))
        if machine.cores > 2:
            out.append(Choice("data.workers", min(machine.cores - 1, 8), "Processes that read crops from there."))
    if facts.unreadable:
        of = facts.unreadable + facts.measured
        why = f"{facts.unreadable} of {of} images looked at cannot be read, and such are left out; `ocuseg card check` names them."
        out.append(Choice("data.skip_unreadable", True, why))
    return out

"""The classes a mask can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types.check import require

IGNORE = -1


@dataclass(frozen=True)
class LabelClass:
    """One foreground class. ``colour`` is RGB 0-255; ``code`` is "SCHEME:VALUE" (DICOM) or None."""

    index: int
    name: str
    colour: tuple[int, int, int]
    code: str | None = None


@dataclass(frozen=True)
class LabelMap:
    """The classes a mask can hold: background 0, ignored pixels -1, foreground 1..K in order.

    Exclusive classes: a mask's value is the class index. Overlapping classes (the cup lies inside the disc): a mask is a bit
    field, bit k - 1 set where class k is present, so that one integer image says everything and moves as one through every
    transform.
    """

    classes: tuple[LabelClass, ...]
    overlapping: bool = False

    def __post_init__(self) -> None:
        require(bool(self.classes), "a label map needs at least one class")
        require([c.index for c in self.classes] == list(range(1, len(self.classes) + 1)), "class indices must be 1, 2, 3, ... in order")
        require(len({c.name for c in self.classes}) == len(self.classes), "class names must differ")
        require(not self.overlapping or len(self.classes) <= 31, "at most 31 overlapping classes")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def independent(self) -> bool:
        """Whether each class is its own yes / no question (sigmoid), rather than one choice among all (softmax)."""
        return self.overlapping or len(self.classes) == 1

    @property
    def channels(self) -> int:
        """Output channels of a network for this map: K for independent classes, K + 1 (background first) otherwise."""
        return len(self.classes) if self.independent else len(self.classes) + 1

    def only(self, names: Sequence[str]) -> LabelMap:
        """These classes, in this order, numbered anew."""
        known = {c.name: c for c in self.classes}
        return LabelMap(tuple(replace(known[name], index=index) for index, name in enumerate(names, 1)), self.overlapping)

    def layers(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mask (...) -> one boolean layer a class (K, ...); ignored pixels are False everywhere."""
        known = mask != IGNORE
        if self.overlapping:
            return np.stack([((mask >> (c.index - 1)) & 1).astype(bool) & known for c in self.classes])
        return np.stack([mask == c.index for c in self.classes])

    def mask(self, layers: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Boolean layers (K, ...) -> mask int64 (...); of exclusive classes the later one wins."""
        require(layers.shape[0] == len(self.classes), f"{layers.shape[0]} layers for {len(self.classes)} classes")
        out = np.zeros(layers.shape[1:], dtype=np.int64)
        for cls, layer in zip(self.classes, layers, strict=True):
            if self.overlapping:
                out |= layer.astype(np.int64) << (cls.index - 1)
            else:
                out[layer] = cls.index
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "overlapping": self.overlapping,
            "classes": [{"index": c.index, "name": c.name, "colour": list(c.colour), "code": c.code} for c in self.classes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelMap:
        classes = tuple(LabelClass(c["index"], c["name"], tuple(c["colour"]), c.get("code")) for c in data["classes"])
        return cls(classes, bool(data.get("overlapping", False)))

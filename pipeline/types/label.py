"""The classes a mask can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.types.scan import require

IGNORE = -1

Role = Literal["optic_disc", "optic_cup", "vessel", "artery", "vein", "fovea", "lesion", "layer", "fluid", "right_eye", "left_eye"]
"""What a class is, whatever it is called: this chooses what is measured of it (measurements/by_role.py)."""
VESSELS: tuple[Role, ...] = ("vessel", "artery", "vein")
"""Trees of thin tubes: what counts is that a vessel is found along its length."""
ROLE_OF_CODE: Mapping[str, Role] = {
    "SCT:81016008": "optic_disc",
    "SCT:59820001": "vessel",  # blood vessel
    "SCT:27988004": "artery",  # retinal artery
    "SCT:67046006": "fovea",
    "SCT:52988006": "lesion",
    "SCT:50960005": "lesion",  # haemorrhage
    "SCT:85659009": "lesion",  # aneurysm
}


@dataclass(frozen=True)
class LabelClass:
    """One foreground class. ``colour`` is RGB 0-255; ``code`` is "SCHEME:VALUE" (DICOM) or None; ``role`` where the code does not say it.

    ``inside`` names the class that this one is a part of (the cup of the disc), or None. ``mirrors_to`` names the class, of whole pictures,
    that a left-right mirror makes of this one (a right eye looks like a left one), or None where it stays what it is.
    """

    index: int
    name: str
    colour: tuple[int, int, int]
    code: str | None = None
    inside: str | None = None
    role: Role | None = None
    mirrors_to: str | None = None


@dataclass(frozen=True)
class LabelMap:
    """The classes a mask can hold (none: a data set without labels): background 0, ignored pixels -1, foreground 1..K in order.

    Of whole pictures they are what a picture may be: its grade g (0..K - 1) is class g + 1; ``ordered``: a later class is a higher grade.

    Exclusive classes: a mask's value is the class index. Overlapping classes (the cup lies inside the disc): a mask is a bit
    field, bit k - 1 set where class k is present, so that one integer image says everything and moves as one through every
    transform. A class that lies ``inside`` another one is overlapping, and no pixel found is of it alone (:meth:`nested`).

    ``layered``: names of the classes that are layers, each on the next, from the vitreous down; classes beside them (fluid) lie within.
    ``surfaces``: names of the surfaces above, between and below the layers, one more than layers; without them "top of RNFL".
    """

    classes: tuple[LabelClass, ...]
    overlapping: bool = False
    layered: tuple[str, ...] = ()
    surfaces: tuple[str, ...] = ()
    ordered: bool = False

    def __post_init__(self) -> None:
        require([c.index for c in self.classes] == list(range(1, len(self.classes) + 1)), "class indices must be 1, 2, 3, ... in order")
        require(len({c.name for c in self.classes}) == len(self.classes), "class names must differ")
        require(not self.overlapping or len(self.classes) <= 31, "at most 31 overlapping classes")
        for cls in self.classes:
            said = f"class {cls.name!r} is said to lie inside {cls.inside!r}"
            require(cls.inside in (None, *self.names), f"{said}, but classes are: {', '.join(self.names)}")
            require(cls.inside is None or self.overlapping, f"{said}, which needs overlapping: true")
            require(cls.name not in self.around(cls), f"{said}, and so inside itself; say inside of the inner class alone")
            back = self._mirror_of(cls.mirrors_to)
            require(cls.mirrors_to is None or back == cls.name, f"class {cls.name!r} mirrors to {cls.mirrors_to!r}, which must mirror back")
        for name in self.layered:
            require(name in self.names, f"layers speak of class {name!r}, but classes are: {', '.join(self.names)}")
        require(len(set(self.layered)) == len(self.layered), "layers name a class twice; each lies in one place from the vitreous down")
        require(not (self.layered and self.overlapping), "layers exclude each other, which overlapping: true does not")
        require(bool(self.layered) or not self.surfaces, "surfaces lie between layers, and there are none; name them by layers: [...]")
        counts = f"{len(self.layered)} layers have {len(self.layered) + 1} surfaces, but {len(self.surfaces)} are named"
        require(not self.surfaces or len(self.surfaces) == len(self.layered) + 1, counts)
        require(len(set(self.surfaces)) == len(self.surfaces), "names of surfaces must differ")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def _mirror_of(self, name: str | None) -> str | None:
        return next((cls.mirrors_to for cls in self.classes if cls.name == name), None)

    @property
    def mirrors(self) -> bool:
        """Whether a left-right mirror makes another class of some pictures."""
        return any(cls.mirrors_to is not None for cls in self.classes)

    def mirrored(self, grade: int) -> int:
        """The grade of a mirrored picture."""
        other = self.classes[grade].mirrors_to
        return grade if other is None else self.names.index(other)

    @property
    def surface_names(self) -> tuple[str, ...]:
        """The surfaces from the vitreous down: the top of each layer, then the bottom of the last one; none without layers."""
        if self.surfaces or not self.layered:
            return self.surfaces
        return (*(f"top of {name}" for name in self.layered), f"bottom of {self.layered[-1]}")

    @property
    def roles(self) -> tuple[Role | None, ...]:
        """What each class is: as it says or its code does; beside layers a class that says nothing is the fluid between them."""

        def of(cls: LabelClass) -> Role | None:
            if cls.name in self.layered:
                return "layer"
            said = cls.role or ROLE_OF_CODE.get(cls.code or "")
            return "fluid" if said is None and self.layered else said

        return tuple(of(cls) for cls in self.classes)

    @property
    def independent(self) -> bool:
        """Whether each class is its own yes / no question (sigmoid), rather than one choice among all (softmax)."""
        return self.overlapping or len(self.classes) == 1

    @property
    def channels(self) -> int:
        """Output channels of a network for this map: K for independent classes, K + 1 (background first) otherwise."""
        return len(self.classes) if self.independent else len(self.classes) + 1

    def around(self, cls: LabelClass) -> tuple[str, ...]:
        """Names of the classes that ``cls`` lies inside, the nearest first; of a circle each name once."""
        parents = {c.name: c.inside for c in self.classes}
        names: list[str] = []
        outer = cls.inside
        while outer is not None and outer not in names:
            names.append(outer)
            outer = parents.get(outer)
        return tuple(names)

    def only(self, names: Sequence[str]) -> LabelMap:
        """These classes, in this order, numbered anew; each inside the nearest of its outer classes that is left.

        Names of surfaces are kept with all the layers that they lie between. Layers with a gap between them, where one was left out,
        are layers no longer: no single surface parts them.
        """
        known = {c.name: c for c in self.classes}
        left = {name: next((outer for outer in self.around(known[name]) if outer in names), None) for name in names}
        mirrors = {name: mirror if (mirror := known[name].mirrors_to) in names else None for name in names}
        classes = (replace(known[name], index=index, inside=left[name], mirrors_to=mirrors[name]) for index, name in enumerate(names, 1))
        places = [place for place, name in enumerate(self.layered) if name in names]
        whole = bool(places) and places[-1] - places[0] < len(places)
        layered = self.layered[places[0] : places[-1] + 1] if whole else ()
        return LabelMap(tuple(classes), self.overlapping, layered, self.surfaces if layered == self.layered else (), self.ordered)

    def renamed(self, names: Mapping[str, str]) -> LabelMap:
        """The same classes under other names, {name: new name}."""

        def new(name: str | None) -> str | None:
            return None if name is None else names.get(name, name)

        classes = (replace(c, name=names.get(c.name, c.name), inside=new(c.inside), mirrors_to=new(c.mirrors_to)) for c in self.classes)
        layered = tuple(names.get(name, name) for name in self.layered)
        return LabelMap(tuple(classes), self.overlapping, layered, self.surfaces, self.ordered)

    def layers(self, mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mask (...) -> one boolean layer a class (K, ...); ignored pixels are False everywhere."""
        known = mask != IGNORE
        if not self.classes:
            return np.zeros((0, *mask.shape), dtype=bool)
        if self.overlapping:
            return np.stack([((mask >> (c.index - 1)) & 1).astype(bool) & known for c in self.classes])
        return np.stack([mask == c.index for c in self.classes])

    def held(self, mask: npt.NDArray[Any]) -> set[str]:
        """Names of the classes that a mask (...) has at least one pixel of."""
        if self.overlapping:
            bits = int(np.bitwise_or.reduce(mask[mask != IGNORE], axis=None, initial=0))
            return {c.name for c in self.classes if bits >> (c.index - 1) & 1}
        return {c.name for c in self.classes if (mask == c.index).any()}

    def nested(self, layers: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Boolean layers (K, ...) -> the same, less the pixels of a class that are not also of every class around it."""
        places = {c.name: c.index - 1 for c in self.classes}
        out = layers.copy()
        for cls in self.classes:
            for outer in self.around(cls):
                out[cls.index - 1] &= layers[places[outer]]
        return out

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
        def of(c: LabelClass) -> dict[str, Any]:
            said = {"index": c.index, "name": c.name, "colour": list(c.colour), "code": c.code}
            return said | {name: value for name in ("inside", "role", "mirrors_to") if (value := getattr(c, name)) is not None}

        out: dict[str, Any] = {"overlapping": self.overlapping, "classes": [of(c) for c in self.classes]}
        out |= {name: list(getattr(self, name)) for name in ("layered", "surfaces") if getattr(self, name)}
        return out | ({"ordered": True} if self.ordered else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelMap:
        def of(c: Mapping[str, Any]) -> LabelClass:
            said = {name: c.get(name) for name in ("code", "inside", "role", "mirrors_to")}
            return LabelClass(c["index"], c["name"], tuple(c["colour"]), **said)

        layered, surfaces = (tuple(data.get(name, ())) for name in ("layered", "surfaces"))
        return cls(
            tuple(map(of, data["classes"])), bool(data.get("overlapping", False)), layered, surfaces, bool(data.get("ordered", False))
        )

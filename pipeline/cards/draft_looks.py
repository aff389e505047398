"""What the pixels of a file show: a photograph or scan, classes by value or colour, numbered objects, or agreement of readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.cards.labels import read_stored
from pipeline.errors import OcusegError

Kind = Literal["picture", "classes", "colours", "objects", "agreement", "classes or objects", "classes or agreement"]
MOST_CLASSES = 64
"""More values than this in one picture cannot be classes."""
_LOOKED_AT = 250_000
_FLAT = 0.9


@dataclass
class Look:
    """The look of files of one kind. ``values``: whole numbers, or colours as (R, G, B), background left out; ``top``: the highest."""

    kind: Kind
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    values: tuple[Any, ...] = ()
    top: float = 0

    @property
    def is_label(self) -> bool:
        return self.kind != "picture"


@dataclass
class _Seen:
    """One file: ``flat`` is the fraction of neighbours on an object that are equal, ``single`` how many of its values are one piece."""

    shape: tuple[int, ...]
    values: tuple[Any, ...] | None
    colour: bool = False
    flat: float = 0
    single: float = 0
    bimodal: bool = False
    top: float = 0


def look_at(paths: Sequence[Path]) -> Look | None:
    """The look of the files of one folder together; None if none of them is a picture."""
    seen = [found for path in paths if (found := _see(path)) is not None]
    if not seen:
        return None
    shapes = Counter(one.shape for one in seen)
    top = max(one.top for one in seen)
    values = tuple(sorted({value for one in seen for value in one.values or ()}))
    if sum(one.values is None and not one.bimodal for one in seen) * 2 > len(seen):
        return Look("picture", shapes)
    if any(one.values is None for one in seen):
        return Look("agreement" if any(one.bimodal for one in seen) else "picture", shapes, (), top)
    if any(one.colour for one in seen):
        mixed = [v if isinstance(v, tuple) else (v, v, v) for one in seen for v in one.values or ()]
        return Look("colours", shapes, tuple(sorted(set(mixed))))
    return Look(_numbers(seen, values), shapes, values, top)


def _numbers(seen: Sequence[_Seen], values: tuple[int, ...]) -> Kind:
    """Whether whole numbers are classes or objects. Object numbers start at 1 in each picture, vary in count, and each is one piece."""
    sets = [set(one.values or ()) for one in seen if one.values]
    if not sets or len(values) < 3:
        return "classes"
    if max(map(len, sets)) > MOST_CLASSES or len(values) > MOST_CLASSES:
        return "objects"
    count = len(values)
    if values == tuple(round(255 * k / count) for k in range(1, count + 1)):
        return "classes or agreement"
    same = Counter(map(frozenset, sets)).most_common(1)[0][1]
    single = sum(one.single * len(one.values or ()) for one in seen) / sum(len(one.values or ()) for one in seen)
    if single < _FLAT or (same >= 0.8 * len(sets) and len(sets) > 1):
        return "classes"
    if count > 16:
        return "objects"
    counted = all(own == set(range(1, len(own) + 1)) for own in sets)
    return "classes or objects" if count > 3 and (counted or len(sets) == 1 or max(values) > count) else "classes"


def _see(path: Path) -> _Seen | None:
    try:
        stored = read_stored(path)
    except OcusegError:
        return None
    shape = stored.shape
    if stored.ndim == 3 and shape[-1] == 3:
        if not ((stored[..., 0] == stored[..., 1]) & (stored[..., 1] == stored[..., 2])).all():
            return _Seen(shape, _colours(stored), colour=True)
        stored = stored[..., 0]
    if np.issubdtype(stored.dtype, np.floating):
        if not np.isfinite(stored).all() or not (stored == np.rint(stored)).all():
            return _Seen(shape, None, bimodal=_bimodal(np.nan_to_num(stored)), top=float(np.nanmax(stored)))
        stored = stored.astype(np.int64)
    if stored.dtype == np.bool_:
        stored = stored.astype(np.uint8)
    planes = stored if stored.ndim == 3 else stored[None]
    flat = _flat(planes)
    found = np.unique(stored) if flat >= _FLAT or len(np.unique(_thinned(stored))) <= MOST_CLASSES else None
    top = float(stored.max())
    if found is None or (len(found) > 16 and flat < _FLAT):
        return _Seen(shape, None, bimodal=_bimodal(stored), top=top)
    if len(found) > 16 and _bimodal(stored) and found[-1] - found[0] < 256:
        return _Seen(shape, None, bimodal=True, top=top)
    values = tuple(v for v in found.tolist() if v)
    return _Seen(shape, values, flat=flat, single=_single(planes, values), top=top)


def _thinned(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = stored.reshape(-1)
    return flat[:: max(flat.size // _LOOKED_AT, 1)]


def _colours(stored: npt.NDArray[Any]) -> tuple[tuple[int, int, int], ...] | None:
    pixels = stored.reshape(-1, 3)
    step = max(len(pixels) // _LOOKED_AT, 1)
    for chosen in (pixels[::step], pixels):
        packed = chosen.astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
        found = np.unique(packed)
        if stored.dtype != np.uint8 or len(found) > MOST_CLASSES:
            return None
    return tuple((v >> 32, v >> 16 & 65535, v & 65535) for v in found.tolist() if v)


def _flat(planes: npt.NDArray[Any]) -> float:
    """Fraction of horizontal neighbours that are equal, among those that are both not background; 1 if there are none."""
    rows = planes[len(planes) // 2] if len(planes) > 1 else planes[0]
    left, right = rows[:, :-1], rows[:, 1:]
    both = (left != 0) & (right != 0)
    return float((left == right)[both].mean()) if both.any() else 1.0


def _bimodal(stored: npt.NDArray[Any]) -> bool:
    """Whether nearly all pixels are near the minimum or the maximum, as in a mask that was averaged or stored with lossy compression."""
    low, high = float(stored.min()), float(stored.max())
    if high <= low:
        return False
    place = (_thinned(stored).astype(np.float64) - low) / (high - low)
    above, between = float((place > 15 / 16).mean()), float(((place >= 1 / 16) & (place <= 15 / 16)).mean())
    return between <= 0.1 and above >= between


def _single(planes: npt.NDArray[Any], values: tuple[int, ...]) -> float:
    """Fraction of the values of which each plane holds a single piece, corners included."""
    from scipy.ndimage import find_objects, label

    if not values:
        return 1.0
    ones = 0
    plane = planes[len(planes) // 2]
    present = [v for v in values if (plane == v).any()] if len(planes) > 1 else list(values)
    dense = np.searchsorted(np.array([0, *present]), plane)
    dense[~np.isin(plane, present)] = 0
    for number, place in enumerate(find_objects(dense), 1):
        if place is not None:
            ones += label(dense[place] == number, np.ones((3, 3)))[1] == 1
    return ones / max(len(present), 1)

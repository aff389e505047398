"""The arrays of a decoded, normalised case, and the folder that holds them on disk.

Images are as normalisation leaves them before its last step (normalise.CompactImage): stored integers with one offset and scale per
channel, which take a quarter of the float32 input's memory and give exactly its values. Masks are kept in the smallest integer that
holds them, objects as boxes and bits.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from pipeline.cards.objects import PackedObjects
from pipeline.types import OnDisk, Placement

# Raise when the cached arrays of the same files under the same configuration would come out differently.
CACHE_VERSION = 7
_LARGE = ("pixels", "valid", "source_valid", "mask", "source_mask")
_ARRAYS = (*_LARGE, "offset", "scale", "fingerprint")
_OBJECTS = ("objects", "source_objects", "proposals")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CachedCase:
    """One case, all its S slices (1 for a picture).

    ``pixels`` (S, C, h, w) · ``valid`` bool (S, h, w) · ``mask`` int (S, h, w) or None · ``offset``, ``scale`` float32 (S, C) in
    the working frame; ``source_valid`` and ``source_mask`` (S, H, W) in the source frame, None where both frames are one.
    ``objects`` and ``source_objects``, in either frame, are both there or both None. ``proposals``: boxes in the working frame that a
    network looks at, all of label 0, or None where it makes its own.
    """

    pixels: npt.NDArray[Any] | OnDisk
    valid: npt.NDArray[np.bool_] | OnDisk
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    fingerprint: npt.NDArray[np.float32]
    mask: npt.NDArray[Any] | OnDisk | None
    source_valid: npt.NDArray[np.bool_] | OnDisk | None
    source_mask: npt.NDArray[Any] | OnDisk | None
    objects: PackedObjects | None = None
    source_objects: PackedObjects | None = None
    proposals: PackedObjects | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def placement(self) -> Placement:
        p = self.about["placement"]
        return Placement(tuple(p["source"]), tuple(p["crop"]), tuple(p["resized"]), tuple(p["pad"]))


def save_case(case: CachedCase, folder: Path) -> None:
    """Write all arrays to a folder that appears whole or not at all."""
    staged = folder.with_name(f".{folder.name}-{uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        for name in _ARRAYS:
            array = getattr(case, name)
            if array is not None:
                np.save(staged / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        for name, part, array in _object_arrays(case):
            np.save(staged / f"{name}-{part}.npy", array, allow_pickle=False)
        (staged / "about.json").write_text(json.dumps(case.about), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left unreadable by a full or failing disk
        try:
            os.rename(staged, folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same arrays
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load_case(folder: Path) -> CachedCase | None:
    """A case whose large arrays stay on disk, or None where there is none that can be read."""
    try:
        about: Mapping[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        arrays: dict[str, Any] = dict.fromkeys(_ARRAYS)
        for name in _ARRAYS:
            path = folder / f"{name}.npy"
            if path.exists():
                arrays[name] = OnDisk(path) if name in _LARGE else np.load(path, allow_pickle=False)
        arrays |= {name: _load_objects(folder, name) for name in _OBJECTS}
        return CachedCase(**arrays, about=dict(about))
    except (OSError, ValueError, KeyError):
        if folder.exists():
            log.warning("a cached case cannot be read and is made again")
        return None


def _object_arrays(case: CachedCase) -> Iterator[tuple[str, str, npt.NDArray[Any]]]:
    for name in _OBJECTS:
        packed = getattr(case, name)
        for part in fields(PackedObjects) if packed is not None else ():
            array = getattr(packed, part.name)
            if array is not None:
                yield name, part.name, array


def _load_objects(folder: Path, name: str) -> PackedObjects | None:
    paths = {part.name: folder / f"{name}-{part.name}.npy" for part in fields(PackedObjects)}
    there = {part: path for part, path in paths.items() if path.exists()}
    if not there:
        return None
    arrays: dict[str, Any] = {part: OnDisk(p) if part == "bits" else np.load(p, allow_pickle=False) for part, p in there.items()}
    return PackedObjects(**arrays)

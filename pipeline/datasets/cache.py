"""What is kept of a decoded, normalised case, and the folder that holds it on disk.

Kept is what normalisation leaves before its last step (normalise.Reduced): stored integers plus one offset and scale a channel,
a quarter of the float32 input and exactly equal to it. Masks are kept in the smallest integer that holds them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from pipeline.datasets.normalise import Reduced
from pipeline.types import Placement

# Raise when the cached arrays of the same files under the same configuration would come out differently.
CACHE_VERSION = 1
_ARRAYS = ("pixels", "valid", "source_valid", "mask", "source_mask", "offset", "scale", "fingerprint")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Kept:
    """One case, all its S slices (1 for a picture).

    ``pixels`` (S, C, h, w) · ``valid`` bool (S, h, w) · ``mask`` int (S, h, w) or None · ``offset``, ``scale`` float32 (S, C) in
    the working frame; ``source_valid`` and ``source_mask`` (S, H, W) in the source frame, None where both frames are one.
    """

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    fingerprint: npt.NDArray[np.float32]
    mask: npt.NDArray[Any] | None
    source_valid: npt.NDArray[np.bool_] | None
    source_mask: npt.NDArray[Any] | None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def placement(self) -> Placement:
        p = self.about["placement"]
        return Placement(tuple(p["source"]), tuple(p["crop"]), tuple(p["resized"]), tuple(p["pad"]))

    def reduced(self, index: int) -> Reduced:
        """Slice ``index`` as normalisation left it."""
        source_valid = self.valid if self.source_valid is None else self.source_valid
        return Reduced(
            self.pixels[index],
            self.valid[index],
            source_valid[index],
            self.offset[index],
            self.scale[index],
            self.about["clamp"],
            self.placement,
        )


def save_kept(kept: Kept, folder: Path) -> None:
    """Write all arrays to a folder that appears whole or not at all."""
    staged = folder.with_name(f".{folder.name}-{uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        for name in _ARRAYS:
            array = getattr(kept, name)
            if array is not None:
                np.save(staged / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        (staged / "about.json").write_text(json.dumps(kept.about), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left unreadable by a full or failing disk
        try:
            os.rename(staged, folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first, with the same arrays
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load_kept(folder: Path) -> Kept | None:
    """Mapped arrays, or None where there are none that can be read. Copy-on-write: a stray write never reaches the cache."""
    try:
        about: Mapping[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) if (folder / f"{name}.npy").exists() else None
            for name in _ARRAYS
        }
        return Kept(**arrays, about=dict(about))
    except (OSError, ValueError, KeyError):
        if folder.exists():
            log.warning("a cached case cannot be read and is made again")
        return None

"""What comes out: predictions in the source frame, and measures with units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.types.label import LabelMap
from pipeline.types.quality import FlagRecord, QualityRecord
from pipeline.types.scan import Geometry, require

Unit = Literal["1", "%", "px", "px2", "voxels", "mm", "mm2", "mm3", "um", "deg", "1/px", "1/mm", "1/px2", "1/mm2"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of one scan, in the SOURCE frame; whatever does not apply is None.

    ``probabilities`` float32 (K, H, W) or (K, D, H, W), foreground classes only · ``boxes`` float32 (N, 4) · ``labels`` int64 (N) ·
    ``scores`` float32 (N) · ``instance_masks`` bool (N, H, W) · ``grade_probabilities`` float32 (G), of what the whole picture may be ·
    ``attention`` float32 (h, w), 0..1, on a coarse grid over the whole source: where the network looked for that · ``uncertainty`` float32
    ([D,] H, W), 0..1. numpy arrays.

    What :func:`pipeline.segment` gives also has ``masks`` bool (K, [D,] H, W) at the bundles' thresholds, the scan's ``geometry``, the
    ``label_map`` of the K classes, and ``answers``: of each bundle that says what a scan as a whole is the class, or None where it is not
    sure enough; ``quality`` and ``flags``: how far all of that may be believed (docs/quality.md).
    """

    probabilities: npt.NDArray[np.float32] | None = None
    boxes: npt.NDArray[np.float32] | None = None
    labels: npt.NDArray[np.int64] | None = None
    scores: npt.NDArray[np.float32] | None = None
    instance_masks: npt.NDArray[np.bool_] | None = None
    grade_probabilities: npt.NDArray[np.float32] | None = None
    attention: npt.NDArray[np.float32] | None = None
    uncertainty: npt.NDArray[np.float32] | None = None
    bundle_id: str | None = None
    warnings: tuple[str, ...] = ()
    masks: npt.NDArray[np.bool_] | None = None
    geometry: Geometry | None = None
    label_map: LabelMap | None = None
    answers: Mapping[str, str | None] = field(default_factory=dict)
    quality: QualityRecord | None = None
    flags: tuple[FlagRecord, ...] = ()

    def __post_init__(self) -> None:
        if self.probabilities is not None:
            require(self.probabilities.ndim in (3, 4), f"probabilities {self.probabilities.shape} must be (K, [D,] H, W)")
        if self.grade_probabilities is not None:
            require(self.grade_probabilities.ndim == 1, f"grade probabilities {self.grade_probabilities.shape} must be (G)")
        counts = {len(v) for v in (self.boxes, self.labels, self.scores) if v is not None}
        require(len(counts) <= 1, "boxes, labels and scores must have one length")

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """The pixels of one class, bool ([D,] H, W), of what :func:`pipeline.segment` gives.

        Raises
        ------
        ValueError: no such class, with those that there are; or no masks at all.
        """
        if self.masks is None or self.label_map is None:
            raise ValueError("this prediction holds no masks; those of pipeline.segment do")
        names = self.label_map.names
        require(name in names, f"there is no class {name!r}; classes are: {', '.join(names)}")
        layer: npt.NDArray[np.bool_] = self.masks[names.index(name)]
        return layer


@dataclass(frozen=True)
class Measure:
    """A number with its unit and definition, or the reason why there is none. Never NaN."""

    value: float | None
    unit: Unit
    definition: str
    undefined: str | None = None

    def __post_init__(self) -> None:
        require((self.value is None) == (self.undefined is not None), "a measure has a value, or the reason why it has none")
        require(self.value is None or math.isfinite(self.value), f"a measure is finite, not {self.value}")

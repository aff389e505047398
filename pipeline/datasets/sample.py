"""One training or evaluation sample in the working frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pipeline.types import CaseKey, Laterality, Placement, Target


@dataclass(frozen=True, eq=False)
class Sample:
    """``image`` float32 (C, H, W), 0 outside ``valid`` bool (H, W); ``target`` of the same rows and columns.

    Of D consecutive slices of a volume: ``image`` (C, D, H, W), ``valid`` (D, H, W), ``target.mask`` (D, H, W). ``placement`` is of
    each slice: it leads from the source to this frame; of a cropped or augmented sample it is the identity, because its target
    has moved along and nothing is ever taken back from it.
    """

    image: Tensor
    valid: Tensor
    target: Target
    placement: Placement
    laterality: Laterality | None
    case: CaseKey

    def with_image(self, image: Tensor) -> Sample:
        return replace(self, image=image)

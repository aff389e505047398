"""What is said of a case's worth, between the network and the disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types.assessment import DoubtRecord, FlagRecord, MeasureRecord, QualityRecord


@dataclass(frozen=True, eq=False)
class Assessment:
    """What ``case.json`` says of it (types/assessment.py), and ``uncertainty`` float ([D,] H, W), 0..1, or None."""

    quality: QualityRecord | None = None
    flags: tuple[FlagRecord, ...] = ()
    measures: tuple[MeasureRecord, ...] = ()
    doubt: DoubtRecord | None = None
    uncertainty: npt.NDArray[np.floating[Any]] | None = None

    def fields(self) -> dict[str, Any]:
        """Those of :class:`CaseRecord` that are known."""
        known = {"quality": self.quality, "flags": self.flags, "measures": self.measures, "doubt": self.doubt}
        return {name: value for name, value in known.items() if value not in (None, ())}

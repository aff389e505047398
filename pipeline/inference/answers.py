"""What a bundle says that a scan as a whole is, ready to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.scans.raster import write_png
from pipeline.types import LabelMap, Prediction, Role
from pipeline.types.case_record import AnswerRecord


@dataclass(frozen=True, eq=False)
class Answer:
    """``probabilities`` (G) of the classes of ``label_map`` · ``least``: the confidence from which on each class is an answer ·
    ``attention`` of each plane, float32 (h, w), or none."""

    name: str
    label_map: LabelMap
    probabilities: npt.NDArray[np.float32]
    least: tuple[float, ...]
    bundle_id: str
    attention: tuple[npt.NDArray[np.float32], ...] = ()

    @classmethod
    def of(cls, name: str, label_map: LabelMap, predictions: Sequence[Prediction], least: Sequence[float], bundle_id: str) -> Answer:
        """From the predictions of all planes, whose probabilities are averaged."""
        each = [one.grade_probabilities for one in predictions if one.grade_probabilities is not None]
        whole = np.asarray(np.mean(np.stack(each), axis=0, dtype=np.float64), dtype=np.float32)
        seen = tuple(one.attention for one in predictions if one.attention is not None)
        return cls(name, label_map, whole, tuple(least), bundle_id, seen if len(seen) == len(each) else ())

    @property
    def names(self) -> tuple[str, ...]:
        return self.label_map.names

    @property
    def roles(self) -> tuple[Role | None, ...]:
        return self.label_map.roles

    @property
    def answer(self) -> str | None:
        best = int(self.probabilities.argmax())
        # As float: numpy would round the threshold to float32 first, onto one of the two probabilities that it lies between.
        return self.names[best] if float(self.probabilities[best]) >= self.least[best] else None

    def write(self, folder: Path, number: int) -> AnswerRecord:
        """Write pictures of the attention, as the answer of that ``number`` of a case; returns the record."""
        files = [f"attention_{number}_{plane:03d}.png" for plane in range(len(self.attention))]
        for file, seen in zip(files, self.attention, strict=True):
            write_png(folder / file, np.rint(seen * 255).astype(np.uint8))
        # The shortest decimals of the float32 values, so that a reader is on the same side of the threshold.
        chances = {name: min(float(str(chance)), 1.0) for name, chance in zip(self.names, self.probabilities, strict=True)}
        return AnswerRecord(
            name=self.name,
            answer=self.answer,
            probabilities=chances,
            threshold=self.least[int(self.probabilities.argmax())],
            bundle_id=self.bundle_id,
            attention=tuple(files),
        )

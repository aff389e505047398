"""One frame through the network, and what it found drawn on it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.drawing.overlay import draw_overlay
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.live.detail import Detail
from pipeline.live.field import TrackedField
from pipeline.live.meter import Spent
from pipeline.live.source import Frame, Picture
from pipeline.metrics.threshold import DEFAULT_THRESHOLD
from pipeline.types import CaseKey, Geometry, Prediction, Scan

_PREPARED_SIZE = (480, 640)
_ROWS_A_LINE = 700
"""Rows of a picture for each pixel of a contour's width."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame and its overlay, (H, W, 3). ``answer``: what the whole picture is, of a bundle that says that; ``refused``: why the network
    did not see it; else ""."""

    frame: Frame
    overlay: Picture
    spent: Spent
    answer: str = ""
    refused: str = ""


class Look:
    """A bundle's way of looking at frames. ``keep_up`` with a camera: no flips, and no finer a picture than ``detail`` allows.

    Raises
    ------
    ConfigError: the bundle looks at volumes.
    """

    def __init__(self, predictor: Predictor, detail: Detail, *, keep_up: bool) -> None:
        if predictor.task.volumes:
            raise ConfigError(f"{predictor.bundle.config.name} looks at neighbouring slices, of which a video has none; give another model")
        predictor.task.quick = keep_up
        self.predictor, self.detail = predictor, detail
        self.field = TrackedField(predictor.field_of_view)

    def prepare(self) -> None:
        """Have libraries loaded and memory taken before the first frame, which would wait for that."""
        grey = np.full((*_PREPARED_SIZE, 3), 128, np.uint8)
        Look(self.predictor, Detail(0), keep_up=self.predictor.task.quick).at(Frame(0, grey, 0.0, 0.0))

    def at(self, frame: Frame) -> Shown:
        began = time.perf_counter()
        try:
            ready = self._ready(frame)
            prepared = time.perf_counter()
            assert ready.reduced is not None
            found = self.predictor.finished(self.predictor.together([ready])[0], ready.reduced, ())
            layers = self.predictor.layers(found)
        except (ScanError, MemoryError) as error:  # of one frame; the next may be another
            refused = str(error) or "memory did not suffice"
            picture = draw_overlay(frame.pixels, None, self.predictor.marked)
            return Shown(frame, picture, Spent(time.perf_counter() - began, 0.0, 0.0), refused=refused)
        looked = time.perf_counter()
        answer = self._answer(found)
        picture = self._drawn(frame.pixels, layers, found, answer)
        ended = time.perf_counter()
        self.detail.took(ended - began)
        return Shown(frame, picture, Spent(prepared - began, looked - prepared, ended - looked), answer)

    def _ready(self, frame: Frame) -> PreprocessedScan:
        pixels = np.ascontiguousarray(np.moveaxis(frame.pixels, -1, 0))
        key = CaseKey("live", "U", "0", str(frame.number))
        scan = Scan(pixels, Geometry(pixels.shape[1:]), self.predictor.bundle.modality, key, "0" * 64)
        return self.predictor.ready_within(scan, self.field.of(pixels), self.detail.now)

    def _answer(self, found: Prediction) -> str:
        if found.grade_probabilities is None:
            return ""
        answer = self.predictor.answer([found])
        best = int(answer.probabilities.argmax())
        said = f"{answer.names[best]} {answer.probabilities[best]:.0%}"
        return f"{answer.name}: {said if answer.answer else f'not sure ({said})'}"

    def _drawn(self, pixels: Picture, layers: npt.NDArray[np.bool_] | None, found: Prediction, answer: str) -> Picture:
        label_map, width = self.predictor.marked, max(1, round(pixels.shape[0] / _ROWS_A_LINE))
        if found.boxes is None or found.labels is None or found.scores is None:
            return draw_overlay(pixels, layers, label_map, width=width, caption=answer)
        least = np.array([self.predictor.task.thresholds.get(name, DEFAULT_THRESHOLD) for name in label_map.names])
        counted = found.scores >= least[found.labels - 1]
        boxes, labels, scores = found.boxes[counted], found.labels[counted], found.scores[counted]
        return draw_overlay(pixels, layers, label_map, boxes=boxes, labels=labels, scores=scores, width=width)

"""An OCT scan is graded by its signal and its band of tissue; what has neither is not measurable."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.phantoms.oct import draw_oct
from pipeline.phantoms.others import OTHERS
from pipeline.quality.bscan import bscan_quality, slice_values
from pipeline.quality.judge import judge
from pipeline.types import LabelMap
from tests.quality.drawn import scan_of


@pytest.fixture(scope="module")
def volume() -> npt.NDArray[np.uint8]:
    return draw_oct((1, 2), "R", slices=3).volume


def test_a_phantoms_scan_is_good_and_is_judged_as_what_its_file_says(volume: npt.NDArray[np.uint8]) -> None:
    record = bscan_quality(volume[None])
    assert (record.grade, record.reasons) == ("good", ())
    assert judge(scan_of(volume, "oct"), LabelMap(()), np.zeros_like(volume), None)[0] == record
    assert bscan_quality(volume[None, 1]).grade == "good"


def test_the_more_noise_the_weaker_the_signal(volume: npt.NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0).normal(size=volume[1].shape)
    noisy = [(volume[1] * (1 - amount) + 90 * amount * random).clip(0, 255).astype(np.uint8) for amount in (0.0, 0.4, 0.95)]
    records = [bscan_quality(plane[None]) for plane in noisy]
    signals = [record.scores["signal"] for record in records]
    assert signals == sorted(signals, reverse=True)
    assert records[2].grade == "not_measurable"


def test_a_retina_beyond_the_top_of_the_scan_is_told(volume: npt.NDArray[np.uint8]) -> None:
    plane = volume[1]
    bright = int(plane.mean(axis=1).argmax())
    record = bscan_quality(plane[None, bright:])
    assert record.scores["clipped"] < 0.5
    assert any("cut off" in reason for reason in record.reasons)


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_scan_is_not_measurable(what: str) -> None:
    picture = OTHERS[what](200, 300, np.random.default_rng(0))
    assert bscan_quality(np.moveaxis(picture, -1, 0)).grade == "not_measurable"


def test_single_blinks_of_a_volume_do_not_count_but_most_slices_do(volume: npt.NDArray[np.uint8]) -> None:
    blinked = volume.copy()
    blinked[0] = 0
    assert bscan_quality(blinked[None]).grade == "good"
    blinked[1] = 0
    assert bscan_quality(blinked[None]).grade == "not_measurable"
    assert slice_values(blinked[0])["signal"] == 0

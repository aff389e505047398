"""The field of view is followed, detail gives way to speed and comes back, and what a bundle finds is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.inference.predict import Predictor
from pipeline.live.detail import STEPS, Detail
from pipeline.live.field import TrackedField
from pipeline.live.look import Look
from pipeline.live.source import Frame
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.field_of_view import detect_field_of_view
from tests.inference.conftest import make_bundle, run_config
from tests.inference.spots import canvas, spot_bundle
from tests.tasks.test_classification import EYES
from tests.tasks.test_classification import task as classification


def test_a_field_that_stays_keeps_its_mask_and_one_that_moves_is_found_anew() -> None:
    pixels = np.moveaxis(draw_fundus(1, "L", (256, 300)).image, -1, 0)
    field = TrackedField(detect_field_of_view)
    first = field.of(pixels)
    assert np.array_equal(first, detect_field_of_view(pixels))
    rng = np.random.default_rng(0)
    for _ in range(3):
        grain = np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)
        assert field.of(grain) is first
    moved = np.roll(pixels, 20, axis=2)
    moved[:, :, :20] = 0
    second = field.of(moved)
    assert field.found == 2
    assert np.array_equal(second, detect_field_of_view(moved))
    assert field.of(pixels[:, ::2, ::2]).shape == (128, 150), "another camera"


def test_detail_gives_way_until_there_is_time_and_comes_back() -> None:
    detail = Detail(least_fps=10)
    assert detail.now == 1
    for _ in range(40):
        detail.took(0.25 * detail.now**2)
    assert detail.now == 0.59, "the finest with 0.25 s times its square within 0.1 s"
    for _ in range(80):
        detail.took(0.05 * detail.now**2)
    assert detail.now == 1
    slow = Detail(least_fps=10)
    for _ in range(2):
        slow.took(100.0)
    assert slow.now == STEPS[-1], "who is far too slow need not prove it five times"
    never = Detail(0)
    for _ in range(20):
        never.took(9.0)
    assert never.now == 1


def test_a_coarser_look_finds_the_same_in_the_frame_of_the_source(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, config=run_config(field_of_view="detect", working_diameter_px=200))
    pixels = np.zeros((120, 150, 3), np.uint8)
    pixels[20:100, 30:130] = 40
    pixels[40:70, 50:90, 2] = 255
    frame = Frame(0, pixels, 0.0, 0.0)
    look = Look(Predictor(bundle), Detail(10), keep_up=True)
    fine = look.at(frame).overlay
    for _ in range(3):
        look.detail.took(1.0)
    assert look.detail.now < 0.5
    coarse = look.at(frame).overlay
    for overlay in (fine, coarse):
        drawn = (overlay != pixels).any(axis=2)[:100]
        assert set(np.flatnonzero(drawn.any(axis=1)).tolist()) <= set(range(37, 73))
        assert drawn.sum() > 60


def test_objects_above_the_threshold_are_drawn_and_volumes_refused(tmp_path: Path) -> None:
    bundle = spot_bundle(tmp_path, thresholds={"kind1": 0.5, "kind2": 0.5})
    look = Look(Predictor(bundle), Detail(0), keep_up=False)
    pixels = canvas([(14, 6, 5, 5, 0.9, 1), (50, 90, 6, 8, 0.3, 2)], shape=(120, 160))
    changed = (look.at(Frame(0, pixels, 0.0, 0.0)).overlay != pixels).any(axis=2)
    assert changed[14:19, 6:11].any()
    assert not changed[48:60, 88:100].any()
    bundle.task.volumes = True
    with pytest.raises(ConfigError, match="of which a video has none"):
        Look(Predictor(bundle), Detail(0), keep_up=False)


def test_what_the_whole_picture_is_stands_in_words_and_is_held_back_where_the_network_is_not_sure(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, label_map=EYES, task=classification())
    bundle.task.thresholds = {"right": 0.6, "left": 0.6}
    look = Look(Predictor(bundle), Detail(0), keep_up=True)
    sides = np.zeros((60, 80, 3), np.uint8)
    sides[:, 40:] = 200
    shown = look.at(Frame(0, sides, 0.0, 0.0))
    assert shown.answer == "tiny: left 73%"  # the logistic function of 1, as percentiles normalise to 0..1
    changed = (shown.overlay != sides).any(axis=2)
    assert changed[:16].any(), "it is written above"
    assert not changed[18:40].any()
    even = np.tile(np.arange(60, dtype=np.uint8)[:, None, None], (1, 80, 3))
    assert look.at(Frame(1, even, 0.0, 0.0)).answer == "tiny: not sure (right 50%)"

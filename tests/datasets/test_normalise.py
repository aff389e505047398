"""Field of view, statistics and working frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.normalise import NormaliseConfig, preprocess, to_working, working_placement
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.scans.raster import read_image
from pipeline.types import Modality, Placement
from tests.conftest import shared_data


def disc(rows: int, columns: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns] + 0.5
    cy, cx = centre or (rows / 2, columns / 2)
    return (y - cy) ** 2 + (x - cx) ** 2 < radius**2


def photograph(valid: np.ndarray, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale = 1 if dtype == np.uint8 else 200
    image = random.normal(loc=[[[150]], [[90]], [[50]]], scale=12, size=(3, *valid.shape)).clip(30, 255) * scale
    return np.where(valid, image, random.integers(0, 4, size=image.shape) * scale).astype(dtype)


def network_input(pixels: np.ndarray, config: NormaliseConfig, modality: Modality, valid: np.ndarray | None = None) -> torch.Tensor:
    return preprocess(pixels, config, modality, valid).to_float()[0]


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("shape", [(120, 160), (700, 900), (1300, 1000)])
def test_a_disc_is_found_at_any_size_and_depth(shape: tuple[int, int]) -> None:
    valid = disc(*shape, 0.45 * min(shape))
    for dtype in (np.uint8, np.uint16):
        assert iou(detect_field_of_view(photograph(valid, dtype=dtype)), valid) > 0.98


def test_shadows_specks_and_lettering_do_not_move_it() -> None:
    valid = disc(300, 400, 130)
    image = photograph(valid)
    image[:, 140:160, 66:90] = 4  # a shadow at the rim is still retina
    image[:, 5:12, 5:60] = 250  # lettering in the corner is not
    assert iou(detect_field_of_view(image), valid) > 0.97


@pytest.mark.parametrize("value", [0, 90])
def test_a_picture_without_surround_is_all_field_of_view(value: int) -> None:
    assert detect_field_of_view(np.full((3, 50, 70), value, np.uint8)).all()
    texture = (np.random.default_rng(0).random((1, 64, 80)) < 0.2).astype(np.uint8) * 255
    assert detect_field_of_view(texture).all(), "scattered bright pixels are no disc"


def test_field_of_view_against_the_masks_of_chase() -> None:
    root = shared_data("chase_db1")
    scores = []
    for mask in sorted((root / "fov_masks").glob("*.png")):
        image = read_image(root / "images" / f"{mask.stem}.jpg").transpose(2, 0, 1)
        scores.append(iou(detect_field_of_view(image), read_image(mask) > 0))
    assert len(scores) == 28
    assert np.mean(scores) >= 0.985
    assert min(scores) >= 0.98


def test_zscore_inside_the_field_of_view_and_zero_outside() -> None:
    valid = disc(60, 84, 25)
    image = photograph(valid)
    compact = preprocess(image, NormaliseConfig(), "fundus", valid)
    out, out_valid = compact.to_float()
    assert out.dtype == torch.float32
    assert compact.placement == Placement.identity(60, 84)
    assert torch.equal(out_valid, torch.from_numpy(valid))
    inside = out[:, out_valid].double()
    assert torch.allclose(inside.mean(dim=1), torch.zeros(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(inside.std(dim=1, unbiased=False), torch.ones(3, dtype=torch.float64), atol=1e-5)
    assert not out[:, ~out_valid].any()
    brighter = network_input((image.astype(np.uint16) * 3 + 20), NormaliseConfig(), "fundus", valid)
    assert torch.allclose(brighter, out, atol=1e-4), "gain and offset of the camera do not matter"


def test_what_lies_outside_does_not_matter() -> None:
    valid = disc(60, 84, 25)
    image = photograph(valid)
    other = np.where(valid, image, 255).astype(np.uint8)
    assert torch.equal(network_input(image, NormaliseConfig(), "fundus", valid), network_input(other, NormaliseConfig(), "fundus", valid))


def test_percentile_is_what_it_says() -> None:
    image = np.arange(101, dtype=np.uint8).repeat(2).reshape(1, 2, 101)
    out = network_input(image, NormaliseConfig(method="percentile", percentiles=(10, 90)), "oct")
    expected = ((torch.from_numpy(image).double() - 10) / 80).clamp(0, 1)
    assert torch.allclose(out.double(), expected, atol=1e-6)


def test_channels() -> None:
    valid = np.ones((5, 7), bool)
    image = np.zeros((3, 5, 7), np.uint8)
    image[0], image[1], image[2] = 100, np.arange(7) * 10, 30
    green = preprocess(image, NormaliseConfig(channels="green"), "fundus", valid)
    assert np.array_equal(green.pixels, image[1:2])
    grey = preprocess(image, NormaliseConfig(channels="grey"), "fundus", valid)
    assert np.array_equal(grey.pixels[0, 0], np.rint(0.299 * 100 + 0.587 * image[1, 0] + 0.114 * 30))
    assert preprocess(image[:1], NormaliseConfig(channels="green"), "fundus", valid).pixels.shape == (1, 5, 7)


def test_a_flat_channel_becomes_zero_not_infinite() -> None:
    image = np.stack([np.full((5, 7), 80, np.uint8), np.arange(35, dtype=np.uint8).reshape(5, 7), np.zeros((5, 7), np.uint8)])
    out = network_input(image, NormaliseConfig(field_of_view="whole"), "fundus")
    assert torch.isfinite(out).all()
    assert not out[0].any()
    assert not out[2].any()
    assert out[1].any()


@pytest.mark.parametrize("config", [NormaliseConfig(method="percentile"), NormaliseConfig(), NormaliseConfig(background_sigma=8)])
def test_rounding_noise_is_not_blown_up_and_faint_signal_is_kept(config: NormaliseConfig) -> None:
    random = np.random.default_rng(0)
    for dark in (random.integers(0, 2, (1, 60, 84), dtype=np.uint8), np.full((1, 60, 84), 80, np.uint8), np.full((1, 60, 84), 0.3)):
        assert not network_input(dark, config, "oct").any()
    faint = random.integers(0, 12, (1, 60, 84), dtype=np.uint8)
    assert network_input(faint, config, "oct").std() > 0.1
    assert network_input(faint / np.float32(1e4), config, "oct").std() > 0.1, "fractions may be as small as they like"


@pytest.mark.parametrize(
    ("choice", "modality", "given", "expected"),
    [("card", "fundus", True, "given"), ("card", "fundus", False, "disc"), ("detect", "fundus", True, "disc"),
     ("whole", "fundus", True, "all"), ("card", "oct", False, "all"), ("card", "slo", False, "all"), ("detect", "octa", False, "all")],
)  # fmt: skip
def test_which_field_of_view_is_used(choice: Any, modality: Any, given: bool, expected: str) -> None:
    valid = disc(120, 168, 52)
    card = np.zeros_like(valid)
    card[40:80, 50:120] = True
    used = preprocess(photograph(valid), NormaliseConfig(field_of_view=choice), modality, card if given else None).valid
    assert {"given": np.array_equal(used, card), "disc": iou(used, valid) > 0.97, "all": used.all()}[expected]


def test_working_diameter_scales_the_field_of_view_and_leaves_near_ones_alone() -> None:
    valid = disc(300, 400, 130)
    for wanted, scale in ((130, 0.5), (520, 2.0), (250, 1.0), (270, 1.0)):
        placement = working_placement(valid, NormaliseConfig(working_diameter_px=wanted))
        assert placement.resized == (round(300 * scale), round(400 * scale))
    half, half_valid = preprocess(photograph(valid), NormaliseConfig(working_diameter_px=130), "fundus", valid).to_float()
    assert half.shape == (3, 150, 200)
    assert abs(int(np.ptp(np.flatnonzero(half_valid.any(dim=0)))) + 1 - 130) <= 1
    inside = half[:, half_valid]
    assert torch.allclose(inside.mean(dim=1), torch.zeros(3), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from([(64, 48), (40, 96), (100, 100)]))
def test_letterbox_keeps_aspect_and_comes_back(rows: int, columns: int, size: tuple[int, int]) -> None:
    placement = working_placement(np.ones((rows, columns), bool), NormaliseConfig(working_size=size))
    assert placement.net == size
    height, width = placement.resized
    assert abs(height / rows - width / columns) <= 0.5 / min(rows, columns) + 0.5 / min(rows, columns)
    if placement.scale[0] >= 2:
        mask = (np.random.default_rng(rows).random((rows, columns)) > 0.5).astype(np.int64)
        there = torch.from_numpy(to_working(mask, placement, fill=-1))[None]
        assert np.array_equal(placement.to_source(there, mode="nearest")[0].numpy(), mask)


def test_resizing_is_antialiased_for_images_and_nearest_for_masks() -> None:
    placement = working_placement(np.ones((64, 96), bool), NormaliseConfig(working_size=(32, 48)))
    checker = np.indices((64, 96)).sum(axis=0) % 2
    image = to_working((checker * 200).astype(np.uint8)[None], placement)
    assert image.dtype == np.uint8
    assert abs(int(image[0, 5:-5, 5:-5].astype(int).mean()) - 100) <= 2
    assert np.ptp(image[0, 5:-5, 5:-5]) <= 60, "a pattern finer than the new grid becomes grey, not stripes"
    codes = (checker * (2**31 - 2)).astype(np.int64)
    assert set(np.unique(to_working(codes, placement))) <= {0, 2**31 - 2}


def test_background_removal_flattens_illumination_only() -> None:
    valid = disc(200, 280, 92)
    slope = np.linspace(60, 160, 280, dtype=np.float32)[None].repeat(200, 0)
    vessel = np.zeros_like(slope)
    vessel[:, 135:140] = -40
    image = ((slope + vessel) * valid)[None].repeat(3, 0).astype(np.uint8)
    out = network_input(image, NormaliseConfig(background_sigma=20), "fundus", valid)[0].numpy()
    core = disc(200, 280, 60)
    left, right = out[:, :130][core[:, :130]].mean(), out[:, 145:][core[:, 145:]].mean()
    assert abs(left - right) < 0.2
    assert out[100, 137] < out[100, 110] - 2
    assert not out[~valid].any()


def test_clahe_evens_contrast_and_stays_inside() -> None:
    valid = disc(128, 176, 58)
    image = photograph(valid)
    image[:, :, :88] //= 3
    plain, even = (network_input(image, NormaliseConfig(clahe=c), "fundus", valid)[1].numpy() for c in (None, 0.03))
    halves = np.arange(176)[None].repeat(128, 0) < 70, np.arange(176)[None].repeat(128, 0) > 106
    assert abs(even[halves[0] & valid].mean() - even[halves[1] & valid].mean()) < abs(
        plain[halves[0] & valid].mean() - plain[halves[1] & valid].mean()
    )
    assert not even[~valid].any()


@pytest.mark.parametrize(
    "config", [NormaliseConfig(), NormaliseConfig(working_size=(96, 64)), NormaliseConfig(clahe=0.02), NormaliseConfig(method="percentile")]
)
def test_pixels_stay_integers_wherever_no_filter_makes_fractions(config: NormaliseConfig) -> None:
    valid = disc(60, 84, 25)
    assert np.issubdtype(preprocess(photograph(valid), config, "fundus", valid).pixels.dtype, np.integer)
    assert preprocess(photograph(valid), NormaliseConfig(background_sigma=8), "fundus", valid).pixels.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, np.int32, np.uint32])
def test_every_stored_dtype_is_taken(dtype: Any) -> None:
    image = np.random.default_rng(0).normal(1000, 50, size=(1, 20, 30)).astype(dtype)
    out = network_input(image, NormaliseConfig(), "oct")
    assert abs(float(out.std(unbiased=False)) - 1) < 1e-4
    assert network_input(image, NormaliseConfig(working_size=(64, 64)), "oct").shape == (1, 64, 64)


@pytest.mark.parametrize(
    "wrong", [{"percentiles": (60, 40)}, {"working_size": (64, 64), "working_diameter_px": 64}, {"working_size": (8, 64)}]
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"percentiles|exclude|at least"):
        NormaliseConfig(**wrong)

"""The field of view of drawn photographs with every kind of surround, and of real ones."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pipeline.scans import field_of_view as module
from pipeline.scans.array import scan_of_array
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter, field_of_view
from pipeline.scans.raster import read_image
from tests.conftest import shared_data

ROWS, COLUMNS = 420, 560


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def disc(radius: float = 190, centre: tuple[float, float] = (ROWS / 2, COLUMNS / 2)) -> np.ndarray:
    y, x = np.mgrid[:ROWS, :COLUMNS] + 0.5
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)


def photograph(valid: np.ndarray, surround: tuple[int, int, int], noise: float = 5) -> np.ndarray:
    """uint8 (3, H, W): retina that grows dark towards one side, on an uneven, noisy surround, through a JPEG file."""
    random = np.random.default_rng(7)
    x = np.linspace(-1, 1, valid.shape[1])
    retina = (
        np.array([200, 110, 60])[:, None, None]
        * (1 - 0.6 * np.clip(x, 0, 1))
        * ndimage.gaussian_filter(random.normal(1, 1, valid.shape), 3)
    )
    around = np.array(surround)[:, None, None] + 6 * x
    edge = ndimage.gaussian_filter(valid.astype(float), 0.7)
    image = retina * edge + around * (1 - edge) + random.normal(0, noise, retina.shape)
    file = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


SURROUNDS = {
    "black": (2, 2, 2),
    "dark green": (12, 48, 20),
    "green": (30, 95, 40),
    "dark red": (45, 14, 12),
    "blue": (15, 20, 75),
    "grey": (70, 70, 70),
    "white": (246, 246, 246),
}


@pytest.mark.parametrize("surround", SURROUNDS.values(), ids=SURROUNDS)
def test_the_surround_may_have_any_colour(surround: tuple[int, int, int]) -> None:
    valid = disc()
    found = detect_field_of_view(photograph(valid, surround))
    assert iou(found, valid) > 0.975
    assert field_diameter(found) == pytest.approx(380, abs=5)


def test_a_field_of_view_that_is_cut_by_the_picture_or_covers_a_corner() -> None:
    for valid in (disc(230), disc(240, (ROWS / 2, COLUMNS - 180)), disc(330, (250, 200))):
        assert iou(detect_field_of_view(photograph(valid, (12, 40, 20))), valid) > 0.975


def test_notches_and_straight_cuts_are_outside_and_a_tab_is_inside() -> None:
    valid = disc()
    valid[: ROWS // 2 - 150] = False  # a straight cut above
    valid[ROWS // 2 - 10 : ROWS // 2 + 10, 60:110] = False  # a notch from the left
    tab = np.s_[ROWS // 2 - 8 : ROWS // 2 + 8, 460:482]
    valid[tab] = True
    found = detect_field_of_view(photograph(valid, (6, 6, 6)))
    assert iou(found, valid) > 0.975
    assert found[ROWS // 2 - 6 : ROWS // 2 + 6, 60:104].mean() < 0.02
    assert found[ROWS // 2 - 5 : ROWS // 2 + 5, 460:478].mean() > 0.98
    assert not found[ROWS // 2 - 14 : ROWS // 2 - 11, 476:482].any(), "the corner beside the tab is surround"


def test_a_photograph_that_fills_its_frame_is_field_of_view_everywhere() -> None:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    dark_corners = 1 - 0.8 * np.clip(np.hypot(y / ROWS - 0.5, x / COLUMNS - 0.5) / 0.7, 0, 1)
    retina = photograph(np.ones((ROWS, COLUMNS), bool), (0, 0, 0))
    assert detect_field_of_view(retina).all()
    assert detect_field_of_view((retina * dark_corners).astype(np.uint8)).all()


def test_a_shadow_at_the_rim_is_retina() -> None:
    valid = disc()
    image = photograph(valid, (2, 2, 2)).astype(float)
    shadow = ndimage.gaussian_filter(disc(40, (ROWS / 2, 95)).astype(float), 6)
    found = detect_field_of_view((image * (1 - 0.85 * shadow)).astype(np.uint8))
    assert iou(found, valid) > 0.97


@pytest.mark.parametrize(
    ("name", "masks", "image", "count"), [("drive", "fov_masks", "png", 40), ("hrf_half", "fov_masks_computed", "jpg", 42)]
)
def test_against_the_masks_of_public_sets(name: str, masks: str, image: str, count: int) -> None:
    root = shared_data(name)
    files = sorted((root / masks).glob("*.png"))
    assert len(files) == count
    scores = []
    for mask in files[::3]:
        pixels = read_image(root / "images" / f"{mask.stem}.{image}").transpose(2, 0, 1)
        scores.append(iou(detect_field_of_view(pixels), read_image(mask) > 0))
    assert np.mean(scores) >= 0.985
    assert min(scores) >= 0.97


def test_a_scan_has_its_field_of_view_sought_once_and_again_for_other_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[int] = []
    monkeypatch.setattr(module, "detect_field_of_view", lambda pixels: sought.append(1) or detect_field_of_view(pixels))
    picture = np.zeros((80, 90, 3), np.uint8)
    picture[10:70, 20:80] = 180
    scan = scan_of_array(picture, "fundus", None)
    first = field_of_view(scan)
    assert field_of_view(replace(scan, modality="slo")) is first
    assert len(sought) == 1
    assert np.array_equal(first, detect_field_of_view(scan.pixels))
    other = replace(scan, pixels=np.roll(scan.pixels, 9, axis=2))
    assert np.array_equal(field_of_view(other), np.roll(first, 9, axis=1))
    assert np.array_equal(field_of_view(scan), first)

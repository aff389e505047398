"""One scan through a bundle whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.inference.predict import Predictor
from pipeline.types import CaseKey, Geometry, Scan
from tests.inference.conftest import DISC_CUP, make_bundle, picture, run_config

CASE = CaseKey("p", "R", "v", "i")


def scan_of(pixels: np.ndarray, modality: str = "fundus", spacing: tuple[float, ...] | None = None) -> Scan:
    geometry = Geometry(pixels.shape[1:], spacing, "unknown" if spacing is None else "tag")
    return Scan(pixels, geometry, modality, CASE, "a" * 64)  # type: ignore[arg-type]


def test_a_picture_comes_back_in_its_own_frame(tmp_path: Path) -> None:
    pixels = np.moveaxis(picture(1), -1, 0)
    predictor = Predictor(make_bundle(tmp_path))
    prediction = predictor.predict(scan_of(pixels))
    assert prediction.bundle_id == "0123456789ab"
    assert prediction.warnings == ()
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (1, 24, 37)
    assert np.allclose(prediction.probabilities[0], pixels[2] / 255, atol=1e-6)
    assert (predictor.layers(prediction)[0] == (pixels[2] / 255 >= 0.5)).all()


@pytest.mark.parametrize("normalise", [{"working_size": [48, 48]}, {"working_diameter_px": 74}])
def test_another_working_size_does_not_change_the_frame(tmp_path: Path, normalise: dict[str, object]) -> None:
    pixels = np.zeros((3, 24, 37), dtype=np.uint8)
    pixels[:, 3:15, 20:33] = 255
    predictor = Predictor(make_bundle(tmp_path, config=run_config(**normalise)))
    prediction = predictor.predict(scan_of(pixels))
    layer = predictor.layers(prediction)[0]
    assert layer.shape == (24, 37)
    # Resampling may move the outline by a pixel, never the square.
    assert np.count_nonzero(layer != (pixels[2] > 0)) <= 12


def test_a_volume_slice_by_slice(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, size=(1, 5, 12, 17), dtype=np.uint8)
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, 255
    predictor = Predictor(make_bundle(tmp_path, modality="oct", input_channels=1, label_map=DISC_CUP))
    prediction = predictor.predict(scan_of(pixels, "oct"))
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (2, 5, 12, 17)
    assert np.allclose(prediction.probabilities[0], pixels[0] / 255, atol=1e-6)
    assert np.allclose(prediction.probabilities[1], pixels[0] / 510, atol=1e-6)
    assert predictor.layers(prediction).shape == (2, 5, 12, 17)


def test_nothing_is_found_outside_the_field_of_view(tmp_path: Path) -> None:
    pixels = np.moveaxis(picture(3), -1, 0)
    field = np.zeros((24, 37), dtype=bool)
    field[4:20, 5:30] = True
    predictor = Predictor(make_bundle(tmp_path, config=run_config(field_of_view="card")))
    prediction = predictor.predict(scan_of(pixels), valid=field)
    assert prediction.probabilities is not None
    assert not prediction.probabilities[:, ~field].any()
    assert prediction.probabilities[:, field].any()


@pytest.mark.parametrize(
    ("channels", "wanted", "expected"),
    [(1, 3, "grey pixels were repeated to colour"), (3, 1, "colour pixels were turned to grey (Rec. 601)")],
)
def test_other_channels_are_converted_and_said(tmp_path: Path, channels: int, wanted: int, expected: str) -> None:
    pixels = np.moveaxis(picture(4), -1, 0)[:channels]
    predictor = Predictor(make_bundle(tmp_path, input_channels=wanted))
    prediction = predictor.predict(scan_of(pixels))
    assert prediction.warnings == (expected,)
    grey = pixels[0] if channels == 1 else np.rint(np.tensordot([0.299, 0.587, 0.114], pixels, axes=1))
    assert prediction.probabilities is not None
    low, high = grey.min(), grey.max()
    assert np.allclose(prediction.probabilities[0], (grey - low) / (high - low), atol=1e-5)


def test_one_channel_normalisations_take_either_without_a_word(tmp_path: Path) -> None:
    pixels = np.moveaxis(picture(5), -1, 0)
    predictor = Predictor(make_bundle(tmp_path, input_channels=1, config=run_config(channels="green")))
    assert predictor.predict(scan_of(pixels)).warnings == ()
    assert predictor.predict(scan_of(pixels[:1])).warnings == ()


def test_what_is_unlike_training_is_said(tmp_path: Path) -> None:
    pixels = np.moveaxis(picture(6), -1, 0)
    predictor = Predictor(make_bundle(tmp_path, spacing_mm=(0.01, 0.01)))
    assert predictor.warnings(scan_of(pixels, spacing=(0.012, 0.012))) == ()
    assert predictor.warnings(scan_of(pixels, spacing=(0.02, 0.02))) == ("pixels are 0.02 mm wide, in training 0.01 mm",)
    assert predictor.warnings(scan_of(pixels, "octa")) == ("the scan is octa, the bundle was trained on fundus",)
    assert predictor.warnings(scan_of(pixels, "unknown")) == ("the scan is of unknown modality, the bundle was trained on fundus",)

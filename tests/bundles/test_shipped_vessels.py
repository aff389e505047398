"""The shipped model `vessels`: it is what its card says, and gives on stored pictures the Dice that it had when it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.shipped_models import read_model
from pipeline.inference.predict import Predictor
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.scans.open import open_scan
from tests.conftest import shared_data

PHANTOM, CHASE_11L = 0.8293, 0.8310
"""Dice when it was made, inside the field of view."""
TOLERANCE = 0.003
"""Other versions of torch and other processors round otherwise; a pixel here and there comes to lie on the other side of the threshold."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("shipped:vessels")


def dice(bundle: Bundle, photograph: Path, truth: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]) -> float:
    predictor = Predictor(bundle)
    layers = predictor.layers(predictor.predict(open_scan(photograph)))
    assert layers is not None
    own, truth = layers[0] & inside, truth & inside
    return float(2 * (own & truth).sum() / (own.sum() + truth.sum()))


def test_it_is_what_its_card_says(bundle: Bundle) -> None:
    model = read_model("vessels")
    assert bundle.id == model.id
    assert f"`{bundle.id}`" in model.card
    assert f"{sum(p.numel() for p in bundle.task.parameters()):,} parameters" in model.card
    assert f"threshold {bundle.thresholds['vessel']:g}" in model.card
    for on, _, value, low, high in model.scores:
        assert low is not None
        assert high is not None
        assert f"| {on} | {value:.3f} [{low:.3f}, {high:.3f}] |" in model.card


def test_no_test_image_has_trained_it_and_nothing_but_openly_licensed_ones(bundle: Bundle) -> None:
    trained = trained_on(bundle)
    assert trained.split is not None
    seen = {key.patient for key in (*trained.split.train, *trained.split.validation)}
    assert seen == {f"{child:02}" for child in range(1, 11)} | {f"{n}-{kind}" for n in range(11, 16) for kind in ("g", "dr", "h")} - {
        "11-h",
        "12-h",
        "13-h",
    }


def test_on_an_artificial_eye(bundle: Bundle, tmp_path: Path) -> None:
    phantom = draw_fundus(7, "R", (576, 640), severity=0.0)
    Image.fromarray(phantom.image).save(tmp_path / "eye.png")
    assert dice(bundle, tmp_path / "eye.png", phantom.masks["vessel"], phantom.field_of_view) == pytest.approx(PHANTOM, abs=TOLERANCE)


def test_on_a_real_photograph_of_the_test_part(bundle: Bundle) -> None:
    root = shared_data("chase_db1")
    photograph = root / "images" / "Image_11L.jpg"
    truth = np.asarray(Image.open(root / "masks_1stHO" / "Image_11L.png").convert("L")) > 0
    inside = detect_field_of_view(np.moveaxis(np.asarray(Image.open(photograph)), -1, 0))
    assert dice(bundle, photograph, truth, inside) == pytest.approx(CHASE_11L, abs=TOLERANCE)

"""The shipped models: each is what its card says, and gives on stored pictures the Dice that it had when it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.bundles.leakage import trained_on
from pipeline.bundles.shipped_models import SHIPPED, names, read_model
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.evaluation.device_lines import read_beside_device
from pipeline.inference.predict import Predictor
from pipeline.measurements.surfaces import Surfaces, find_surfaces, surface_errors
from pipeline.phantoms.degrade import DEGRADATIONS
from pipeline.phantoms.fundus import draw_fundus
from pipeline.phantoms.oct_set import write_oct_set
from pipeline.resources import EXAMPLES
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.scans.open import open_scan
from pipeline.types import Scan
from tests.conftest import shared_data
from workflows.shipped_models import listed, scores

PHANTOM = {"vessels": ("vessel", 0.8078), "vessels_little": ("vessel", 0.8100), "disc": ("disc", 0.9234)}
"""Dice when it was made, inside the field of view, of an artificial eye's structure."""
PHANTOM_OCT = {"ILM": 1.4, "BM": 1.2}
"""Micrometres that the surfaces of ``oct_layers`` are off in an artificial eye that has not trained it."""
EXAMPLE, DRISHTI_002 = {"vessels": 0.8263, "vessels_little": 0.8210}, 0.9690
"""The same of the vessels and of ``disc`` on a photograph."""
LESIONS = (0.856, 0.808, 0.758, 0.740)
"""The highest scores of ``lesions`` in an artificial eye with many of them."""
WHOLE, WHOLE_POOR = {"eye_side": 0.999, "picture_kind": 0.992}, (0.0, 0.0, 0.999)
"""Probability of what a photograph of the test part is; and of "poor" as it is blurred more and more."""
TOLERANCE = 0.003
"""Other versions of torch and other processors round otherwise; a pixel here and there comes to lie on the other side of the threshold."""


@pytest.fixture(scope="module", params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(name: str) -> Bundle:
    return load_bundle(f"shipped:{name}")


def dice(bundle: Bundle, photograph: Path, truth: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]) -> float:
    predictor = Predictor(bundle)
    layers = predictor.layers(predictor.predict(open_scan(photograph)))
    assert layers is not None
    own, truth = layers[0] & inside, truth & inside
    return float(2 * (own & truth).sum() / (own.sum() + truth.sum()))


def test_it_is_what_its_card_says(name: str, bundle: Bundle) -> None:
    model = read_model(name)
    assert bundle.id == model.id
    assert f"`{bundle.id}`" in model.card
    assert f"{sum(p.numel() for p in bundle.task.parameters()):,} parameters" in model.card
    for threshold in bundle.thresholds.values():
        assert f"threshold {threshold:g}" in model.card
    assert model.scores
    for _, _, value, low, high in model.scores:
        ends = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        assert f"| {value:.3f}{ends} |" in model.card
    rows = json.loads((model.path / "scores.json").read_text(encoding="utf-8"))
    for row in (row for row in rows if "beside" in row):
        (line,) = (line for line in model.card.splitlines() if line.startswith(f"| {row['on']} |"))
        assert all(f"| {row['beside'][measure]:.3f} [" in line for measure in ("sensitivity", "specificity"))


def test_scores_that_the_workflow_writes_are_those_that_a_listing_reads(tmp_path: Path) -> None:
    means = {name: {"value": 0.98765, "low": 0.9, "high": 0.99} for name in ("dice", "pixel_accuracy", "sensitivity", "specificity")}
    shutil.copytree(SHIPPED / "disc", tmp_path / "disc")
    summary = {"classes": {"optic_disc": {"mean_per_image": means}, "cup": {"mean_per_image": means}}}
    text = listed({("somewhere", name): row for name, row in scores(summary).items()})
    (tmp_path / "disc" / "scores.json").write_text(text, encoding="utf-8")
    assert read_model("disc", tmp_path).scores == tuple(("somewhere", f"Dice {name}", 0.98765, 0.9, 0.99) for name in ("optic_disc", "cup"))
    assert json.loads(text)[1]["beside"] == {"pixel_accuracy": 0.98765, "sensitivity": 0.98765, "specificity": 0.98765}


@pytest.mark.parametrize("name", ["vessels", "vessels_little"])
def test_no_test_image_has_trained_vessels_and_nothing_but_openly_licensed_ones(name: str) -> None:
    trained = trained_on(load_bundle(f"shipped:{name}"))
    assert trained.split is not None
    seen = {key.patient for key in (*trained.split.train, *trained.split.validation)}
    assert seen == {f"{child:02}" for child in range(1, 11)} | {f"{n}-{kind}" for n in range(11, 16) for kind in ("g", "dr", "h")} - {
        "11-h",
        "12-h",
        "13-h",
    }


@pytest.mark.parametrize(("name", "card"), [("disc", "idrid_codras"), ("lesions", "idrid_lesions")])
def test_disc_and_lesions_have_learnt_from_idrid_alone(name: str, card: str) -> None:
    trained = trained_on(load_bundle(f"shipped:{name}"))
    assert trained.split is not None
    assert (len(trained.split.train), len(trained.split.validation)) == (359, 74)
    assert load_bundle(f"shipped:{name}").config.data.card == card


@pytest.mark.parametrize("name", PHANTOM)
def test_on_an_artificial_eye(name: str, tmp_path: Path) -> None:
    structure, then = PHANTOM[name]
    bundle = load_bundle(f"shipped:{name}")
    phantom = draw_fundus(7, "R", (576, 640), severity=0.0)
    Image.fromarray(phantom.image).save(tmp_path / "eye.png")
    assert dice(bundle, tmp_path / "eye.png", phantom.masks[structure], phantom.field_of_view) == pytest.approx(then, abs=TOLERANCE)


@pytest.mark.parametrize("name", EXAMPLE)
def test_vessels_on_a_real_photograph_of_the_test_part(name: str) -> None:
    photograph = EXAMPLES / "photographs" / "chase_db1_12R.jpg"
    truth = np.asarray(Image.open(EXAMPLES / "vessels" / "chase_db1_12R.png").convert("L")) > 0
    assert dice(load_bundle(f"shipped:{name}"), photograph, truth, field(photograph)) == pytest.approx(EXAMPLE[name], abs=TOLERANCE)


def test_lesions_in_artificial_eyes_with_many_and_with_none(tmp_path: Path) -> None:
    predictor, found = Predictor(load_bundle("shipped:lesions")), {}
    for severity in (0.0, 0.8):
        Image.fromarray(draw_fundus(7, "R", (576, 640), severity=severity).image).save(tmp_path / "eye.png")
        found[severity] = predictor.predict(open_scan(tmp_path / "eye.png")).scores
    assert found[0.8] is not None
    assert found[0.8][:4] == pytest.approx(LESIONS, abs=0.02)
    assert found[0.0] is not None
    assert len(found[0.0]) == 0


@pytest.mark.parametrize(("name", "answer", "of_mirrored"), [("eye_side", "right", "left"), ("picture_kind", "fundus", "fundus")])
def test_whole_pictures_of_the_test_part(name: str, answer: str, of_mirrored: str, tmp_path: Path) -> None:
    photograph = EXAMPLES / "photographs" / "chase_db1_12R.jpg"
    Image.open(photograph).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    probabilities, best = chances(name, photograph)
    assert best == answer
    assert max(probabilities) == pytest.approx(WHOLE[name], abs=0.02)
    assert chances(name, tmp_path / "mirrored.png")[1] == of_mirrored


def test_quality_falls_with_blur(tmp_path: Path) -> None:
    photograph = EXAMPLES / "photographs" / "chase_db1_12R.jpg"
    poor = []
    for amount in (0.0, 0.35, 0.9):
        picture = DEGRADATIONS["blur"](np.asarray(Image.open(photograph)), amount, np.random.default_rng(0))
        Image.fromarray(picture).save(tmp_path / "blurred.png")
        poor.append(chances("quality", tmp_path / "blurred.png")[0][0])
    assert poor == sorted(poor)
    assert poor == pytest.approx(WHOLE_POOR, abs=0.03)


def chances(name: str, photograph: Path) -> tuple[list[float], str]:
    """The probabilities of its classes, and the most probable one."""
    bundle = load_bundle(f"shipped:{name}")
    found = Predictor(bundle).predict(open_scan(photograph)).grade_probabilities
    assert found is not None
    return found.tolist(), bundle.label_map.names[int(found.argmax())]


def test_disc_on_a_real_photograph_of_another_camera() -> None:
    root = shared_data("drishti_gs_half_train")
    photograph = root / "images" / "drishtiGS_002.jpg"
    truth = np.asarray(Image.open(root / "softmap_od" / "drishtiGS_002.png").convert("L")) >= 191
    assert dice(load_bundle("shipped:disc"), photograph, truth, field(photograph)) == pytest.approx(DRISHTI_002, abs=TOLERANCE)


def test_oct_layers_have_learnt_from_phantoms_alone() -> None:
    bundle = load_bundle("shipped:oct_layers")
    trained = trained_on(bundle)
    assert bundle.config.data.card == "phantom_oct_layers"
    assert trained.split is not None
    assert {key.patient for key in (*trained.split.train, *trained.split.validation)} <= {f"P{number:04}" for number in range(1, 37)}


def surface_errors_of(scan: Scan, true: Surfaces) -> dict[str, float | None]:
    """Micrometres, by surface."""
    bundle = load_bundle("shipped:oct_layers")
    found = Predictor(bundle).predict(scan).probabilities
    assert found is not None
    errors = surface_errors(find_surfaces(found, bundle.label_map).only(true.names), true, scan.geometry.spacing_mm)
    return {error.name: error.mean_abs for error in errors}


def test_oct_layers_in_an_artificial_eye(tmp_path: Path) -> None:
    write_oct_set(tmp_path, 1, 1007)
    card = load_card("phantom_oct_layers")
    case = next(case for case in find_cases(card, tmp_path / "card") if "circle" in case.key.visit)
    scan = read_scan(card, case)
    mask = read_truth(card, case, scan=scan).mask
    assert mask is not None
    assert surface_errors_of(
        scan, find_surfaces(card.label_map.layers(np.asarray(mask)), card.label_map).only(("ILM", "BM"))
    ) == pytest.approx(PHANTOM_OCT, abs=0.2)


def test_oct_layers_beside_the_lines_that_a_spectralis_drew() -> None:
    path = shared_data("spectralis_vol") / "Willis_B_716_2.vol"
    reading = read_beside_device(Predictor(load_bundle("shipped:oct_layers")), path)
    assert {error.name: error.mean_abs for error in reading.errors} == pytest.approx({"ILM": 1.15, "RNFL-GCL": 4.05, "BM": 2.94}, abs=0.2)


def field(photograph: Path) -> npt.NDArray[np.bool_]:
    return detect_field_of_view(np.moveaxis(np.asarray(Image.open(photograph)), -1, 0))

"""The main path with a classifier: train on which eye a phantom is -> evaluate -> predict a hospital folder -> report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import load_bundle, segment
from pipeline.bundles.bundle import save_bundle
from pipeline.config import parse_config
from pipeline.phantoms.hospital import write_hospital
from pipeline.scans.raster import read_image
from pipeline.tasks.base import TASKS
from pipeline.types import LabelClass, LabelMap
from tests.flows.test_main_path import run

SETTINGS = [
    "train.epochs=2",
    "train.validate_every=2",
    "train.validation_loss=true",
    "data.crops_per_image=4",
    "data.normalise.working_size=[64, 64]",
    "task.most_abstained=0.3",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished path: ``h`` the hospital, ``r`` the run, ``e`` the evaluation, ``p`` the predictions."""
    home = tmp_path_factory.mktemp("path")
    write_hospital(home / "h", 6, 0, fundus_shape=(200, 224), oct_shape=(2, 64, 80))
    arguments = ["phantom_eye", "--root", home / "h" / "card", "--out", home / "r", "--device", "cpu"]
    run(["train", *arguments, *(part for setting in SETTINGS for part in ("--set", setting)), "--json"], home)
    bundle = next((home / "r").glob("*/bundle"))
    run(["evaluate", bundle, "--card", "phantom_eye", "--root", home / "h" / "card", "--out", home / "e", "--json"], home)
    # OCT in the hospital is no photograph, so it is rejected with its reason: exit code 3.
    run(["predict", bundle, home / "h" / "scans", "--out", home / "p", "--json"], home, code=3)
    run(["report", home / "p"], home)
    return home


def test_the_run_records_scores_a_temperature_and_pictures(home: Path) -> None:
    folder = next((home / "r").glob("phantom_eye-*"))
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(last["train/loss/cross_entropy"])
    assert np.isfinite(last["validation/loss/cross_entropy"])
    assert 0 <= last["validation/balanced_accuracy"] <= 1
    bundle = load_bundle(folder / "bundle")
    assert set(bundle.thresholds) == {"right", "left"}
    assert {"validation/accuracy", "validation/auroc", "validation/calibration_error", "validation/abstained"} <= set(bundle.metrics)
    assert float(bundle.task.state_dict()["temperature"]) != 1
    pictures = {path.name for path in (home / "r").rglob("*.png")}
    assert {"validation_confusion.png", "validation_reliability.png"} <= pictures


def test_evaluation_has_scores_with_intervals_and_a_row_a_picture(home: Path) -> None:
    summary = json.loads((home / "e" / "summary.json").read_text())
    grades = summary["grades"]
    assert summary["classes"] == {}
    assert grades["images"] == summary["images"] == np.sum(grades["confusion"])
    assert {"accuracy", "balanced_accuracy", "auroc", "accuracy_answered", "abstained", "calibration_error"} <= set(grades["scores"])
    assert (home / "e" / "confusion.png").is_file()
    assert (home / "e" / "reliability.png").is_file()
    with (home / "e" / "grades.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["truth"] == row["most_probable"] for row in rows]
    assert grades["scores"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert all(float(row["p_right"]) + float(row["p_left"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(row["answer"] in ("", row["most_probable"]) for row in rows)


def test_a_case_holds_the_answer_and_where_the_network_looked_and_no_mask(home: Path) -> None:
    cases = sorted((home / "p" / "cases").iterdir())
    assert cases
    for case in cases:
        record = json.loads((case / "case.json").read_text())
        (answer,) = record["answers"]
        assert answer["name"] == "phantom_eye"
        best = max(answer["probabilities"], key=answer["probabilities"].get)
        sure = answer["probabilities"][best] - answer["threshold"]
        assert answer["answer"] in ((best,) if sure > 1e-5 else (None,) if sure < -1e-5 else (best, None))  # both are rounded
        assert read_image(case / answer["attention"][0]).max() == 255
        assert record["classes"] == {}
        assert not list(case.glob("mask*"))


def test_the_report_shows_answers_and_a_layer_of_attention(home: Path) -> None:
    pages = [path.read_text() for path in (home / "p" / "report" / "cases").glob("*.html")]
    assert pages
    assert all('id="answers"' in page and 'data-attention="0"' in page and "attention_0_000.png" in page for page in pages)
    index = (home / "p" / "report" / "index.html").read_text()
    assert "phantom_eye: " in index
    assert "nothing of" not in index.lower()


def test_an_answer_stands_beside_the_masks_of_another_bundle(home: Path, tmp_path: Path) -> None:
    config = parse_config(
        "name: dots\nseed: 0\ndata: {card: phantom, crop: 32}\ntask: {name: semantic}\nmodel: {name: unet, widths: [4, 8]}\n"
    )
    label_map = LabelMap((LabelClass(1, "vessel", (86, 180, 233)),))
    from pipeline.bundles.bundle import build_task

    save_bundle(
        tmp_path / "dots", task=build_task(config, 3, label_map), config=config, label_map=label_map, card_sha256="0" * 64, metrics={},
        thresholds={"vessel": 0.5}, input_channels=3, modality="fundus",
    )  # fmt: skip
    eye = next((home / "r").glob("*/bundle"))
    picture = next((home / "h" / "card" / "images").glob("*_L_*.png"))
    found = segment(read_image(picture), [tmp_path / "dots", eye], device="cpu")
    assert found.label_map is not None
    assert found.label_map.names == ("vessel",)
    assert found.masks is not None
    assert found.masks.shape[0] == 1
    assert found.probabilities is not None
    assert set(found.answers) == {"phantom_eye"}
    alone = segment(read_image(picture), [eye], device="cpu")
    assert alone.answers == found.answers
    assert alone.grade_probabilities == pytest.approx(found.grade_probabilities)
    sure = load_bundle(eye)
    sure.task.thresholds = {}  # the side of an array is nowhere stated: it is the one that the picture shows
    shown = segment(read_image(picture), [sure], device="cpu")
    assert shown.geometry is not None
    assert shown.geometry.laterality == {"right": "R", "left": "L"}[shown.answers["phantom_eye"] or ""]
    assert shown.geometry.laterality_source == "picture"
    scans = home / "h" / "card" / "images"
    run(["predict", tmp_path / "dots", scans, "--out", tmp_path / "p", "--json"], home)
    assert TASKS.names() == ["classification", "detection", "semantic"]

"""The main path with a detector: train a Mask R-CNN -> evaluate with proposals -> predict a hospital folder -> report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.phantoms.hospital import write_hospital
from pipeline.scans.raster import read_image
from tests.flows.test_main_path import run

SETTINGS = [
    "train.epochs=8",
    "train.minutes=null",
    "train.validate_every=8",
    "train.validation_loss=true",
    "train.learning_rate=0.004",
    "data.normalise.working_diameter_px=128",
    "model.fpn_channels=32",
    "task.detections=20",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished path: ``h`` the hospital, ``r`` the run, ``e`` the evaluation, ``p`` the predictions."""
    home = tmp_path_factory.mktemp("path")
    write_hospital(home / "h", 6, 0, fundus_shape=(200, 224), oct_shape=(2, 64, 80))
    arguments = ["phantom_disc_cup_mask_rcnn", "--root", home / "h" / "card", "--out", home / "r", "--device", "cpu"]
    run(["train", *arguments, *(part for setting in SETTINGS for part in ("--set", setting)), "--json"], home)
    bundle = next((home / "r").glob("*/bundle"))
    run(
        ["evaluate", bundle, "--card", "phantom_disc_cup", "--root", home / "h" / "card", "--out", home / "e", "--proposals", "--json"],
        home,
    )
    # OCT in the hospital is no photograph, so it is rejected with its reason: exit code 3.
    run(["predict", bundle, home / "h" / "scans", "--out", home / "p", "--json"], home, code=3)
    run(["report", home / "p"], home)
    return home


def test_the_run_records_losses_and_scores_of_both_kinds(home: Path) -> None:
    folder = next((home / "r").glob("phantom_disc_cup_mask_rcnn-*"))
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    parts = ("rpn_objectness", "rpn_box", "class", "box", "mask")
    assert all(np.isfinite(last[f"{side}/loss/{part}"]) for side in ("train", "validation") for part in parts)
    assert all(0 <= last[f"validation/{name}"] <= 1 for name in ("dice/disc", "dice", "ap50", "mask_ap50"))


def test_evaluation_has_dice_and_average_precision_in_one_summary(home: Path) -> None:
    summary = json.loads((home / "e" / "summary.json").read_text())
    assert set(summary["classes"]) == {"disc", "cup"}
    for name in ("disc", "cup"):
        assert summary["classes"][name]["mean_per_image"]["dice"]["images"] == summary["images"]
    found = summary["detection"]
    for kind in ("box", "mask"):
        assert found[kind]["ap50"] == pytest.approx(np.mean([found[kind]["classes"][name]["ap50"] for name in ("disc", "cup")]))
    assert found["proposals"] is not None
    assert (home / "e" / "precision_recall.png").is_file()
    assert list((home / "e" / "proposals").glob("*.png"))
    with (home / "e" / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # One disc and one cup in each image, and each is either found or not.
    assert len(rows) == 2 * summary["images"]
    assert all(int(row["tp"]) + int(row["fn"]) == 1 for row in rows)


def test_objects_are_the_same_in_every_file_of_a_case(home: Path) -> None:
    cases = [path for path in (home / "p" / "cases").iterdir() if (path / "objects.json").is_file()]
    assert cases
    seen = 0
    for case in cases:
        listed = json.loads((case / "objects.json").read_text())
        scores = [item["score"] for item in listed["objects"]]
        assert scores == sorted(scores, reverse=True)
        kept = [item for item in listed["objects"] if item["score"] >= listed["thresholds"][item["class"]]]
        ids = set()
        for path in case.glob("instances_*.png"):
            ids |= set(np.unique(read_image(path)).tolist()) - {0}
        assert ids <= {item["id"] for item in kept}
        record = json.loads((case / "case.json").read_text())
        for name, found in record["classes"].items():
            assert found["objects"] == sum(item["class"] == name for item in kept)
        seen += len(listed["objects"])
    together = json.loads((home / "p" / "coco.json").read_text())
    assert len(together["annotations"]) == seen > 0
    assert {category["name"] for category in together["categories"]} == {"disc", "cup"}


def test_the_report_shows_a_slider_and_counts(home: Path) -> None:
    pages = [path.read_text() for path in (home / "p" / "report" / "cases").glob("*.html")]
    assert pages
    assert all('type="range"' in page for page in pages)
    assert "disc" in (home / "p" / "report" / "index.html").read_text()

"""The whole main path as a user walks it: broken hospital folder -> index -> train -> evaluate -> predict -> report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.phantoms.hospital import write_hospital
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan

SETTINGS = [
    "train.epochs=3",
    "train.minutes=null",
    "train.validate_every=3",
    "model.widths=[4, 8, 16]",
    "data.crop=[96, 128]",
    "data.crops_per_image=1",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished path: ``h`` the hospital, ``r`` the run, ``p`` the predictions."""
    home = tmp_path_factory.mktemp("path")
    write_hospital(home / "h", 8, 0, broken=True, fundus_shape=(200, 224), oct_shape=(3, 64, 80))
    arguments = ["phantom_little", "--root", home / "h" / "card", "--out", home / "r", "--device", "cpu"]
    run(["train", *arguments, *(part for setting in SETTINGS for part in ("--set", setting)), "--json"], home)
    bundle = next((home / "r").glob("*/bundle"))
    run(["evaluate", bundle, "--card", "phantom", "--root", home / "h" / "card", "--out", home / "e", "--json"], home)
    run(["predict", bundle, home / "h" / "scans", "--out", home / "p", "--json"], home, code=3)
    run(["report", home / "p"], home)
    return home


def run(arguments: list[Any], home: Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"OCUSEG_SITE_KEY": str(home / "site.key")})
    assert result.exit_code == code, result.output + str(result.exception or "")
    return result.stdout


def test_the_run_holds_its_provenance(home: Path) -> None:
    folder = next((home / "r").glob("phantom_little-*"))
    assert {"config.yaml", "split.json", "manifest.json", "environment.json", "history.jsonl", "bundle"} <= {
        p.name for p in folder.iterdir()
    }
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(np.isfinite(row["train/loss"]) for row in history)
    assert 0 <= history[-1]["validation/dice"] <= 1
    assert (home / "r" / "mlflow.db").exists()


def test_evaluation_writes_each_image_and_a_summary(home: Path) -> None:
    summary = json.loads((home / "e" / "summary.json").read_text())
    with (home / "e" / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    mean = np.mean([float(row["dice"]) for row in rows])
    vessel = summary["classes"]["vessel"]["mean_per_image"]["dice"]
    assert vessel["value"] == pytest.approx(mean)
    assert (vessel["low"], vessel["high"]) == (None, None)  # two patients give no interval


def test_every_file_of_the_folder_is_in_the_ledger_once(home: Path) -> None:
    files = sum(1 for path in (home / "h" / "scans").rglob("*") if path.is_file())
    with (home / "p" / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == files == len({row["token"] for row in rows})
    assert {row["status"] for row in rows} == {"done", "rejected", "duplicate", "not_an_image"}
    assert all(row["reason"] and row["code"] for row in rows if row["status"] == "rejected")
    done = {row["case"] for row in rows if row["status"] == "done"}
    assert {p.name for p in (home / "p" / "cases").iterdir()} == done


def test_masks_lie_where_the_scan_lies(home: Path) -> None:
    pseudonyms = Pseudonyms.load_or_create(home / "site.key")
    path = next((home / "h" / "scans").rglob("OD_photo.dcm"))
    scan = open_scan(path, pseudonyms=pseudonyms, root=home / "h" / "scans")
    assert scan.geometry.spacing_source == "tag", "an OP photograph states its spacing"
    mask = open_scan(home / "p" / "cases" / str(scan.case) / "mask.nii.gz")
    assert mask.geometry.shape == scan.geometry.shape
    assert mask.geometry.spacing_mm == pytest.approx(scan.geometry.spacing_mm)


def test_no_identity_is_written_anywhere(home: Path) -> None:
    secrets = [b"PHANTOM^", b"P0001", str(home / "h").encode()]
    for folder in ("r", "e", "p"):
        for path in (home / folder).rglob("*"):
            if path.is_file() and path.suffix != ".nii.gz":
                data = path.read_bytes()
                # The phantoms' card is public data: its own case names may stand in what training and evaluation write.
                for secret in secrets if folder == "p" else secrets[::2]:
                    assert secret not in data, f"{path.relative_to(home)} holds {secret!r}"


def test_the_report_stands_alone(home: Path) -> None:
    page = (home / "p" / "report" / "index.html").read_text()
    assert "Research use, not for diagnosis" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for html in (home / "p" / "report").rglob("*.html"):  # one photograph's tags hold a script element
        assert "<script>alert('phantom')" not in html.read_text()

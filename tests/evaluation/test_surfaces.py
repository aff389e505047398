"""A bundle with layers: what is evaluated and written of surfaces and fluid, worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.evaluation.evaluate import evaluate, summary_lines
from pipeline.inference.folder import predict_folder
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.types import Batch, Geometry, LabelClass, LabelMap, Prediction
from pipeline.types.assessment import QualityRecord
from tests.cards.conftest import card_text
from tests.inference.conftest import BrightTask, make_bundle
from tests.scans.test_vendor import LARGEST, Vol

SPACING = (0.25, 0.004, 0.01)
RETINA = LabelMap(
    tuple(LabelClass(i, name, (i, i, i)) for i, name in enumerate(("inner", "outer", "fluid"), 1)),
    layered=("inner", "outer"),
    surfaces=("ILM", "middle", "BM"),
)
CARD: dict[str, Any] = {
    "name": "tiny_oct",
    "modality": "oct",
    "classes": [{"name": name, "colour": [i, i, i]} for i, name in enumerate(("inner", "outer", "fluid"), 1)],
    "layers": ["inner", "outer"],
    "surfaces": ["ILM", "middle", "BM"],
    "images": {"file": "scans/{patient}_{eye}.nii.gz"},
    "labels": [{"kind": "values", "file": "labels/{patient}_{eye}.nii.gz", "values": {1: "inner", 2: "outer", 3: "fluid", 9: "ignore"}}],
    "parts": {"patients": {"train": ["a"], "test": ["b", "c"]}},
}


class GreyTask(BrightTask):
    """A pixel's grey value, 0 to 1, times four is its class: 0 background, 1 inner, 2 outer, 3 fluid."""

    def predict(self, batch: Batch) -> list[Prediction]:
        out = []
        for image, placement in zip(batch.images, batch.placements, strict=True):
            number = torch.round(image[0] * 4)
            out.append(Prediction(probabilities=placement.to_source(torch.stack([(number == k).float() for k in (1, 2, 3)])).numpy()))
        return out


@pytest.fixture
def layered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    made = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1, label_map=RETINA, task=GreyTask(RETINA), thresholds={})
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": made)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    monkeypatch.setattr("pipeline.evaluation.evaluate.select", lambda bundle, card, known, part, trained: (known, []))
    monkeypatch.setattr("pipeline.evaluation.evaluate.check_unseen", lambda hashes, part, trained: [])
    return made


def retina(top: int = 4, middle: int = 8, bottom: int = 12) -> npt.NDArray[np.uint8]:
    """Three slices of 16 x 10: two layers, and above all a bright pixel that keeps the scale."""
    out = np.zeros((3, 16, 10), np.uint8)
    out[:, top:middle], out[:, middle:bottom] = 1, 2
    return out


def grey(classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    shown = classes * np.uint8(60)
    shown[:, 0, 0], shown[:, 0, 1] = 240, 0  # each slice goes from 0 to 240, so that normalisation divides by 240
    return shown


def write(root: Path, name: str, classes: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8], spaced: bool = True) -> None:
    geometry = Geometry(classes.shape, SPACING, "tag") if spaced else Geometry(classes.shape)
    for folder, array in (("scans", grey(classes)), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_nifti(root / folder / f"{name}.nii.gz", array, geometry)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def score(tmp_path: Path, **changes: object) -> dict[str, Any]:
    (tmp_path / "tiny_oct.md").write_text(card_text(**CARD | changes))
    root, out = tmp_path / "data", tmp_path / "out"
    return evaluate(tmp_path / "bundle", str(tmp_path / "tiny_oct.md"), root, part="all", out=out, device="cpu")


def test_surfaces_are_scored_against_the_labels(tmp_path: Path, layered: Bundle) -> None:
    found = retina()
    found[1, 4:5] = 0  # on the middle slice the ILM found lies a pixel deeper
    label = retina(bottom=13)  # Bruch's membrane found lies a pixel too high
    label[2, 6:, :4] = 9  # nobody knows where the last slice's four columns end
    write(tmp_path / "data", "b_R", found, label)
    write(tmp_path / "data", "c_L", retina(), retina())
    summary = score(tmp_path)
    rows = {(row["case"], row["surface"]): row for row in table(tmp_path / "out" / "surfaces.csv")}
    assert list(rows) == [(case, name) for case in ("b_R_0_b-R", "c_L_0_c-L") for name in ("ILM", "middle", "BM")]
    ilm, middle, membrane = (rows["b_R_0_b-R", name] for name in ("ILM", "middle", "BM"))
    assert (ilm["unit"], ilm["patient"]) == ("um", "b")
    assert float(ilm["mean_abs"]) == pytest.approx(4 * 10 / 30, abs=1e-4)
    assert float(ilm["bias"]) == pytest.approx(4 * 10 / 30, abs=1e-4)
    assert float(ilm["p95"]) == 4
    assert (ilm["columns"], ilm["missing"]) == ("30", "0")
    assert (float(ilm["jump_found"]), float(ilm["jump_true"])) == (4, 0)  # a pixel down and up again
    assert (middle["columns"], middle["missing"], float(middle["mean_abs"])) == ("26", "0", 0)
    assert (membrane["columns"], float(membrane["mean_abs"]), float(membrane["bias"])) == ("26", 4, -4)
    assert summary["surfaces"]["unit"] == "um"
    of_ilm = summary["surfaces"]["surfaces"]["ILM"]
    assert of_ilm["mean_abs"]["value"] == pytest.approx(2 / 3 * 1, abs=1e-4)
    assert (of_ilm["mean_abs"]["low"], of_ilm["mean_abs"]["no_interval"]) == (None, "n = 2 patients")
    assert (of_ilm["columns"], of_ilm["missing"]) == (60, 0)
    assert summary["files"]["surfaces.csv"]
    text = "\n".join(summary_lines(summary))
    assert "surfaces, in um" in text
    assert "BM               error 2.00 (n = 2 patients)  bias -2.00  95 % within 2.00  found in 100.0% of A-scans" in text


@pytest.mark.parametrize("stray", [False, True])
def test_surfaces_of_a_layer_that_was_not_found_are_not_found(tmp_path: Path, layered: Bundle, stray: bool) -> None:
    """Wherever the best cut falls, with a stray pixel elsewhere too: where the layer's Dice is 0, its surfaces are missing."""
    found = retina(middle=12)  # all of it is taken for the inner layer
    if stray:
        found[1, 15, 3] = 2
    for name in ("b_R", "c_L"):
        write(tmp_path / "data", name, found, retina())
    summary = score(tmp_path)
    assert summary["classes"]["outer"]["mean_per_image"]["dice"]["value"] == 0
    surfaces = summary["surfaces"]["surfaces"]
    assert {name: (own["columns"], own["missing"]) for name, own in surfaces.items()} == {"ILM": (60, 0), "middle": (0, 60), "BM": (0, 60)}
    text = "\n".join(summary_lines(summary))
    assert "middle           not found in any of the 60 A-scans in which it is labelled" in text
    assert text.count("found in 100.0% of A-scans") == 1


def test_one_scan_without_spacing_makes_all_of_the_summary_pixels(tmp_path: Path, layered: Bundle) -> None:
    write(tmp_path / "data", "b_R", retina(top=5), retina())
    write(tmp_path / "data", "c_L", retina(top=7), retina(), spaced=False)
    summary = score(tmp_path)
    assert [row["unit"] for row in table(tmp_path / "out" / "surfaces.csv")] == ["um"] * 3 + ["px"] * 3
    assert summary["surfaces"]["unit"] == "px"
    assert summary["surfaces"]["surfaces"]["ILM"]["mean_abs"]["value"] == pytest.approx((1 + 3) / 2)


def test_a_card_without_layers_has_no_surfaces(tmp_path: Path, layered: Bundle) -> None:
    write(tmp_path / "data", "b_R", retina(), retina())
    summary = score(tmp_path, layers=None, surfaces=None)
    assert "surfaces" not in summary
    assert not (tmp_path / "out" / "surfaces.csv").exists()


def test_surfaces_of_other_names_are_not_compared(tmp_path: Path, layered: Bundle) -> None:
    write(tmp_path / "data", "b_R", retina(), retina())
    summary = score(tmp_path, surfaces=None)
    assert "surfaces" not in summary
    assert any("no surface of the card" in warning for warning in summary["warnings"])


def test_each_predicted_volume_has_its_surfaces_thickness_and_fluid(
    tmp_path: Path, layered: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A retina of eight rows is thinner than any, so that its numbers would be withheld.
    monkeypatch.setattr("pipeline.inference.assess.judge", lambda *known: (QualityRecord(grade="good"), ()))
    scan = retina()
    scan[0, 9:11, 2:4] = scan[1, 10:12, 3:5] = scan[1, 5, 8] = 3  # two slices, and a speck; the fluid reaches BM on the second
    scan[2, :, 9] = 0  # an A-scan in which nothing is
    path = tmp_path / "scans" / "P1" / "V1" / "cube.nii.gz"
    path.parent.mkdir(parents=True)
    write_nifti(path, grey(scan), Geometry(scan.shape, SPACING, "tag"))
    assert predict_folder(layered.path, tmp_path / "scans", tmp_path / "out")["done"] == 1
    (folder,) = (tmp_path / "out" / "cases").iterdir()
    lines = table(folder / "surfaces.csv")
    assert len(lines) == 3 * 10
    assert lines[0] == {"slice": "0", "column": "0", "ILM": "4.00", "middle": "8.00", "BM": "12.00"}
    assert lines[29] == {"slice": "2", "column": "9", "ILM": "", "middle": "", "BM": ""}
    assert (lines[13]["slice"], lines[13]["column"], lines[13]["BM"]) == ("1", "3", "12.00")
    record = json.loads((folder / "case.json").read_text())
    assert record["layers"] == {"inner": {"mean_thickness": 16, "unit": "um"}, "outer": {"mean_thickness": 16, "unit": "um"}}
    assert record["fluid_components"] == {"fluid": {"number": 2, "volume": pytest.approx(9 * 0.25 * 0.004 * 0.01), "unit": "mm3"}}
    thickness = {measure["key"]: measure for measure in record["measures"]}["thickness_inner"]
    assert (thickness["low"], thickness["value"], thickness["high"], thickness["scale"]) == (16, 16, 16, "tag"), "the network is sure"
    assert "by its odds" in thickness["interval"]
    numbers = open_scan(folder / "fluid_components.nii.gz")
    assert numbers.geometry == open_scan(path).geometry
    assert (numbers.pixels[0] == np.where(scan == 3, 1, 0) + (np.arange(16)[:, None] == 5) * (scan == 3)).all()
    assert [
        (row["component"], row["class"], row["voxels"], row["first_slice"], row["last_slice"])
        for row in table(folder / "fluid_components.csv")
    ] == [
        ("1", "fluid", "8", "0", "1"),
        ("2", "fluid", "1", "1", "1"),
    ]


def test_what_the_device_drew_is_kept_beside_what_was_found(tmp_path: Path, layered: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference.assess.judge", lambda *known: (QualityRecord(grade="good"), ()))
    lines = np.full((3, 3, 10), LARGEST, np.float32)
    lines[:, 0], lines[:, 1, 2:] = 3.5, 13.5  # ILM where the network sees it, BM two rows deeper; nerve fibres nowhere
    (tmp_path / "scans").mkdir()
    Vol(((grey(retina()) / 255) ** 4).astype(np.float32), lines).save(tmp_path / "scans" / "cube.vol")
    assert predict_folder(layered.path, tmp_path / "scans", tmp_path / "out")["done"] == 1
    (folder,) = (tmp_path / "out" / "cases").iterdir()
    drawn = table(folder / "device_surfaces.csv")
    assert (drawn[0], drawn[12]["BM"]) == ({"slice": "0", "column": "0", "ILM": "4.00", "BM": ""}, "14.00")
    assert json.loads((folder / "case.json").read_text())["device"] == {
        "ILM": {"mean_abs": 0, "unit": "um", "columns": 30},
        "BM": {"mean_abs": 2 * 3.90625, "unit": "um", "columns": 24},
    }


def test_the_device_is_a_second_reader_of_the_surfaces(tmp_path: Path, layered: Bundle) -> None:
    lines = np.full((3, 3, 10), LARGEST, np.float32)
    lines[:, 0], lines[:, 1, 2:] = 5.5, 11.5  # ILM two rows too deep, BM where the label ends, in eight columns
    (tmp_path / "data" / "scans").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    Vol(((grey(retina()) / 255) ** 4).astype(np.float32), lines).save(tmp_path / "data" / "scans" / "b_L.vol")
    write_nifti(tmp_path / "data" / "labels" / "b_L.nii.gz", retina(), Geometry((3, 16, 10)))
    write(tmp_path / "data", "c_R", retina(), retina())
    summary = score(tmp_path, images={"file": "scans/{patient}_{eye}.*"})
    rows = {row["surface"]: row for row in table(tmp_path / "out" / "device_surfaces.csv")}
    assert [(name, row["unit"], row["mean_abs"], row["bias"], row["columns"], row["missing"]) for name, row in rows.items()] == [
        ("ILM", "um", "7.8125", "7.8125", "30", "0"),
        ("BM", "um", "0.0000", "0.0000", "24", "6"),
    ]
    assert float(summary["surfaces"]["surfaces"]["ILM"]["mean_abs"]["value"]) == 0, "the network's are beside them"
    text = "\n".join(summary_lines(summary))
    assert "the device's own lines beside the same labels, in um, mean over scans:\n  ILM              error 7.81" in text


def test_a_bundle_without_layers_writes_none_of_it(tmp_path: Path, layered: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LabelMap(RETINA.classes)
    other = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1, label_map=plain, task=GreyTask(plain), thresholds={})
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": other)
    (tmp_path / "scans").mkdir()
    write_nifti(tmp_path / "scans" / "cube.nii.gz", grey(retina()), Geometry((3, 16, 10), SPACING, "tag"))
    assert predict_folder(other.path, tmp_path / "scans", tmp_path / "out")["done"] == 1
    (folder,) = (tmp_path / "out" / "cases").iterdir()
    assert not {"surfaces.csv", "fluid_components.nii.gz"} & {file.name for file in folder.iterdir()}
    assert not {"layers", "fluid_components"} & json.loads((folder / "case.json").read_text()).keys()

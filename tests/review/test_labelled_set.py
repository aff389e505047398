"""Reviewed cases become a labelled set: the right masks under a card that holds, nothing silently changed, nobody in two parts."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cards.card import load_card, read_scan
from pipeline.cards.check import check_card
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli import app
from pipeline.errors import ConfigError, NothingUsableError
from pipeline.review.labelled_set import export_set
from pipeline.review.log import AuditLog, Event
from pipeline.review.reviewed import redrawn
from pipeline.review.selection import Choice
from pipeline.review.set_card import grown_parts
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import read_image, write_png
from pipeline.types import Geometry, LabelClass, LabelMap
from tests.reports.conftest import LESIONS, Out, disc_and_cup, make_out, spot
from tests.review.reading import edit, read

__all__ = ["make_out"]
MakeOut = Callable[..., Out]
LAYERS = LabelMap(
    (LabelClass(1, "RNFL", (213, 94, 0)), LabelClass(2, "GCL", (230, 159, 0)), LabelClass(3, "fluid", (0, 114, 178), role="fluid")),
    layered=("RNFL", "GCL"),
    surfaces=("ILM", "RNFL-GCL", "GCL-IPL"),
)


def named(number: int, eye: str = "R") -> str:
    return f"patient{number:02d}_{eye}_0_image{number:02d}"


def photograph(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(20, 220, (120, 160, 3), np.uint8)


@pytest.fixture
def out(make_out: MakeOut) -> Out:
    """Ten photographs of disc and cup: 0 to 5 accepted, 6 edited, 7 rejected, 8 read differently by two, 9 not reviewed."""
    out = make_out()
    for number in range(10):
        out.add(named(number), disc_and_cup(), photograph(number), pixel_type="uint8")
    for number in range(6):
        read(out.path, named(number), "accepted")
    edit(out.path, named(6), [np.roll(disc_and_cup(), 9, axis=1)])
    read(out.path, named(7), "rejected", reasons=("quality", "border"))
    read(out.path, named(8), "accepted")
    read(out.path, named(8), "rejected", by="Dr. B", role="second")
    return out


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def faults(folder: Path) -> list[str]:
    return [fault.message for fault in check_card(load_card(str(folder / "card.md")), folder) if fault.severity == "problem"]


def truths(folder: Path) -> dict[str, np.ndarray]:
    card = load_card(str(folder / "card.md"))
    found = {str(case.key): read_truth(card, case, objects=False, scan=read_scan(card, case)).mask for case in find_cases(card, folder)}
    return {name: mask for name, mask in found.items() if mask is not None}


def test_accepted_and_edited_cases_become_a_set_that_its_card_describes(out: Out, tmp_path: Path) -> None:
    folder = tmp_path / "My set"
    made = export_set(out.path, folder)
    assert (len(made.added), made.rejected, made.waiting, made.unreviewed, made.left_out) == (7, 1, (named(8),), 1, ())
    assert faults(folder) == []
    card = load_card(str(folder / "card.md"))
    assert (card.name, card.label_map.names, card.overlapping) == ("my-set", ("disc", "cup"), True)
    found = truths(folder)
    assert list(found) == [named(number) for number in range(7)]
    assert np.array_equal(found[named(0)], disc_and_cup())
    assert np.array_equal(found[named(6)], np.roll(disc_and_cup(), 9, axis=1))
    assert np.array_equal(read_image(folder / "images" / f"{named(3)}.png"), photograph(3))
    drawn = {line["case"]: (line["drawn_by"], line["verdict"], line["reviewer"]) for line in lines_of(folder / "provenance.csv")}
    assert drawn[named(0)] == ("model", "accepted", "Dr. A")
    assert drawn[named(6)] == ("reviewer", "edited", "Dr. A")
    (rejected,) = lines_of(folder / "rejected.csv")
    assert (rejected["name"], rejected["reasons"], rejected["quality"]) == (named(7), "quality border", "1")


def test_a_second_export_adds_and_changes_nothing_silently(out: Out, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    first = export_set(out.path, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    parts = json.loads((folder / "splits.json").read_text())
    edit(out.path, named(0), [np.zeros((120, 160), np.uint8)])
    read(out.path, named(1), "rejected", reasons=("wrong_eye",))
    read(out.path, named(9), "accepted")
    read(out.path, named(8), "accepted", by="Prof. C", role="adjudicator")
    assert [line["name"] for line in lines_of(folder / "rejected.csv")] == [named(7)]
    read(out.path, named(7), "accepted")
    second = export_set(out.path, folder)
    assert (second.kept, set(second.added), set(second.changed)) == (5, {named(7), named(8), named(9)}, {named(0), named(1)})
    assert [line["name"] for line in lines_of(folder / "rejected.csv")] == [named(1)], "what was accepted since is rejected no more"
    assert all(path.read_bytes() == own for path, own in before.items())
    assert truths(folder)[named(0)].any(), "the earlier mask stays until somebody asks"
    third = export_set(out.path, folder, Choice(update=True))
    assert (set(third.updated), third.kept) == ({named(0), named(1)}, 8)
    assert not truths(folder)[named(0)].any()
    assert named(1) not in truths(folder)
    assert faults(folder) == []
    lines = lines_of(folder / "provenance.csv")
    assert [line["verdict"] for line in lines if line["case"] == named(1)] == ["accepted", "removed"]
    one, other = (line for line in lines if line["case"] == named(0))
    assert other["replaces"] == one["labels_sha256"]
    assert {line["role"] for line in lines if line["case"] == named(8)} == {"adjudicator"}
    now = json.loads((folder / "splits.json").read_text())
    assert all(set(names) <= set(now[part]) for part, names in parts.items()), "who has a part keeps it"
    assert first.parts == {"train": 5, "validation": 1, "test": 1}


def test_parts_go_by_patient_and_only_grow() -> None:
    names = [f"p{number}_{eye}_0_i" for number in range(20) for eye in "RL"]
    few = grown_parts({}, names[:8], 0.2, 0.2)
    many = grown_parts(few, names, 0.2, 0.2)
    assert all(set(few[part]) <= set(many[part]) for part in few)
    patients = {part: {name.split("_")[0] for name in own} for part, own in many.items()}
    assert sorted(map(len, patients.values())) == [4, 4, 12]
    assert len(set.union(*patients.values())) == 20
    assert grown_parts({}, names[:2], 0.2, 0.2) == {"train": sorted(names[:2]), "validation": [], "test": []}


def test_some_classes_alone_the_eye_that_was_set_and_originals(out: Out, tmp_path: Path) -> None:
    deep = np.random.default_rng(5).integers(0, 4000, (120, 160)).astype(np.uint16)
    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "Jane Doe.png", deep)
    sha = hashlib.sha256((tmp_path / "scans" / "Jane Doe.png").read_bytes()).hexdigest()
    for number, name in ((20, "new20_U_0_image"), (21, "new21_U_0_image")):
        out.add(name, disc_and_cup(), (deep >> 4).astype(np.uint8), pixel_type="uint16", sha256=sha if number == 20 else "ab" * 32)
        read(out.path, name, "accepted")
    log = AuditLog.of(out.path)
    log.append(Event("Dr. A", "reader", "new20_U_0_image", "eye", eye="L"), 1)
    made = export_set(out.path, tmp_path / "set", Choice(classes=("cup",), originals=tmp_path / "scans"))
    assert made.copies == 1
    assert faults(tmp_path / "set") == []
    assert np.array_equal(read_image(tmp_path / "set" / "images" / "new20_L_0_image.png"), deep)
    mask = read_image(tmp_path / "set" / "masks" / "new20_L_0_image.png")
    assert np.array_equal(mask, disc_and_cup() >> 1)
    assert not any(b"Jane" in path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file())
    with pytest.raises(ConfigError, match="this set holds cup of fundus scans"):
        export_set(out.path, tmp_path / "set", Choice(classes=("disc",)))


def test_a_volume_keeps_its_place_and_follows_the_surfaces_that_were_moved(make_out: MakeOut, tmp_path: Path) -> None:
    out = make_out(LAYERS)
    mask = np.zeros((2, 40, 30), np.uint8)
    mask[:, 10:16], mask[:, 16:24], mask[0, 18:20, 5:9] = 1, 2, 3
    image = np.random.default_rng(0).integers(0, 255, mask.shape, np.uint8)
    geometry = Geometry((2, 40, 30), spacing_mm=(0.25, 0.004, 0.011), spacing_source="tag")
    told = {"spacing_mm": [0.25, 0.004, 0.011], "spacing_source": "tag"}
    folder = out.add(named(1), mask, image, told, modality="oct", pixel_type="uint8")
    write_nifti(folder / "mask.nii.gz", mask, geometry)
    depths = {"ILM": 10.0, "RNFL-GCL": 16.0, "GCL-IPL": 24.0}
    lines = [[plane, column, *depths.values()] for plane in range(2) for column in range(30)]
    rows = [",".join(map(str, row)) for row in [["slice", "column", *depths], *lines]]
    (folder / "surfaces.csv").write_text("\n".join(rows) + "\n")
    moved = {name: np.full((2, 30), depth, np.float32) for name, depth in depths.items()}
    moved["RNFL-GCL"][1, :10] = 13.4
    edit(out.path, named(1), list(mask), surfaces=moved)
    export_set(out.path, tmp_path / "set")
    assert faults(tmp_path / "set") == []
    wanted = mask.copy()
    wanted[1, 13:16, :10] = 2  # the middle of row 13 is 13.5
    assert np.array_equal(truths(tmp_path / "set")[named(1)], wanted)
    card = load_card(str(tmp_path / "set" / "card.md"))
    (case,) = find_cases(card, tmp_path / "set")
    scan = read_scan(card, case)
    assert np.array_equal(scan.pixels[0], image)
    assert scan.geometry.spacing_mm == pytest.approx((0.25, 0.004, 0.011))
    assert np.array_equal(redrawn(mask, LAYERS, {}, {}), mask)


@pytest.mark.parametrize("has_masks", [False, True])
def test_a_detectors_objects_become_boxes(make_out: MakeOut, tmp_path: Path, has_masks: bool) -> None:
    out = make_out(LESIONS).detection()
    for number in range(2):
        found = [
            {"class": name, "score": score, **spot((120, 160), x, 60, 6)}
            for name, score, x in (("exudate", 0.9, 30), ("haemorrhage", 0.8, 90), ("exudate", 0.2, 140))
        ]
        for one in found:
            if not has_masks:
                del one["mask"]
        folder = out.add_objects(named(number), (120, 160), found, has_masks=has_masks)
        (folder / "coco.json").write_text(json.dumps({"annotations": []}))
        write_png(folder / "image_000.png", photograph(number))
    read(out.path, named(0), "accepted")
    mask = read_image(out.path / "cases" / named(1) / "mask_000.png")
    edit(out.path, named(1), [mask], objects=[{"id": 1, "class": "exudate", "box": (24, 54, 37, 67)}])
    export_set(out.path, tmp_path / "set", Choice(classes=("exudate", "haemorrhage")))
    assert faults(tmp_path / "set") == []
    card = load_card(str(tmp_path / "set" / "card.md"))
    first, second = (
        read_truth(card, case, objects=True, scan=read_scan(card, case)).objects[0] for case in find_cases(card, tmp_path / "set")
    )  # type: ignore[index]
    assert first.labels.tolist() == [1, 2], "what lies below its class's threshold is no object"
    assert second.labels.tolist() == [1]
    assert np.allclose(second.boxes, [[24, 54, 37, 67]], atol=1)


def test_what_cannot_be_exported_is_one_sentence(out: Out, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="something else than a labelled set"):
        export_set(out.path, tmp_path / "full")
    write_png(out.path / "cases" / named(2) / "mask_000.png", np.zeros((120, 160), np.uint8))
    (out.path / "cases" / named(3) / "case.json").write_text("{")
    made = export_set(out.path, tmp_path / "set")
    assert [reason.split(";")[0] for _, reason in made.left_out] == [
        "it was predicted anew after the review",
        "case.json is damaged (Invalid JSON: EOF while parsing an object at line 1 column 1)",
    ]
    out.add(named(30), disc_and_cup(), photograph(30), modality="slo")
    read(out.path, named(30), "accepted")
    with pytest.raises(ConfigError, match="--modality"):
        export_set(out.path, tmp_path / "other")
    assert len(export_set(out.path, tmp_path / "set").added) == 0, "a set knows its kind"


def test_nothing_accepted_is_told(make_out: MakeOut, tmp_path: Path) -> None:
    out = make_out()
    out.add(named(1), disc_and_cup())
    with pytest.raises(NothingUsableError, match="1 are not reviewed"):
        export_set(out.path, tmp_path / "set")
    result = CliRunner().invoke(app, ["review", "export", str(out.path), str(tmp_path / "set")])
    assert result.exit_code == 4

"""Cards: what they accept, what they find, what they say when something is wrong."""

from __future__ import annotations

import colorsys
import csv
import gzip
import logging
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cards.card import DataCard, list_cards, load_card, parse_card, read_field_of_view, read_scan
from pipeline.cards.check import Problem, card_statistics, check_card, check_draft, draft_card
from pipeline.cards.find_cases import find_cases, search_folder
from pipeline.cards.labels import combine, decode
from pipeline.cards.patterns import Pattern, stem_of
from pipeline.cards.targets import read_target_mask
from pipeline.errors import CardError
from pipeline.scans.eyes import eye_of
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import read_image, write_png
from pipeline.types import CaseKey, Geometry
from tests.cards.conftest import SmallSet, card_text, make_card, picture
from tests.conftest import shared_data

SHARED = {
    "chase_db1": ("chase_db1", {"train": 20, "test": 8}),
    "hrf": ("hrf_half", {"train": 12, "test": 30}),
    "rossa_octa": ("rossa_octa", {"train": 100, "validation": 100, "test": 100}),
    "drishti_gs": ("drishti_gs_half_train", {"none": 50}),
    "drive": ("drive", {"train": 20, "test": 20}),
    "drive_av": ("drive", {"train": 20, "test": 20}),
    "hrf_av": ("hrf_half_av/..", {"train": 12, "test": 30}),
    "drive_hrf_av": ("drive/..", {"train": 32, "test": 50}),
}


def test_a_pattern_captures_its_fields_and_nothing_else() -> None:
    pattern = Pattern.compile(r"{part:train|val}/Image_{patient:\d{2}}{eye:[LR]}.jpg")
    assert pattern.match("train/Image_07L.jpg") == {"part": "train", "patient": "07", "eye": "L"}
    assert pattern.match("test/Image_07L.jpg") is None
    assert pattern.match("train/Image_7L.jpg") is None
    assert pattern.match("train/Image_07LXjpg") is None, "a dot is a dot"


@pytest.mark.parametrize(
    ("text", "path", "fields"),
    [
        ("images/", "images/P1/v2/x.nii.gz", {"path": "P1/v2/x"}),
        ("{name}.*", "a.b.png", {"name": "a.b"}),
        ("{name}_*.png", "x_17.png", {"name": "x"}),
        ("{patient}/{patient}_{eye}.dcm", "P1/P1_OS.dcm", {"patient": "P1", "eye": "L"}),
        ("{patient}/{patient}_{eye}.dcm", "P1/P2_OS.dcm", None),
    ],
)
def test_patterns_of_every_kind(text: str, path: str, fields: dict[str, str] | None) -> None:
    assert Pattern.compile(text).match(path) == fields


@pytest.mark.parametrize("text", ["{name", "name}", "{Name}", "{name:[}"])
def test_a_broken_pattern_says_so(text: str) -> None:
    with pytest.raises(CardError, match="pattern"):
        Pattern.compile(text)


def test_names_of_eyes_and_stems() -> None:
    assert [eye_of(t) for t in ("OD", "os", "Right", "l", "both", None)] == ["R", "L", "R", "L", None, None]
    assert [stem_of(p) for p in ("a/b.nii.gz", "b.c.png", "noext", "x.ppm.gz")] == ["b", "b.c", "noext", "x"]


def test_every_card_of_the_repository_loads() -> None:
    names = {card.name for card in list_cards()}
    assert {
        "phantom",
        "chase_db1",
        "hrf",
        "rossa_octa",
        "drishti_gs",
        "idrid_codras",
        "drive",
        "drive_av",
        "hrf_av",
        "drive_hrf_av",
        "dr_both_eyes",
        "stare",
    } <= names
    for card in list_cards():
        assert load_card(card.name).sha256 == card.sha256
        assert card.citation
        assert card.licence
        assert card.how_to_get


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"licence": None}, "licence: is required"),
        ({"modality": "xray"}, "modality"),
        ({"labels": [{"kind": "values", "file": "l/{stem}.png", "values": {1: "vein"}}]}, "class 'vein'"),
        ({"labels": [{"kind": "values", "file": "l/{visit}.png", "values": {1: "vessel"}}]}, "which the image pattern does not have"),
        ({"labels": [{"kind": "values", "file": "l/{stem}.png", "values": {1: ["vessel", "vessel"]}}]}, "overlapping"),
        ({"parts": {"patients": {"train": ["a"]}, "file": "x.json"}}, "exactly one way"),
        ({"classes": [{"name": "background", "colour": [0, 0, 0]}]}, "always there"),
        ({"classes": [{"name": "vessel", "colour": [0, 0, 256]}]}, "classes.0.colour.2: input should be less than or equal to 255"),
        ({"classes": [{"name": "vessel", "colour": [0, 0, 0]}] * 2}, "class names must differ"),
        ({"classes": [{"name": "vessel", "colour": [0, 0, 0], "inside": "disc"}]}, "inside 'disc', but classes are: vessel"),
        (
            {"classes": [{"name": "disc", "colour": [0, 0, 0]}, {"name": "vessel", "colour": [0, 0, 0], "inside": "disc"}]},
            "needs overlapping",
        ),
        ({"layers": ["vessel", "RPE"]}, "layers speak of class 'RPE', but classes are: vessel"),
        ({"layers": ["vessel"], "overlapping": True}, "layers exclude each other"),
        ({"layers": ["vessel"], "surfaces": ["ILM"]}, "1 layers have 2 surfaces, but 1 are named"),
        ({"images": {"file": "images/{patient"}}, "brace"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CardError, match=said):
        make_card(**changes)


@pytest.mark.parametrize("text", ["no front matter", "---\na: [1\n---\n", "---\n- 1\n---\n"])
def test_text_that_is_no_card(text: str) -> None:
    with pytest.raises(CardError):
        parse_card(text)


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(CardError, match="did you mean 'chase_db1'"):
        load_card("chase_db")


def test_cases_know_their_files_and_are_sorted(small_set: SmallSet) -> None:
    cases = find_cases(small_set.card, small_set.root)
    assert len(cases) == 12
    assert cases[0].key == CaseKey("a", "L", "0", "a-L")
    assert [c.key for c in cases] == sorted(c.key for c in cases)
    scan = read_scan(small_set.card, cases[0])
    assert scan.pixels.shape == (3, 60, 84)
    assert (scan.geometry.laterality, scan.geometry.laterality_source, scan.modality) == ("L", "card", "fundus")
    mask = read_target_mask(small_set.card, cases[0])
    assert mask.dtype == np.int64
    assert np.array_equal(mask == 1, scan.pixels[1] > 140)


def test_spacing_of_the_card_is_used_where_the_file_has_none(small_set: SmallSet) -> None:
    card = make_card(spacing_mm=[0.01, 0.02])
    geometry = read_scan(card, find_cases(card, small_set.root)[0]).geometry
    assert (geometry.spacing_mm, geometry.spacing_source) == ((0.01, 0.02), "user")


def test_spacing_of_the_card_fills_only_what_the_file_lacks(small_set: SmallSet) -> None:
    image = small_set.root / "images" / "a_L.nii"
    write_nifti(image, np.zeros((60, 84), np.uint8), Geometry((60, 84), (0.5, None), "tag"))
    for said, expected in (([0.01, 0.02], ((0.5, 0.02), "user")), ([0.01, None], ((0.5, None), "tag"))):
        case = replace(find_cases(small_set.card, small_set.root)[0], image=image)
        geometry = read_scan(make_card(spacing_mm=said), case).geometry
        assert (geometry.spacing_mm, geometry.spacing_source) == expected


def test_unmatched_files_are_listed_and_cases_without_labels_left_out(small_set: SmallSet) -> None:
    (small_set.root / "labels" / "c_R.png").unlink()
    write_png(small_set.root / "labels" / "z_R.png", np.zeros((60, 84), np.uint8))
    assert len(find_cases(small_set.card, small_set.root)) == 11
    problems = {p.file: p.message for p in check_card(small_set.card, small_set.root)}
    assert "no label fits" in problems.pop("images/c_R.png")
    assert "no image belongs" in problems.pop("labels/z_R.png")
    assert not problems


def test_the_check_names_each_faulty_file(small_set: SmallSet) -> None:
    root = small_set.root
    assert check_card(small_set.card, root) == []
    write_png(root / "labels" / "a_L.png", np.full((60, 84), 7, np.uint8))
    write_png(root / "labels" / "b_L.png", np.zeros((84, 60), np.uint8))
    (root / "images" / "c_L.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    write_png(root / "images" / "d_L.png", np.full((60, 84, 3), 9, np.uint8))
    problems = {p.file: p.message for p in check_card(small_set.card, root)}
    assert "value 7" in problems["labels/a_L.png"]
    assert "84 x 60" in problems["labels/b_L.png"]
    assert "60 x 84" in problems["labels/b_L.png"]
    assert "images/c_L.png" in problems
    assert "one value" in problems["images/d_L.png"]
    assert len(problems) == 4


def test_the_check_sees_fields_of_view_parts_and_counts(small_set: SmallSet) -> None:
    fov = small_set.root / "fov"
    fov.mkdir()
    for image in (small_set.root / "images").iterdir():
        write_png(fov / image.name, np.full((60, 84), 255, np.uint8))
    write_png(fov / "a_L.png", np.zeros((60, 84), np.uint8))
    (fov / "b_R.png").unlink()
    card = make_card(
        field_of_view={"file": "fov/{stem}.png"},
        parts={"names": {"train": ["[a-d]_*", "e_L"], "test": ["e_R"]}},
        counts={"train": 8},
    )
    messages = [f"{p.file}: {p.message}" for p in check_card(card, small_set.root)]
    for said in (
        "fov/a_L.png: the field of view is empty",
        "images/b_R.png: no field of view fits",
        "images/f_L.png: belongs to no part",
        ": patient e stands in more than one official part: test (e_R_0_e-R), train (e_L_0_e-L)",
        ": part train has 9 cases; the card says 8",
    ):
        assert any(message.startswith(said) for message in messages), (said, messages)
    assert len(messages) == 6


NESTED = {
    "classes": [{"name": "disc", "colour": [0, 114, 178]}, {"name": "cup", "colour": [230, 159, 0], "inside": "disc"}],
    "overlapping": True,
    "images": {"file": "images/{patient:[a-z]+}_{eye}.png"},
}


@pytest.mark.parametrize("twice", [False, True])
def test_the_check_counts_pixels_outside_the_class_that_theirs_lies_inside(small_set: SmallSet, twice: bool) -> None:
    labels = small_set.root / "labels"
    for file in labels.iterdir():
        mask = np.zeros((60, 84), np.uint8)
        mask[10:30, 20:40], mask[15:20, 22:30] = 1, 3
        write_png(file, mask)
    mask[15:20, 38:42] = 2  # five rows of four pixels of the cup alone
    write_png(labels / "a_L.png", mask)
    bits = {"kind": "bits", "file": "labels/{patient}_{eye}.png", "bits": {0: "disc", 1: "cup"}}
    card = make_card(**NESTED, labels=[bits], **({"second_reader": [bits]} if twice else {}))
    problems = check_card(card, small_set.root)
    assert [p.file for p in problems] == ["labels/a_L.png"] * (2 if twice else 1)
    assert "20 of 60 pixels of 'cup' are not labelled as 'disc', inside which the card puts them; mend the label" in problems[0].message
    case = next(case for case in find_cases(card, small_set.root) if str(case.key).startswith("a_L"))
    disc, cup = card.label_map.layers(read_target_mask(card, case))
    assert (cup & ~disc).sum() == 20  # told, not changed: the reader drew it


def test_a_value_that_forgets_the_outer_class_is_found_by_the_check(small_set: SmallSet) -> None:
    for file in (small_set.root / "labels").iterdir():
        mask = np.zeros((60, 84), np.uint8)
        mask[10:30, 20:40], mask[15:20, 22:30] = 1, 2
        write_png(file, mask)
    values = {"kind": "values", "file": "labels/{patient}_{eye}.png"}
    wrong = check_card(make_card(**NESTED, labels=[values | {"values": {1: "disc", 2: "cup"}}]), small_set.root)
    assert len(wrong) == 12
    assert "40 of 40 pixels of 'cup'" in wrong[0].message
    assert "write [disc, cup] in the card" in wrong[0].message
    assert check_card(make_card(**NESTED, labels=[values | {"values": {1: "disc", 2: ["disc", "cup"]}}]), small_set.root) == []


def test_the_check_sees_layers_in_another_order(small_set: SmallSet) -> None:
    for file in (small_set.root / "labels").iterdir():
        mask = np.zeros((60, 84), np.uint8)
        mask[10:20, 5:80], mask[20:23, 5:80], mask[24:40, 5:80], mask[21, 40:44] = 1, 2, 3, 4
        write_png(file, mask)
    mask[10:20, 5:45], mask[20:23, 5:45] = 2, 1  # the first two the other way round in 40 of 75 A-scans
    write_png(small_set.root / "labels" / "b_R.png", mask)
    names = ["RNFL", "GCL", "INL", "fluid"]
    labels = [{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": dict(enumerate(names, 1))}]
    classes = [{"name": name, "colour": [0, 0, k]} for k, name in enumerate(names)]
    problems = check_card(make_card(classes=classes, labels=labels, layers=names[:3]), small_set.root)
    assert [p.file for p in problems] == ["labels/b_R.png"]
    assert "'GCL' lies above 'RNFL' in 40 of 75 A-scans" in problems[0].message
    assert check_card(make_card(classes=classes, labels=labels), small_set.root) == []
    upside_down = check_card(make_card(classes=classes, labels=labels, layers=names[2::-1]), small_set.root)
    assert len(upside_down) == 2 * 12 - 1  # the swapped one has one pair the right way round
    assert "write the card's layers from the vitreous down" in upside_down[0].message


def test_a_choice_that_parts_layers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    card = load_card("phantom_oct_layers")
    layers = [name for name in card.label_map.names if name != "fluid"]
    for names, layered, said in (
        (card.label_map.names, card.layers, ""),
        (("fluid",), [], ""),
        (("INL", "OPL", "fluid"), ["INL", "OPL"], ""),
        (layers, card.layers, "leaves out fluid, which may lie between layers"),
        (("RNFL", "RPE", "fluid"), [], "leaves out a layer between others, so no surface is measured"),
    ):
        caplog.clear()
        assert card.choosing(names).label_map.layered == tuple(layered)
        assert (said in caplog.text) if said else not caplog.text, names


def test_the_check_sees_layers_that_do_not_lie_on_each_other(small_set: SmallSet) -> None:
    for file in (small_set.root / "labels").iterdir():
        mask = np.zeros((60, 84), np.uint8)
        mask[10:14, 5:80], mask[14:40, 5:80], mask[40:50, 5:80] = 1, 2, 3
        write_png(file, mask)
    mask[14:18, 5:80] = 0  # four rows of nothing below a layer of four
    write_png(small_set.root / "labels" / "b_R.png", mask)
    mask[18, 5:44] = 0  # and in 39 of 75 A-scans a fifth
    write_png(small_set.root / "labels" / "b_L.png", mask)

    def checked(*names: str) -> list[Problem]:
        meaning = {value: name if name in names else "background" for value, name in enumerate(("RNFL", "inner", "RPE"), 1)}
        labels = [{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": meaning}]
        classes = [{"name": name, "colour": [0, 0, k]} for k, name in enumerate(names)]
        return check_card(make_card(classes=classes, labels=labels, layers=list(names)), small_set.root)

    (problem,) = checked("RNFL", "inner", "RPE")
    assert problem.file == "labels/b_L.png"
    assert "background lies between 'RNFL' and 'inner' in 39 of 75 A-scans; name what lies there as a class" in problem.message
    assert len(checked("RNFL", "RPE")) == 12


@pytest.mark.parametrize("part", ["", "train"])
def test_the_check_names_a_class_of_which_nothing_is_labelled(small_set: SmallSet, part: str) -> None:
    """In no case at all, or in none that would be trained on."""
    classes = [{"name": name, "colour": [9, 9, place]} for place, name in enumerate(("vessel", "lesion"))]
    labels = [{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": {255: "vessel", 2: "lesion"}}]
    paths = sorted((small_set.root / "labels").iterdir())
    parts = None
    if part:
        patients = sorted({path.stem.split("_")[0] for path in paths})
        parts = {"patients": {"train": patients[:-1], "test": patients[-1:]}}
        values = read_image(paths[-1]).copy()
        assert paths[-1].stem.startswith(patients[-1])
        values[0, 0] = 2
        write_png(paths[-1], values)
    (problem,) = check_card(make_card(classes=classes, labels=labels, **({"parts": parts} if part else {})), small_set.root)
    assert problem.message.startswith("no pixel or object of class 'lesion' is labelled in the ")
    assert ("training cases" in problem.message) == bool(part)


def test_two_files_for_one_case_are_refused(small_set: SmallSet) -> None:
    sub = small_set.root / "images" / "again"
    sub.mkdir()
    (sub / "a_R.png").write_bytes((small_set.root / "images" / "a_R.png").read_bytes())
    with pytest.raises(CardError, match=r"'images/a_R.png' and 'images/again/a_R.png' both become case a_R_0_a-R"):
        find_cases(make_card(images={"file": "{where:images|images/again}/{patient:[a-z]+}_{eye}.png"}), small_set.root)
    (small_set.root / "labels" / "a_R.tif").write_bytes(b"another")
    with pytest.raises(CardError, match=r"'labels/a_R.png' and 'labels/a_R.tif' both fit"):
        find_cases(make_card(labels=[{"kind": "values", "file": "labels/{patient}_{eye}.*", "values": {255: "vessel"}}]), small_set.root)


def test_a_folder_that_holds_nothing_of_the_card(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no image with its label"):
        find_cases(make_card(), tmp_path)


def test_a_table_says_which_files_belong_together(small_set: SmallSet) -> None:
    rows = [
        {
            "picture": f"images/{p}_{e}.png",
            "truth": f"labels/{p}_{e}.png",
            "who": f"case {p}",
            "eye": {"R": "OD", "L": "OS"}[e],
            "part": "b",
        }
        for p in "ab"
        for e in "RL"
    ]
    rows += [{"picture": "images/none.png", "truth": "", "who": "x", "eye": "OD", "part": "b"}]
    with (small_set.root / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    card = make_card(
        images={"table": "cases.csv", "file": "{picture}", "columns": {"patient": "who"}},
        labels=[{"kind": "values", "file": "{truth}", "values": {255: "vessel"}}],
        parts={"field": {"a": "train", "b": "test"}},
    )
    cases = find_cases(card, small_set.root)
    assert [str(c.key) for c in cases] == ["case-a_L_0_a-L", "case-a_R_0_a-R", "case-b_L_0_b-L", "case-b_R_0_b-R"]
    assert {c.part for c in cases} == {"test"}
    assert [p.file for p in check_card(card, small_set.root)] == ["images/none.png"]
    with pytest.raises(CardError, match="no column 'id'"):
        find_cases(make_card(images={"table": "cases.csv", "file": "{picture}", "columns": {"patient": "id"}}, labels=[]), small_set.root)


def test_labels_by_folder_and_patients_by_folder(tmp_path: Path) -> None:
    for patient in ("P0001", "P0002"):
        for folder in ("scans", "truth"):
            (tmp_path / folder / patient / "2020").mkdir(parents=True)
        write_png(tmp_path / "scans" / patient / "2020" / "x.png", picture(1))
        write_png(tmp_path / "truth" / patient / "2020" / "x.png", np.zeros((60, 84), np.uint8))
    card = make_card(images={"file": "scans/"}, labels=[{"kind": "values", "file": "truth/", "values": {255: "vessel"}}])
    assert [str(c.key) for c in find_cases(card, tmp_path)] == ["P0001_U_2020_x", "P0002_U_2020_x"]


def test_private_cards_give_tokens_that_a_hospital_tree_gives_too(tmp_path: Path) -> None:
    from pipeline.scans.open import open_scan

    names = Pseudonyms(b"a key of our own")
    (tmp_path / "P0001").mkdir()
    write_png(tmp_path / "P0001" / "x_OD.png", picture(1))
    card = make_card(identifiers="private", images={"file": "{patient}/{name}_{eye}.png"}, labels=None)
    (case,) = find_cases(card, tmp_path, pseudonyms=names)
    assert "P0001" not in str(case.key)
    assert case.key == open_scan(tmp_path / "P0001" / "x_OD.png", pseudonyms=names, root=tmp_path).case


def test_both_eyes_in_one_folder_are_one_private_patient_as_in_prediction(tmp_path: Path) -> None:
    from pipeline.scans.open import open_scan

    names = Pseudonyms(b"a key of our own")
    for seed, stem in enumerate(("P1_OD", "P1_OS", "P2_OD")):
        write_png(tmp_path / f"{stem}.png", picture(seed))
    card = make_card(identifiers="private", images={"file": "{name}.png"}, labels=None)
    keys = {case.image.name: case.key for case in find_cases(card, tmp_path, pseudonyms=names)}
    assert keys["P1_OD.png"].patient == keys["P1_OS.png"].patient != keys["P2_OD.png"].patient
    assert (keys["P1_OD.png"].eye, keys["P1_OS.png"].eye) == ("R", "L")
    for name, key in keys.items():
        assert key == open_scan(tmp_path / name, pseudonyms=names, root=tmp_path).case


def test_the_check_says_what_is_to_complete_and_that_no_pattern_names_the_patient(
    small_set: SmallSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    labels = [{"kind": "values", "file": "labels/{stem}.png", "values": {255: "vessel"}}]
    unnamed = {"images": {"file": "images/{name}.png"}, "labels": labels}
    assert check_card(make_card(**unnamed), small_set.root) == [], "the names of a public set are known to be right"
    (problem,) = check_card(make_card(**unnamed, identifiers="private"), small_set.root)
    assert problem.file == ""
    assert "give the {patient}: each of 12 names" in problem.message
    assert check_card(make_card(identifiers="private"), small_set.root) == []
    (problem,) = check_card(make_card(citation="TO COMPLETE, or: none", known_faults=["TO COMPLETE: all"]), small_set.root)
    assert problem.message == "the card still says TO COMPLETE in: citation, known_faults"


def test_a_private_dicom_file_is_named_by_its_tags_and_a_broken_one_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.scans import dicom as reader
    from pipeline.scans.open import open_scan
    from tests.scans.make import dicom, photograph, saved

    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    names = Pseudonyms.load_or_create(tmp_path / "site.key")
    root = tmp_path / "set"
    root.mkdir()
    for n in (1, 2):
        saved(dicom(photograph(12, 20), PatientID=f"P{n}", ImageLaterality="L"), root / f"{n}.dcm")
    (root / "3.dcm").write_bytes((root / "1.dcm").read_bytes()[:400])
    expected = {open_scan(root / f"{n}.dcm", pseudonyms=names, root=root).case for n in (1, 2)}
    card = make_card(identifiers="private", images={"file": "{name}.dcm"}, labels=None)
    problems = check_card(card, root)
    assert [p.file for p in problems] == ["3.dcm"]
    assert "DICOM" in problems[0].message
    monkeypatch.setattr(reader, "decode_pixels", None)  # tags are enough
    with caplog.at_level(logging.INFO):
        assert {case.key for case in find_cases(card, root)} == expected
    assert "1 files do not fit and are left out" in caplog.text
    assert "3.dcm" not in caplog.text


def test_an_image_whose_labels_may_be_missing_is_empty_not_left_out(small_set: SmallSet) -> None:
    (small_set.root / "labels" / "c_R.png").unlink()
    source = make_card().labels[0].model_dump() | {"missing": "empty"}
    boxes = {"kind": "yolo_boxes", "file": "boxes/{patient}_{eye}.txt", "values": {0: "vessel"}, "missing": "empty"}
    card = make_card(labels=[source], second_reader=[source | {"file": "second/{patient}_{eye}.png"}])
    assert check_card(card, small_set.root) == []
    case = next(case for case in find_cases(card, small_set.root) if case.image.name == "c_R.png")
    for reader in ("first", "second"):
        mask = read_target_mask(card, case, reader=reader)  # type: ignore[arg-type]
        assert (mask.shape, mask.dtype, mask.any()) == ((60, 84), np.int64, False)
    assert card_statistics(card, small_set.root)["cases"] == 12
    card = make_card(labels=[boxes])
    (problem,) = check_card(card, small_set.root)
    assert "no pixel or object of class 'vessel'" in problem.message
    with pytest.raises(CardError, match="boxes"):
        read_target_mask(card, find_cases(card, small_set.root)[0])


def test_statistics_pass_over_what_cannot_be_used(small_set: SmallSet) -> None:
    (small_set.root / "images" / "a_L.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    write_png(small_set.root / "labels" / "b_L.png", np.zeros((84, 60), np.uint8))
    statistics = card_statistics(small_set.card, small_set.root)
    assert (statistics["cases"], statistics["sizes"]) == (12, {"60 x 84": 11})
    assert 0 < statistics["fraction_of_pixels"]["vessel"] < 1


OVERLAPPING = {
    "classes": [{"name": "disc", "colour": [0, 0, 255]}, {"name": "cup", "colour": [255, 0, 0]}],
    "overlapping": True,
}


def stored(rows: list[list[int]], dtype: type = np.uint8) -> np.ndarray:
    return np.array(rows, dtype=dtype)


@pytest.mark.parametrize(
    ("changes", "array", "expected"),
    [
        ({"labels": [{"kind": "values", "file": "x", "values": {7: "vessel", 9: "ignore"}}]}, stored([[0, 7, 9]]), [[0, 1, -1]]),
        ({"labels": [{"kind": "values", "file": "x", "values": {0: "vessel", 255: "background"}}]}, stored([[0, 255]]), [[1, 0]]),
        ({"labels": [{"kind": "values", "file": "x", "values": {300: "vessel"}}]}, stored([[0, 300]], np.uint16), [[0, 1]]),
        ({"labels": [{"kind": "values", "file": "x", "values": {2: "vessel"}}]}, stored([[0, 2]], np.float32), [[0, 1]]),
        ({"labels": [{"kind": "threshold", "file": "x", "means": "vessel", "at_least": 191}]}, stored([[190, 191, 255]]), [[0, 1, 1]]),
        (OVERLAPPING | {"labels": [{"kind": "bits", "file": "x", "bits": {0: "cup", 3: "disc"}}]}, stored([[0, 1, 8, 9]]), [[0, 2, 1, 3]]),
        (
            OVERLAPPING | {"labels": [{"kind": "values", "file": "x", "values": {1: "disc", 2: ["disc", "cup"]}}]},
            stored([[1, 2]]),
            [[1, 3]],
        ),
        (
            OVERLAPPING
            | {
                "labels": [
                    {
                        "kind": "colours",
                        "file": "x",
                        "colours": [{"rgb": [0, 255, 0], "means": ["disc", "cup"]}, {"rgb": [255, 255, 255], "means": "ignore"}],
                    }
                ]
            },
            np.array([[[0, 255, 0], [255, 255, 255], [0, 0, 0]]], np.uint8),
            [[3, -1, 0]],
        ),
        (
            {"labels": [{"kind": "values", "file": "x", "values": {255: "vessel"}}]},
            np.repeat(stored([[0, 255]])[..., None], 3, axis=2),
            [[0, 1]],
        ),
    ],
)
def test_labels_of_every_kind(changes: dict[str, object], array: np.ndarray, expected: list[list[int]]) -> None:
    card = make_card(**changes)
    assert decode(card.labels[0], array, card.label_map).tolist() == expected  # type: ignore[arg-type]


def together(card: DataCard, *arrays: np.ndarray) -> np.ndarray:
    return combine([decode(s, a, card.label_map) for s, a in zip(card.labels, arrays, strict=True)], card.label_map)  # type: ignore[arg-type]


def test_several_files_become_one_mask() -> None:
    sources = [
        {"kind": "threshold", "file": "d", "means": "disc", "at_least": 191},
        {"kind": "threshold", "file": "c", "means": "cup", "at_least": 191},
    ]
    card = make_card(**OVERLAPPING, labels=sources)
    both = together(card, stored([[0, 255, 255]]), stored([[0, 0, 200]]))
    assert both.tolist() == [[0, 1, 3]]
    card = make_card(**OVERLAPPING | {"overlapping": False}, labels=sources)
    both = together(card, stored([[0, 255, 255]]), stored([[0, 0, 200]]))
    assert both.tolist() == [[0, 1, 2]], "of exclusive classes the later file wins"


@pytest.mark.parametrize(
    ("source", "array", "said"),
    [
        ({"kind": "values", "file": "x", "values": {255: "vessel"}}, stored([[0, 255, 254, 1]]), r"value 1, 254 in 2 pixels"),
        ({"kind": "values", "file": "x", "values": {1: "vessel"}}, stored([[0, 1]], np.float32) / 2, "fractions"),
        ({"kind": "bits", "file": "x", "bits": {0: "vessel"}}, stored([[4]]), "bit 2"),
        (
            {"kind": "colours", "file": "x", "colours": [{"rgb": [1, 2, 3], "means": "vessel"}]},
            np.full((1, 1, 3), 9, np.uint8),
            r"\(9, 9, 9\)",
        ),
        ({"kind": "values", "file": "x", "values": {1: "vessel"}}, np.array([[[1, 2, 3]]], np.uint8), "kind: colours"),
    ],
)
def test_labels_that_are_not_as_the_card_says(source: dict[str, object], array: np.ndarray, said: str) -> None:
    card = make_card(labels=[source])
    with pytest.raises(CardError, match=said):
        decode(card.labels[0], array, card.label_map)  # type: ignore[arg-type]


def test_the_draft_of_a_folder_becomes_a_card_that_checks(small_set: SmallSet) -> None:
    text = draft_card(small_set.root, name="mine")
    card = parse_card(text)
    assert card.identifiers == "private"
    assert card.images.file == "images/{patient}_{eye}.png"
    assert card.labels[0].file == "labels/{patient}_{eye}.png"
    assert "TO COMPLETE" in text
    cases, problems = check_draft(text, small_set.root)
    assert cases == 12
    assert [p.severity for p in problems] == ["to complete"]


def test_drafts_of_other_arrangements(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for n in range(3):
            write_png(tmp_path / part / f"s{n}.png", picture(n))
            write_png(tmp_path / part / f"s{n}_mask.png", np.eye(60, 84, dtype=np.uint8) * 255)
    card = parse_card(draft_card(tmp_path))
    assert (card.images.file, card.labels[0].file) == ("{part}/{name:[a-z]+\\d+}.png", "{part}/{name}_mask.png")
    assert card.parts is not None
    assert card.parts.field == {"test": "test", "train": "train"}
    with (tmp_path / "pairs.csv").open("w") as stream:
        stream.write("image,label,patient\ntrain/s0.png,train/s0_mask.png,p1\n")
    card = parse_card(draft_card(tmp_path, labels=tmp_path / "pairs.csv"))
    assert card.images.table == "pairs.csv"
    assert card.labels[0].file == "{label}"


def test_volumes_are_drafted_as_oct(tmp_path: Path) -> None:
    import nibabel

    for n in range(2):
        grey = np.random.default_rng(n).integers(0, 255, (40, 32, 5))
        for kind, stack in (("scan", grey), ("mask", grey // 250 * 250)):
            (tmp_path / f"{kind}s").mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(stack.astype(np.uint8), np.eye(4)), tmp_path / f"{kind}s" / f"v{n}.nii.gz")
    card = parse_card(draft_card(tmp_path))
    assert card.modality == "oct"
    assert (card.images.file, card.labels[0].file) == ("scans/{name}.nii.gz", "masks/{name}.nii.gz")


def test_a_spectralis_folder_can_be_drafted(tmp_path: Path) -> None:
    source = shared_data("spectralis_vol")
    for n, file in enumerate(("Willis_B_716_0.vol", "Willis_B_716_2.vol")):
        shutil.copyfile(source / file, tmp_path / f"s{n}.vol")
    card = parse_card(draft_card(tmp_path))
    assert (card.modality, card.images.file) == ("oct", "{name}.vol")


def test_a_folder_of_patients_is_drafted_by_patient(tmp_path: Path) -> None:
    for patient in range(8):
        (tmp_path / f"P{patient}").mkdir()
        write_png(tmp_path / f"P{patient}" / "OD.png", picture(patient))
    assert parse_card(draft_card(tmp_path)).images.file == "{patient}/{eye}.png"


PEOPLE = ("MUELLER_ANNA", "MEIER_HANS", "HUBER_EVA")


def nobody_in(text: str) -> bool:
    return not any(word.lower() in text.lower() for person in PEOPLE for word in person.split("_"))


@pytest.mark.parametrize("people", [PEOPLE[:1], PEOPLE])
@pytest.mark.parametrize("arrangement", ["{who}/{n}{kind}.png", "{kind}/{who}/2021-03-0{n}/{n}.png", "{who}/{eye}/{n}{kind}.png"])
def test_a_draft_holds_nobodys_name(tmp_path: Path, people: tuple[str, ...], arrangement: str) -> None:
    top = tmp_path / "MEIER_HANS_export"
    for seed, who in enumerate(people):
        for n in (1, 2):
            for kind, array in (
                ("_scans", picture(seed)),
                ("_mask", np.eye(60, 84, dtype=np.uint8) * 255),
                ("_vessels", np.eye(60, 84)[::-1] > 0),
            ):
                shown = kind.strip("_") if arrangement.startswith("{kind}") else kind.replace("_scans", "")
                path = top / arrangement.format(who=who, n=n, kind=shown, eye=("OD", "OS")[n - 1])
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, array if array.dtype == np.uint8 else array.astype(np.uint8) * 7)
    text = draft_card(top)
    assert nobody_in(text), text
    assert "2021" not in text
    card = parse_card(text)
    patient = "{patient}" if len(people) > 1 else "*"
    assert (
        card.images.file
        == {
            "{who}": f"{patient}/{{name:\\d+}}.png",
            "{kind}": f"scans/{patient}/{'{visit}' if len(people) > 1 else '{patient}'}/{{name}}.png",
            "{eye}": f"{patient}/{{eye}}/{{name:\\d+}}.png",
        }["{eye}" if "{eye}" in arrangement else arrangement.partition("/")[0].split("{n}")[0]]
    )
    assert len(card.labels) == 2
    if len(people) > 1 and "{visit}" not in card.images.file:
        found = search_folder(card, top, pseudonyms=Pseudonyms(b"a key of our own")).cases
        assert (len(found), len({case.key.patient for case in found})) == (6, 3)


def test_a_draft_takes_no_name_from_files(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "labels").mkdir()
    for n in (1, 2):
        write_png(tmp_path / "scans" / f"{n}.png", picture(n))
        write_png(tmp_path / "labels" / f"MEIER_HANS_{n}.png", np.eye(60, 84, dtype=np.uint8) * 255)
    write_png(tmp_path / "scans" / "1.MUELLER_ANNA", picture(1))
    text = draft_card(tmp_path)
    assert nobody_in(text), text
    assert "also fits" not in text


def test_a_draft_keeps_kinds_of_files_and_folders_that_the_user_names(tmp_path: Path) -> None:
    for folder in ("Images", "2nd_manual", "1st_manual", "fov_masks", "by_klaus"):
        (tmp_path / folder).mkdir()
        for n in (1, 2):
            array = picture(n) if folder == "Images" else np.eye(60, 84, dtype=np.uint8) * 255
            write_png(tmp_path / folder / f"a{n}.png", array)
    card = parse_card(draft_card(tmp_path))
    assert card.images.file == "Images/{name}.png"
    assert {source.file for source in card.second_reader} == {"2nd_manual/{name}.png"}
    assert card.field_of_view is not None
    assert card.field_of_view.file == "fov_masks/{name}.png"
    assert "klaus" not in draft_card(tmp_path)
    assert parse_card(draft_card(tmp_path, labels=tmp_path / "by_klaus")).labels[0].file == "by_klaus/{name}.png"


def test_an_empty_folder_cannot_be_drafted(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no file"):
        draft_card(tmp_path)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_cards_fit_the_real_data(name: str) -> None:
    folder, parts = SHARED[name]
    root = shared_data(folder)
    card = load_card(name)
    cases = find_cases(card, root)
    counted = {part: sum((c.part or "none") == part for c in cases) for part in parts}
    assert counted == parts
    mask = read_target_mask(card, cases[0])
    scan = read_scan(card, cases[0])
    assert mask.shape == scan.geometry.shape
    assert 0 < np.mean(mask > 0) < 0.25


@pytest.mark.parametrize("name", ["drive", "stare"])
def test_cards_fit_the_official_layouts(tmp_path: Path, name: str) -> None:
    """As the archives are packed: TIFF and GIF, or PPM, some of it still compressed."""
    label = np.eye(58, 56, dtype=np.uint8) * 255
    layouts = {
        "drive": {
            "training/images/21_training.tif": picture(1, (58, 56)),
            "training/1st_manual/21_manual1.gif": label,
            "training/mask/21_training_mask.gif": np.full_like(label, 255),
            "test/images/01_test.tif": picture(2, (58, 56)),
            "test/1st_manual/01_manual1.gif": label,
            "test/2nd_manual/01_manual2.gif": label[::-1],
            "test/mask/01_test_mask.gif": np.full_like(label, 255),
        },
        "stare": {
            "stare-images/im0001.ppm": picture(1, (58, 56)),
            "labels-ah/im0001.ah.ppm": label,
            "labels-vk/im0001.vk.ppm": label,
            "stare-images/im0324.ppm.gz": picture(2, (58, 56)),
            "labels-ah/im0324.ah.ppm.gz": label,
        },
    }
    for place, array in layouts[name].items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix("") if place.endswith(".gz") else path
        Image.fromarray(array).save(whole)
        if whole != path:
            path.write_bytes(gzip.compress(whole.read_bytes()))
            whole.unlink()
    card = load_card(name)
    assert [problem for problem in check_card(card, tmp_path) if problem.file or "the card says 20" not in problem.message] == []
    first, second = find_cases(card, tmp_path)
    assert (first.part, second.part) == (("test", "train") if name == "drive" else (None, None))
    assert (len(first.second_reader), len(second.second_reader)) == (1, 0)
    assert read_target_mask(card, second).sum() == 56


def test_a_card_without_labels_is_read_and_not_learnt() -> None:
    root = shared_data("dr_both_eyes")
    card = load_card("dr_both_eyes")
    assert check_card(card, root) == []
    statistics = card_statistics(card, root)
    assert (statistics["cases"], statistics["patients"]) == (220, 110)
    assert {case.key.eye for case in find_cases(card, root)} == {"R", "L"}


def test_labels_without_classes_are_refused() -> None:
    with pytest.raises(CardError, match="classes: is missing, but there are labels"):
        make_card(classes=None)


@pytest.mark.parametrize("name", [card.name for card in list_cards() if card.modality == "fundus"])
def test_colours_of_cards_are_seen_on_a_fundus(name: str) -> None:
    """A fundus is red to orange; by convention arteries are red all the same."""
    for cls in load_card(name).stored_map.classes:
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in cls.colour))
        assert cls.name == "artery" or 50 / 360 < hue < 330 / 360 or saturation < 0.3, cls
        assert value > 0.5


def test_chase_is_as_its_card_says() -> None:
    root = shared_data("chase_db1")
    card = load_card("chase_db1")
    assert check_card(card, root) == []
    statistics = card_statistics(card, root)
    assert (statistics["cases"], statistics["patients"], statistics["second_reader"]) == (28, 14, 28)
    case = find_cases(card, root)[0]
    assert str(case.key) == "01_L_0_Image-01L"
    first, second = read_target_mask(card, case), read_target_mask(card, case, reader="second")
    assert 0.5 < 2 * np.sum(first & second) / (first.sum() + second.sum()) < 1
    view = read_field_of_view(card, case, read_scan(card, case))
    assert view is not None
    assert 0.6 < view.mean() < 0.8


def test_disc_and_cup_overlap_in_drishti() -> None:
    root = shared_data("drishti_gs_half_train")
    card = load_card("drishti_gs")
    disc, cup = card.label_map.layers(read_target_mask(card, find_cases(card, root)[0]))
    assert cup.any()
    assert not (cup & ~disc).any()
    assert card.label_map.classes[1].inside == "disc"
    assert disc.sum() > cup.sum()


def test_a_card_of_boxes_says_that_it_has_no_masks() -> None:
    root = shared_data("idrid_codras_boxes")
    card = load_card("idrid_codras")
    cases = find_cases(card, root)
    assert len(cases) == 500
    with pytest.raises(CardError, match="boxes, which say nothing about single pixels"):
        read_target_mask(card, cases[0])


def test_the_card_text_helper_is_what_load_card_reads(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text(card_text(), encoding="utf-8")
    assert load_card(str(tmp_path / "mine.md")).name == "small"


def test_the_phantom_card_fits_what_the_phantom_writes(tmp_path: Path) -> None:
    from pipeline.phantoms.hospital import write_hospital

    write_hospital(tmp_path, 1, 3, fundus_shape=(200, 220), oct_shape=(2, 64, 80))
    card = load_card("phantom")
    assert check_card(card, tmp_path / "card") == []
    statistics = card_statistics(card, tmp_path / "card")
    assert 0.02 < statistics["fraction_of_pixels"]["vessel"] < 0.25
    assert {case.key.patient for case in find_cases(card, tmp_path / "card")} == {"P0001"}


def test_what_a_mac_leaves_is_no_image_and_archives_are_told(small_set: SmallSet) -> None:
    for path in sorted((small_set.root / "images").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\x05\x16\x07\0\2\0\0Mac OS X        ")
    with zipfile.ZipFile(small_set.root / "more.zip", "w") as archive:
        archive.write(small_set.root / "images" / "a_L.png", "a_L.png")
    assert len(find_cases(small_set.card, small_set.root)) == 12
    said = [(p.severity, p.message) for p in check_card(small_set.card, small_set.root)]
    assert said == [
        ("warning", "1 archive holds 1 image: unpack it"),
        ("warning", "12 macOS sidecar files (._*) hold no image and are left out"),
    ]


def test_a_draft_of_a_folder_of_archives_says_that_they_are_archives(small_set: SmallSet, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "all.zip", "w") as archive:
        for path in sorted((small_set.root / "images").iterdir()):
            archive.write(path, path.name)
    with pytest.raises(CardError, match="1 archive holds 12 images: unpack it"):
        draft_card(tmp_path / "packed")

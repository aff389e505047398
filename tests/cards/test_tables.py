"""Tables, part files, patterns and names as other people's systems write them."""

from __future__ import annotations

import json
import shutil
import time
import unicodedata
from pathlib import Path

import pytest

from pipeline.cards.card import DataCard
from pipeline.cards.find_cases import find_cases
from pipeline.cards.patterns import Pattern
from pipeline.cards.tables import read_table
from pipeline.cards.targets import read_truth
from pipeline.errors import CardError
from pipeline.scans.identity import Pseudonyms
from tests.cards.conftest import SmallSet, make_card

TABLE = {"images": {"file": "{image}", "table": "list.csv"}, "labels": [{"kind": "values", "file": "{label}", "values": {255: "vessel"}}]}


def listed(data: SmallSet, text: str | bytes, **changes: object) -> DataCard:
    """A card of the small set's first image by a table that holds ``text``."""
    (data.root / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return make_card(**(TABLE | changes))


def rows(root: Path, separator: str = ",", slash: str = "/") -> str:
    image = sorted((root / "images").iterdir())[0].name
    cells = [["image", "label", "patient", "eye"], [f"images{slash}{image}", f"labels{slash}{image}", "Müller", "OD"]]
    return "".join(separator.join(row) + "\r\n" for row in cells)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "sep=;\r\n" + text.replace(",", ";"),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("images/", "./images/").replace("labels/", ".\\labels/"),
        lambda text: text + ",,,\r\n\r\n,,,\r\n",
        lambda text: text.replace("OD", "OD,,"),
        lambda text: text.replace("image,", " image ,"),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace(",", ";").encode("utf-16"),
    ],
)
def test_one_table_however_it_was_saved(small_set: SmallSet, change: object) -> None:
    text = rows(small_set.root)
    (case,) = find_cases(listed(small_set, change(text)), small_set.root)  # type: ignore[operator]
    assert (case.key.patient, case.key.eye) == ("M-ller-a78429899bb8", "R")
    assert case.image.is_file()
    assert [path.is_file() for _, path in case.labels if path is not None] == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.encode("latin-1"), "table 'list.csv': line 2 is not UTF-8 text; save the file as UTF-8"),
        (lambda text: text.replace("Müller", "Müller, Hans"), "line 2 has 5 values for 4 columns; put what holds ',' in quotes"),
        (lambda text: text.replace("eye", "image"), "column 'image' occurs twice"),
        (lambda text: "\r\n ,,\r\n", "it is empty"),
        (lambda text: text + text.splitlines()[1], "line 3: line 2 has the same image"),
        (lambda text: text + ",labels/x.png,P,OD", "line 3: column 'image' is empty"),
        (lambda text: text.replace("images/", "../images/"), "line 2: '../images/"),
        (lambda text: text.replace("images/", "images/../../"), "does not lie in the data set's folder"),
        (lambda text: text.replace("labels/", "/etc/"), "does not lie in the data set's folder"),
        (lambda text: text.replace("labels/", "C:\\labels\\"), "does not lie in the data set's folder"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_by_its_line(small_set: SmallSet, change: object, said: str) -> None:
    card = listed(small_set, change(rows(small_set.root)))  # type: ignore[operator]
    with pytest.raises(CardError) as caught:
        find_cases(card, small_set.root)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["../list.csv", "/list.csv", "a/../../list.csv", "..\\list.csv", "D:\\list.csv"])
@pytest.mark.parametrize("field", ["images.table", "parts.file", "images.file", "labels", "field_of_view"])
def test_places_outside_the_data_set_are_refused_by_field(field: str, place: str) -> None:
    changes: dict[str, object] = {
        "images.table": {"images": {"file": "{image}", "table": place}},
        "parts.file": {"parts": {"file": place}},
        "images.file": {"images": {"file": place}},
        "labels": {"labels": [{"kind": "values", "file": place, "values": {255: "vessel"}}]},
        "field_of_view": {"field_of_view": {"file": place}},
    }[field]
    with pytest.raises(CardError) as caught:
        make_card(**changes)
    said = str(caught.value)
    assert field in said or repr(place) in said
    assert "data set's folder" in said or "write / between folders" in said


@pytest.mark.parametrize("what", ["images.table", "parts.file"])
def test_a_link_that_leaves_is_refused_by_field(
    small_set: SmallSet, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "list"
    content = rows(small_set.root) if what == "images.table" else json.dumps({"train": ["a*"]})
    outside.write_text(content, encoding="utf-8")
    (small_set.root / "linked").symlink_to(outside)
    changes = {"images": {"file": "{image}", "table": "linked"}} if what == "images.table" else {"parts": {"file": "linked"}}
    card = listed(small_set, rows(small_set.root), **changes)
    with pytest.raises(CardError, match=f"{what}: 'linked' is a link that leads out"):
        find_cases(card, small_set.root)
    monkeypatch.setenv("OCUSEG_FOLLOW_LINKS", "1")
    assert len(find_cases(card, small_set.root)) == 1


def test_a_table_of_objects_stays_in_the_folder_too(small_set: SmallSet) -> None:
    (case,) = find_cases(listed(small_set, rows(small_set.root).replace("eye", "ids").replace("OD", "../../ids.json")), small_set.root)
    source = {
        "kind": "instances",
        "file": "{label}",
        "classes_from": {"json": "{ids}", "path": "", "id": "id", "category": "class", "values": {"a": "vessel"}},
    }
    (case,) = find_cases(listed(small_set, (small_set.root / "list.csv").read_bytes(), labels=[source]), small_set.root)
    with pytest.raises(CardError, match=r"classes_from: '\.\./\.\./ids\.json' does not lie in the data set's folder"):
        read_truth(make_card(**(TABLE | {"labels": [source]})), case, objects=True)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"train": 3}', '{"train": null}'])
def test_a_part_file_that_is_none_is_said(small_set: SmallSet, text: str) -> None:
    (small_set.root / "parts.json").write_text(text)
    with pytest.raises(CardError, match=r"part file 'parts\.json'"):
        find_cases(make_card(parts={"file": "parts.json"}), small_set.root)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_one_whichever_system_wrote_them(small_set: SmallSet, form: str) -> None:
    root, other = small_set.root, "NFD" if form == "NFC" else "NFC"
    name = sorted((root / "images").iterdir())[0].name
    for folder, way in (("images", form), ("labels", other)):
        shutil.move(root / folder / name, root / folder / unicodedata.normalize(way, "Zoë_R.png"))  # type: ignore[arg-type]
    card = make_card(
        images={"file": "images/{patient}_{eye}.png"},
        labels=[{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": {255: "vessel"}}],
        parts={"patients": {"test": [unicodedata.normalize("NFD", "Zoë")]}},
    )
    (case,) = [case for case in find_cases(card, root) if case.part == "test"]
    assert str(case.key) == "Zo-c6a12698582f_R_0_Zo-R-17c5e4464ed1"
    text = unicodedata.normalize(other, "image,label\nimages/Zoë_R.png,labels/Zoë_R.png\n")  # type: ignore[arg-type]
    (same,) = find_cases(listed(small_set, text), root)
    assert (same.image, same.labels[0][1]) == (case.image, case.labels[0][1])


def test_a_person_s_pseudonym_does_not_hang_on_the_system() -> None:
    tokens = {Pseudonyms(b"k" * 32).patient(unicodedata.normalize(form, "Zoë")) for form in ("NFC", "NFD")}  # type: ignore[arg-type]
    assert len(tokens) == 1


def test_a_pattern_that_would_backtrack_for_ever_is_refused_in_time() -> None:
    pattern = Pattern.compile("{name:(?:(?:[a-z]|[a-z][a-z])+)+}_R.png")
    assert pattern.match("abc_R.png") == {"name": "abc"}
    start = time.process_time()
    with pytest.raises(CardError, match=r"takes more than 1 s on one file name; simplify it"):
        pattern.match("a" * 200 + "1_R.png")
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    "expression", ["[a-z]{99999999}", "[a-z]{" + "9" * 6000 + "}", "((a{1000}){1000}){1000}", "(" * 5000 + ")" * 5000, "(?P<x>a", "["]
)
def test_expressions_that_cannot_be_built_are_refused_by_pattern(expression: str) -> None:
    with pytest.raises(CardError, match="pattern"):
        Pattern.compile(f"{{name:{expression}}}.png")


def test_a_backslash_between_folders_is_said() -> None:
    with pytest.raises(CardError, match="write / between folders"):
        Pattern.compile("images\\{name}.png")


def test_quotes_keep_separators_and_line_numbers_count_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a;b\n"x;y";"two\nlines"\n1;2\n')
    assert read_table(path) == [(3, {"a": "x;y", "b": "two\nlines"}), (4, {"a": "1", "b": "2"})]

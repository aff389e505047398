"""A detector's cases: boxes, instance contours, counts; what does not fit together is said and never fatal."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.reports import objects as reading
from pipeline.reports.wording import class_styles
from pipeline.reports.worklist import write_report
from pipeline.scans.raster import write_png
from pipeline.types import LabelClass, LabelMap
from tests.drawing.test_contours import even_odd, parse
from tests.reports.conftest import DISC_CUP, LESIONS, Out, disc_and_cup, spot
from tests.reports.test_worklist import EVIL, Page

SHAPE = (120, 160)
NAME = "pa_R_v1_i1"
MILLIMETRES = {"spacing_mm": [0.01, 0.01], "spacing_source": "user"}


def page_of(out: Out, name: str = NAME) -> tuple[dict[str, Any], Page, str]:
    """The data the page's script draws (of objects), the page, and its source."""
    write_report(out.path)
    path = out.path / "report" / "cases" / f"{name}.html"
    text = path.read_text(encoding="utf-8")
    return json.loads(re.findall(r'id="case-data">(.*?)</script>', text)[0])["objects"], Page(path), text


def lesions(number: int = 3) -> list[dict[str, Any]]:
    """``number`` haemorrhages in a row, ever less likely: 0.90, 0.80, ..."""
    return [
        {"class": "haemorrhage", "score": 0.9 - 0.1 * k, "box": [10 + 20 * k, 20, 18 + 20 * k, 31], "size_mm": [0.08, 0.11]}
        for k in range(number)
    ]


def test_disc_and_cup_each_have_their_contour(make_out: Callable[..., Out]) -> None:
    out = make_out(DISC_CUP).detection()
    disc, cup, weak = spot(SHAPE, 90, 60, 30), spot(SHAPE, 92, 61, 14), spot(SHAPE, 20, 20, 8)
    found = [{"class": "disc", "score": 0.97} | disc, {"class": "cup", "score": 0.871} | cup, {"class": "disc", "score": 0.2} | weak]
    out.add_objects(NAME, SHAPE, found, has_masks=True, geometry=MILLIMETRES)
    data, page, html = page_of(out)
    assert data["masks"] is True
    assert data["thresholds"] == [0.5, 0.5]
    assert [(row[0], row[2], row[3]) for row in data["rows"]] == [(1, 0, 0.97), (2, 1, 0.871), (3, 0, 0.2)]
    assert data["rows"][0][4:8] == [60, 30, 121, 91]
    assert sorted(data["outlines"]) == ["1", "2"], "below the threshold no mask is exported, so there is a box only"
    for key, expected in (("1", disc["mask"]), ("2", cup["mask"])):
        assert (even_odd(parse(data["outlines"][key]), *SHAPE) == expected).all()
    assert re.findall(r'fill-rule="evenodd"[^>]* d="([^"]*)"', html) == ["", ""], "not drawn twice"
    assert "have a box only" in page.text
    assert "with the boxes of: 1 disc, 1 cup" in html
    area = int(disc["mask"].sum())
    assert data["rows"][0][9] == f"{area * 1e-4:.3g} mm²"
    assert not page.with_class("warnings")


def test_boxes_only_show_sizes_where_the_spacing_is_known(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    out.add_objects(NAME, SHAPE, lesions(), geometry=MILLIMETRES)
    out.add_objects("pb_R_v1_i1", SHAPE, lesions())
    out.add_objects("pc_R_v1_i1", SHAPE, [])
    data, page, html = page_of(out)
    assert [row[8] for row in data["rows"]] == ["0.08 × 0.11 mm"] * 3
    assert "have boxes and no contours" in page.text
    assert re.search(r'id="show-contours"', html)
    assert not re.search(r"mm²|\bpx</th>", re.findall(r"<h2>Found</h2>.*?</section>", html, re.S)[0]), "no mask has no area"
    data, _, _ = page_of(out, "pb_R_v1_i1")
    assert [row[8] for row in data["rows"]] == ["8 × 11 px"] * 3, "sizes in mm are not trusted without a spacing"
    data, page, html = page_of(out, "pc_R_v1_i1")
    assert data["rows"] == []
    assert "boxes of: nothing found" in html
    assert not page.with_class("warnings")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"objects": [', "objects.json is damaged"),
        ("[]", "objects.json is damaged"),
        ("{}", "objects: Field required"),
        (None, "objects.json is missing"),
    ],
)
def test_a_damaged_file_of_objects_is_said_and_the_page_is_made(make_out: Callable[..., Out], content: str | None, said: str) -> None:
    out = make_out(LESIONS).detection()
    folder = out.add_objects(NAME, SHAPE, lesions())
    if content is None:
        (folder / "objects.json").unlink()
    else:
        (folder / "objects.json").write_text(content)
    data, page, _ = page_of(out)
    assert data["rows"] == []
    assert said in page.text
    assert str(out.path) not in page.text
    worklist = Page(out.path / "report" / "index.html")
    assert len(worklist.with_class("row-warnings")) == 1
    for shown in (page, worklist):
        assert "unknown" in shown.text, "what nobody knows is not nothing"
    (row,) = rows_of(out)
    assert row["found"][2][:2] == ["unknown number", -1]
    assert "nothing found" not in (out.path / "report" / "cases" / f"{NAME}.html").read_text()


def test_damaged_objects_are_left_out_and_counted(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    folder = out.add_objects(NAME, SHAPE, lesions())
    record = json.loads((folder / "objects.json").read_text())
    good = record["objects"][0]
    record["objects"] += [
        7,
        good,  # the same id again
        good | {"id": 11, "class": EVIL},
        good | {"id": 12, "plane": 3},
        good | {"id": 13, "score": 1.5},
        good | {"id": 14, "box": [10, 10, 10, 20]},
        good | {"id": 15, "box": [500, 10, 600, 20]},
        good | {"id": 16, "size_mm": [0, 1]},
        good | {"id": 17, "box": [150, 100, 1e300, 119]},  # cut to the scan
    ]
    record["thresholds"] = {"haemorrhage": "high"}  # the run's is taken
    (folder / "objects.json").write_text(json.dumps(record).replace("1e+300", "1e300"))
    case = json.loads((folder / "case.json").read_text())
    case["geometry"] |= MILLIMETRES
    (folder / "case.json").write_text(json.dumps(case))
    data, page, html = page_of(out)
    assert sorted(row[0] for row in data["rows"]) == [1, 2, 3, 17]
    assert next(row for row in data["rows"] if row[0] == 17)[4:8] == [150, 100, 160, 119]
    assert "8 of 12 objects are left out (entry 4:" in page.text
    assert "haemorrhage: objects.json holds 4 objects at the threshold where the prediction recorded 3" in page.text
    assert "<script>alert" not in html


def test_instance_ids_that_do_not_fit_are_said(make_out: Callable[..., Out]) -> None:
    out = make_out(DISC_CUP).detection()
    disc, cup = spot(SHAPE, 90, 60, 30), spot(SHAPE, 92, 61, 14)
    found = [{"class": "disc", "score": 0.97} | disc, {"class": "cup", "score": 0.9} | cup]
    strange = out.add_objects(NAME, SHAPE, found, has_masks=True)
    ids = disc["mask"].astype(np.uint16)
    ids[:5, :5] = 40000
    write_png(strange / "instances_000_1.png", ids)
    write_png(strange / "instances_000_2.png", np.zeros((7, 9), np.uint16))
    gone = out.add_objects("pb_R_v1_i1", SHAPE, found, has_masks=True)
    (gone / "instances_000_1.png").unlink()
    (gone / "instances_000_2.png").write_bytes(b"no picture")
    data, page, html = page_of(out)
    assert list(data["outlines"]) == ["1"]
    assert "instances_000_1.png: 1 contours belong to no object shown" in page.text
    assert "instances_000_2.png is damaged (it is (7, 9)" in page.text
    union = re.findall(r'fill-rule="evenodd"[^>]* d="([^"]*)"', html)
    assert union[0] == ""
    assert (even_odd(parse(union[1]), *SHAPE) == cup["mask"]).all(), "the class's own contour stands in"
    data, page, _ = page_of(out, "pb_R_v1_i1")
    assert data["outlines"] == {}
    assert "instances_000_1.png is missing" in page.text
    assert "instances_000_2.png is damaged" in page.text
    assert str(out.path) not in page.text


def test_of_very_many_objects_the_highest_scoring_are_shown(make_out: Callable[..., Out], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_IN_A_SLICE", 30)
    out = make_out(LESIONS).detection()
    many = [{"class": "exudate", "score": 1 - k / 100, "box": [k, 3, k + 4, 9]} for k in range(40)]
    out.add_objects(NAME, SHAPE, many)
    data, page, _ = page_of(out)
    assert [row[3] for row in data["rows"]] == [round(1 - k / 100, 2) for k in range(30)]
    assert "Of 40 objects the 30 highest-scoring are shown" in page.text
    assert "recorded" not in page.text, "the counts are of all"


def test_a_volume_has_its_objects_by_slice(make_out: Callable[..., Out]) -> None:
    out = make_out(DISC_CUP).detection()
    one, two = spot((80, 130), 40, 30, 9), spot((80, 130), 90, 50, 12)
    found = [{"class": "disc", "score": 0.9, "plane": 1} | one, {"class": "disc", "score": 0.8, "plane": 4} | two]
    out.add_objects(NAME, (6, 80, 130), found, has_masks=True, modality="oct")
    data, page, html = page_of(out)
    assert [row[:2] for row in data["rows"]] == [[1, 1], [2, 4]]
    assert data["outlines"] == {}, "they come with the slices"
    source = (out.path / "report" / "data" / f"{NAME}_0005.js").read_text()
    slices = json.loads(re.fullmatch(r"ocusegSlices\((.*)\);\n", source)[1])  # type: ignore[index]
    assert [key for key, drawn in slices.items() if "outlines" in drawn] == ["1", "4"]
    assert (even_odd(parse(slices["4"]["outlines"]["2"]), 80, 130) == two["mask"]).all()
    assert json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])["start"] == 4
    assert "counts in each" in page.text


def rows_of(out: Out) -> list[dict[str, Any]]:
    """What the worklist's script is given, of each class its text and what the column is sorted by."""
    text = (out.path / "report" / "rows.js").read_text(encoding="utf-8")
    data = json.loads(ast.literal_eval(text.removeprefix("ocusegRows(").removesuffix(");\n")))

    def at(column: Any, place: int) -> Any:
        return column["texts"][column["at"][place]] if isinstance(column, dict) else column[place]

    fields = [{name: at(column, place) for name, column in data["columns"].items()} for place in range(data["rows"])]
    found = [[[at(cls["text"], place), at(cls["amount"], place)] for cls in data["classes"]] for place in range(data["rows"])]
    return [row | {"found": own} for row, own in zip(fields, found, strict=True)]


def test_the_worklist_counts_by_class(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    out.add_objects(
        NAME, SHAPE, [*lesions(4), {"class": "disc", "score": 0.99, "box": [90, 40, 130, 90]}], thresholds={"haemorrhage": 0.65}
    )
    out.add_objects("pb_R_v1_i1", SHAPE, [])
    page = Page(write_report(out.path))
    empty, row = rows_of(out)
    assert [amount for _, amount in row["found"]] == [1, 0, 3]
    assert [amount for _, amount in empty["found"]] == [0, 0, 0]
    assert [a["data-sort"] for _, a in page.elements if str(a.get("data-sort")).startswith("found")] == ["found0", "found1", "found2"]
    assert {a["alt"] for tag, a in page.elements if tag == "img"} == {"Fundus photograph, eye unknown, with boxes"}
    kept = {p.name: p.stat().st_mtime_ns for p in (out.path / "report" / "cases").iterdir()}
    again = Page(write_report(out.path))
    assert kept == {p.name: p.stat().st_mtime_ns for p in (out.path / "report" / "cases").iterdir()}
    assert again.text.split("report made")[0] == page.text.split("report made")[0], "an untouched page's counts are remembered"


def test_all_scores_of_the_bundle_are_told_means_first(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    by_class = {name: k / 10 for k, name in enumerate(LESIONS.names, 1)}
    metrics = {"dice_pooled": 0.91, "f1": 0.92, "seconds": 3.0, "ap50/": by_class, "ap50": 0.25, "mask_ap50": 0.21, "dice": by_class}
    out.write_run(task="detection", metrics={"validation": metrics})
    out.add_objects(NAME, SHAPE, lesions())
    page = Page(write_report(out.path))
    told = re.findall(r"validation (.*?) (\d\.\d{3})", page.text)
    assert told[:2] == [("box AP@.50", "0.250"), ("mask AP@.50", "0.210")]
    expected = {(f"{kind} {name}", f"{value:.3f}") for kind in ("box AP@.50", "dice") for name, value in by_class.items()}
    assert (set(told[2:]), len(told)) == (expected, 2 + len(expected))


def test_files_for_other_programs_are_linked_where_they_are(make_out: Callable[..., Out]) -> None:
    out = make_out(DISC_CUP).detection()
    folder = out.add_objects(NAME, SHAPE, [{"class": "disc", "score": 0.9} | spot(SHAPE, 90, 60, 20)], has_masks=True)
    for file in (out.path / "coco.json", folder / "coco.json"):
        file.write_text("{}")
    index, page = Page(write_report(out.path)), Page(out.path / "report" / "cases" / f"{NAME}.html")

    def linked(of: Page, start: str) -> set[str]:
        return {a["href"].rsplit("/", 1)[1] for tag, a in of.elements if tag == "a" and (a.get("href") or "").startswith(start)}  # type: ignore[union-attr]

    assert linked(page, f"../../cases/{NAME}/") == {path.name for path in folder.iterdir()} - {"case.json", "image_000.png"}
    assert {"objects.json", "coco.json"} <= linked(page, f"../../cases/{NAME}/")
    assert {name for name in linked(index, "../") if "." in name} == {"coco.json", "ledger.csv"}


def test_small_words_in_any_classes_colour_are_read_on_black() -> None:
    colours = ((0, 114, 178), (0, 0, 255), (0, 0, 0), (230, 159, 0), (255, 255, 255), (90, 0, 0))
    classes = tuple(LabelClass(number, f"c{number}", colour) for number, colour in enumerate(colours, 1))
    for colour, style in zip(colours, class_styles(LabelMap(classes)), strict=True):
        ink = [int(style.ink[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in ink]
        luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
        assert (luminance + 0.05) / 0.05 > 6.95
        if colour in ((230, 159, 0), (255, 255, 255)):
            assert style.ink == style.colour, "what can be read stays as it is"


def test_objects_of_a_changed_file_are_drawn_anew(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    folder = out.add_objects(NAME, SHAPE, lesions())
    write_report(out.path)
    (folder / "objects.json").unlink()
    data, page, _ = page_of(out)
    assert data["rows"] == []
    assert "objects.json is missing" in page.text


def test_the_thumbnail_shows_boxes_where_there_are_no_masks(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    found = [{"class": "haemorrhage", "score": 0.9, "box": [40, 30, 120, 90]}, {"class": "exudate", "score": 0.2, "box": [4, 4, 30, 30]}]
    out.add_objects(NAME, SHAPE, found)
    write_report(out.path)
    with Image.open(out.path / "report" / "thumbs" / f"{NAME}.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    reddish = pixels[:180, :, 0] - pixels[:180, :, 2] > 80
    rows, columns = np.nonzero(reddish)
    assert abs(rows.min() - 45) <= 2
    assert abs(rows.max() - 134) <= 2
    assert abs(columns.min() - 60) <= 2
    assert abs(columns.max() - 179) <= 2
    assert not reddish[60:120, 80:160].any(), "a box is a line"
    assert (np.abs(pixels[:45, :50] - 60) < 25).all(), "an object below the threshold is not in the thumbnail"


def test_a_semantic_run_ignores_a_stray_file(make_out: Callable[..., Out], tmp_path: Path) -> None:
    out = make_out()
    folder = out.add(NAME, disc_and_cup())
    (folder / "objects.json").write_text('{"objects": [')
    index = write_report(out.path)
    for path in (index, out.path / "report" / "cases" / f"{NAME}.html"):
        assert "object" not in path.read_text(encoding="utf-8").replace("objectB", "")


def test_what_inference_writes_of_objects_is_what_the_report_reads(make_out: Callable[..., Out]) -> None:
    from pipeline.inference.case_files import CaseResult, write_case
    from pipeline.inference.object_files import FoundObjects, compact
    from pipeline.types import CaseKey, Geometry, Prediction, Scan

    out = make_out(DISC_CUP).detection()
    disc, cup, weak = spot(SHAPE, 90, 60, 30), spot(SHAPE, 92, 61, 14), spot(SHAPE, 20, 20, 8)
    prediction = Prediction(
        bundle_id="0123456789ab",
        boxes=np.array([disc["box"], cup["box"], weak["box"]], np.float32),
        labels=np.array([1, 2, 1]),
        scores=np.array([0.97, 0.87, 0.2], np.float32),
        instance_masks=np.stack([disc["mask"], cup["mask"], weak["mask"]]),
    )
    found = FoundObjects.of([compact(prediction, 0)], True, DISC_CUP, {"disc": 0.6, "cup": 0.4})
    pixels = np.full((3, *SHAPE), 80, np.uint8)
    scan = Scan(pixels, Geometry(SHAPE, (0.01, 0.02), "tag", None, "R", "tag"), "fundus", CaseKey("pa", "R", "v1", "i1"), "ab" * 32)
    union = disc["mask"].astype(np.uint8) | (cup["mask"].astype(np.uint8) << 1)
    write_case(out.path, CaseResult(scan, NAME, DISC_CUP, union, None, (), "0123456789ab", 0.5, found))
    data, page, _ = page_of(out)
    assert data["thresholds"] == [0.6, 0.4]
    assert [(row[0], row[2], row[3]) for row in data["rows"]] == [(1, 0, 0.97), (2, 1, 0.87), (3, 0, 0.2)]
    assert data["rows"][0][8] == "1.22 × 0.61 mm", "61 pixels of 0.02 and 0.01 mm"
    assert (even_odd(parse(data["outlines"]["1"]), *SHAPE) == disc["mask"]).all()
    assert not page.with_class("warnings")

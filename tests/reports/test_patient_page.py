"""A patient's page: both eyes beside each other, visits in their order, and no number that may not be shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from pipeline.reports.measures import in_front, shown_measures, with_unit
from pipeline.reports.results import read_case
from pipeline.reports.trends import HEIGHT, trends
from pipeline.reports.worklist import write_report
from pipeline.types import Unit
from tests.reports.conftest import Out, disc_and_cup, vcdr
from tests.reports.test_worklist import Page


def side(eye: str) -> dict[str, str]:
    return {"laterality": eye, "laterality_source": "tag"}


def words(html: str) -> str:
    return re.sub(r"(<[^>]*>|\s)+", " ", html)


def test_both_eyes_stand_beside_each_other_with_their_difference(make_out: Callable[..., Out]) -> None:
    out = make_out()
    mask = disc_and_cup(60, 80)
    out.add("pa_R_v1_i1", mask, geometry=side("R"), measures=[vcdr(0.62), vcdr(0.3, key="hcdr", title="horizontal ratio")])
    out.add("pa_L_v1_i1", mask, geometry=side("L"), measures=[vcdr(0.41)])
    out.add("pb_L_v1_i1", mask, geometry=side("L"), measures=[vcdr(None)])
    write_report(out.path)
    pages = out.path / "report" / "patients"
    html = (pages / "pa.html").read_text(encoding="utf-8")
    assert html.index("views/pa_R_v1_i1.jpg") < html.index("views/pa_L_v1_i1.jpg"), "the right eye is on the left, as on charts"
    assert "0.62 0.58 to 0.67 Vertical cup-to-disc ratio 0.41 0.37 to 0.46 +0.21" in words(html)
    assert "0.30 0.26 to 0.35 Horizontal ratio – " in words(html), "no difference to an eye that has no such number"
    assert html.count("Research use, not for diagnosis") >= 2
    assert "There is no cup" in words((pages / "pb.html").read_text(encoding="utf-8"))
    assert "no picture" in words((pages / "pb.html").read_text(encoding="utf-8"))
    for path in (pages / "pa.html", pages / "pb.html"):
        page = Page(path)
        assert all(a.get("alt") for tag, a in page.elements if tag == "img")
        for link in page.links():
            assert link.startswith(("data:", "#")) or (path.parent / link).exists(), link
    case = words((out.path / "report" / "cases" / "pa_R_v1_i1.html").read_text(encoding="utf-8"))
    assert (
        "Vertical cup-to-disc ratio Rows of the cup / rows of the disc. Source: Jonas 1999 Interval: over two flips 0.62 0.58 to 0.67 0.41"
        in case
    )


def test_withheld_numbers_are_not_on_the_page_with_the_reason(make_out: Callable[..., Out]) -> None:
    out = make_out()
    blurred = {"grade": "not_measurable", "reasons": ["It is blurred."]}
    flag = {"code": "two_discs", "text": "Two discs were found.", "withholds": True, "classes": ["disc"]}
    out.add("pa_R_v1_i1", disc_and_cup(60, 80), geometry=side("R"), measures=[vcdr(0.625)], quality=blurred)
    out.add("pa_L_v1_i1", disc_and_cup(60, 80), geometry=side("L"), measures=[vcdr(0.435)], flags=[flag])
    write_report(out.path)
    for page in ("patients/pa.html", "cases/pa_R_v1_i1.html", "cases/pa_L_v1_i1.html"):
        html = (out.path / "report" / page).read_text(encoding="utf-8")
        assert not re.search(r"0\.6[23]|0\.4[34]", html), "neither the number nor what was computed from it"
        assert "It is blurred." in html or "Two discs were found." in html
    assert "OD: It is blurred. OS: Two discs were found." in words(
        (out.path / "report" / "patients" / "pa.html").read_text(encoding="utf-8")
    )


def test_pages_follow_their_cases_and_only_theirs(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name in ("pa_R_v1_i1", "pb_R_v1_i1"):
        out.add(name, disc_and_cup(60, 80), measures=[vcdr(0.5)])
    write_report(out.path)
    pages = {name: out.path / "report" / "patients" / f"{name}.html" for name in ("pa", "pb")}
    before = {name: path.stat().st_mtime_ns for name, path in pages.items()}
    (out.path / "cases" / "pa_R_v1_i1" / "case.json").write_text(
        (out.path / "cases" / "pa_R_v1_i1" / "case.json").read_text(encoding="utf-8").replace("0.5,", "0.7,"), encoding="utf-8"
    )
    write_report(out.path)
    assert "0.70" in pages["pa"].read_text(encoding="utf-8")
    assert pages["pb"].stat().st_mtime_ns == before["pb"], "nothing of it changed"


def test_visits_stand_in_their_true_order_with_their_days(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for visit in ("va", "vb", "vc"):
        out.add(f"pa_R_{visit}_i1", disc_and_cup(60, 80), geometry=side("R"), measures=[vcdr(0.5)])
    write_report(out.path)
    page, case = out.path / "report" / "patients" / "pa.html", out.path / "report" / "cases" / "pa_R_vb_i1.html"
    assert "order unknown: not every visit has a date" in page.read_text(encoding="utf-8")
    assert 'id="visit" href="pa_R_vc_i1.html"' in case.read_text(encoding="utf-8")
    dated = [{"visit": "vc", "number": 1, "days": 0}, {"visit": "vb", "number": 2, "days": 163}, {"visit": "va", "number": 3, "days": 164}]
    (out.path / "visits.json").write_text(json.dumps({"patients": {"pa": {"visits": dated}}}), encoding="utf-8")
    write_report(out.path)
    html = page.read_text(encoding="utf-8")
    assert re.findall(r'<section class="visit" id="[^"]*" aria-label="([^"]*)"', html) == [
        "Visit 1 of 3",
        "Visit 2 of 3, +163 days",
        "Visit 3 of 3, +164 days",
    ]
    assert "order unknown" not in html
    assert 'id="visit" href="pa_R_va_i1.html"' in case.read_text(encoding="utf-8")
    assert "Visit 2 of 3, +163 days" in case.read_text(encoding="utf-8")
    (out.path / "visits.json").write_text("{", encoding="utf-8")
    write_report(out.path)
    assert "order unknown" in page.read_text(encoding="utf-8")


def test_of_many_measures_one_of_each_kind_is_seen_at_once(make_out: Callable[..., Out]) -> None:
    out = make_out()
    titles = [
        "density",
        "density, zone B",
        "density, zone C",
        "length",
        "calibre",
        "calibre, zone B",
        "tortuosity",
        "angle",
        "branch points",
    ]
    measures = [vcdr(0.5)] + [vcdr(0.1, key=f"m{k}", title=title, classes=["vessel"]) for k, title in enumerate(titles)]
    out.add("pa_R_v1_i1", disc_and_cup(60, 80), measures=measures)
    front, rest = in_front(shown_measures(read_case(out.path / "cases" / "pa_R_v1_i1")))
    assert [one.record.title for one in front] == ["vertical cup-to-disc ratio", "density", "length", "calibre", "tortuosity"]
    assert len(front) + len(rest) == len(measures)


def test_a_trend_rises_where_the_number_does_and_needs_two() -> None:
    number = lambda value: ("OD", "k", "ratio", value, str(value), "1", False)  # noqa: E731
    (trend,) = trends([[number(0.4)], [], [number(0.6)], [number(0.5)]])
    (line,) = trend.lines
    heights = [y for _, y in line.points]
    assert heights[1] < heights[2] < heights[0] < HEIGHT, "the y axis of a picture points down"
    assert line.texts == ("0.4", "", "0.6", "0.5")
    assert trends([[number(0.4)], [number(None)]]) == []


def test_numbers_of_another_unit_or_on_an_estimated_scale_are_no_trend_with_others() -> None:
    units = [("mm", False), ("px", False), ("mm", True), ("mm", False)]
    number = lambda at: ("OD", "k", "height", 1.0 + at, str(at), *units[at])  # noqa: E731
    (trend,) = trends([[number(at)] for at in range(4)])
    assert trend.lines[0].texts == ("0", "", "", "3")


def test_an_estimated_scale_is_said_beside_each_number_and_compared_with_none_that_is_known(make_out: Callable[..., Out]) -> None:
    out = make_out()
    height = vcdr(1.87, key="disc_height", title="disc height", unit="mm", scale="estimated")
    out.add("pa_R_v1_i1", disc_and_cup(60, 80), geometry=side("R"), measures=[height])
    out.add("pa_L_v1_i1", disc_and_cup(60, 80), geometry=side("L"), measures=[height | {"value": 1.75, "scale": "tag"}])
    out.add("pa_R_v2_i1", disc_and_cup(60, 80), geometry=side("R"), measures=[height])
    out.add("pa_L_v2_i1", disc_and_cup(60, 80), geometry=side("L"), measures=[height | {"value": 1.75}])
    write_report(out.path)
    report = out.path / "report"
    for path in (report / "patients" / "pa.html", *(report / "cases").glob("*.html")):
        html = words(path.read_text(encoding="utf-8"))
        assert "1.87 mm" in html
        assert not re.search(r"1\.87 mm(?! \(estimated\))", html), path.name
    html = words((report / "patients" / "pa.html").read_text(encoding="utf-8"))
    assert "+0.12 mm (estimated)" in html
    assert html.count("0.12 mm") == 1, "no difference to what is known"


def test_the_eye_that_was_found_in_the_picture_counts(make_out: Callable[..., Out]) -> None:
    """Names of cases hold U, because the file does not say the eye."""
    out = make_out()
    eyes = {"pa_U_v1_i1": "R", "pa_U_v1_i2": "L", "pa_U_v2_i1": "L", "pa_U_v2_i2": "R", "pa_U_v2_i3": None, "pa_U_v3_i1": None}
    for name, eye in eyes.items():
        known = {"laterality": eye, "laterality_source": "picture" if eye else "unknown"}
        out.add(name, disc_and_cup(60, 80), geometry=known, measures=[vcdr({"R": 0.62, "L": 0.41, None: 0.33}[eye])])
    write_report(out.path)
    page = words((out.path / "report" / "patients" / "pa.html").read_text(encoding="utf-8"))
    assert page.count("0.62 0.58 to 0.67 Vertical cup-to-disc ratio 0.41 0.37 to 0.46 +0.21") == 2

    def link(name: str, to: str) -> str:
        html = (out.path / "report" / "cases" / f"{name}.html").read_text(encoding="utf-8")
        return "".join(re.findall(rf'id="{to}" href="([^"]*)\.html"', html))

    assert [link(name, "fellow") for name in eyes] == ["pa_U_v1_i2", "pa_U_v1_i1", "pa_U_v2_i2", "pa_U_v2_i1", "", ""]
    assert [link(name, "visit") for name in eyes] == ["pa_U_v2_i2", "pa_U_v2_i1", "pa_U_v1_i2", "pa_U_v1_i1", "", ""]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.6251, "1", "0.63"),
        (3, "1", "3"),
        (0.0123, "mm", "0.012 mm"),
        (1.8, "mm", "1.80 mm"),
        (12345.2, "px2", "12\N{NARROW NO-BREAK SPACE}345 px²"),
        (26.07, "um", "26.1 µm"),
        (-4, "px", "-4 px"),
    ],
)
def test_numbers_have_their_unit_and_no_more_digits_than_are_worth_reading(value: float, unit: Unit, text: str) -> None:
    assert with_unit(value, unit) == text

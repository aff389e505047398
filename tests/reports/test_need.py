"""What a person must look at first, and what is said of it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.reports.need import asymmetries, needs_eyes_first, status
from pipeline.reports.results import ReportCase, read_case
from pipeline.reports.worklist import write_report
from tests.reports.conftest import Out, disc_and_cup

TWO_DISCS = {"code": "two_discs", "text": "Two discs were found.", "withholds": True, "classes": ["disc"]}
MIRRORED = {"code": "mirrored", "text": "The tag says OD, the picture looks like OS."}
NO_FUNDUS = {"grade": "not_measurable", "reasons": ["This is no photograph of a fundus."]}
GOOD = {"grade": "good"}


def vcdr(value: float | None, title: str = "vertical cup-to-disc ratio") -> list[dict[str, Any]]:
    undefined = {} if value is not None else {"undefined": "no cup was found"}
    return [{"key": "vcdr", "title": title, "value": value, "unit": "1", "definition": "heights", "classes": ["disc", "cup"]} | undefined]


def case(out: Out, name: str, **fields: Any) -> ReportCase:
    side = {"laterality": None if name[3] == "U" else name[3], "laterality_source": "unknown" if name[3] == "U" else "tag"}
    return read_case(out.add(name, disc_and_cup(), geometry=side, **fields))


def order(cases: list[ReportCase]) -> list[str]:
    found = asymmetries(cases)
    return [str(one.key)[:4] for one in sorted(cases, key=lambda one: needs_eyes_first(one, found))]


def test_what_needs_eyes_most_comes_first(make_out: Callable[..., Out]) -> None:
    out = make_out()
    cases = [
        case(out, "pa_R_v1_i1", quality=GOOD, doubt={"score": 0.1}),
        case(out, "pa_L_v1_i1", quality=GOOD, doubt={"score": 0.11}),
        case(out, "pb_R_v1_i1", quality=GOOD, doubt={"score": 0.1}, measures=vcdr(0.3)),
        case(out, "pb_L_v1_i1", quality=GOOD, doubt={"score": 0.1}, measures=vcdr(0.6)),
        case(out, "pc_R_v1_i1", quality=GOOD, doubt={"score": 0.9}),
        case(out, "pd_R_v1_i1", quality={"grade": "poor"}),
        case(out, "pe_R_v1_i1", flags=[MIRRORED]),
        case(out, "pf_R_v1_i1", flags=[TWO_DISCS]),
        case(out, "pg_R_v1_i1", quality=NO_FUNDUS),
        case(out, "ph_R_v1_i1"),
    ]
    assert order(cases) == ["pg_R", "pf_R", "pe_R", "pd_R", "pc_R", "pb_R", "pb_L", "pa_R", "pa_L", "ph_R"]
    assert order(cases[::-1]) == order(cases), "whatever order they come in"


def test_fellow_eyes_are_compared_at_one_visit_by_numbers_that_may_be_shown(make_out: Callable[..., Out]) -> None:
    out = make_out()
    cases = [
        case(out, "pa_R_v1_i1", measures=vcdr(0.3)),
        case(out, "pa_L_v1_i1", measures=vcdr(0.7)),
        case(out, "pa_L_v2_i1", measures=vcdr(0.9)),
        case(out, "pb_R_v1_i1", measures=vcdr(0.3)),
        case(out, "pb_L_v1_i1", measures=vcdr(0.7), flags=[TWO_DISCS]),
        case(out, "pc_R_v1_i1", measures=vcdr(None)),
        case(out, "pc_L_v1_i1", measures=vcdr(0.7)),
        case(out, "pd_U_v1_i1", measures=vcdr(0.7)),
    ]
    found = asymmetries(cases)
    assert set(found) == {"pa_R_v1_i1", "pa_L_v1_i1"}
    assert found["pa_R_v1_i1"].times_usual == pytest.approx(0.4 / 0.2)
    assert found["pa_R_v1_i1"].text == "vertical cup-to-disc ratio 0.30, fellow eye 0.70"


@pytest.mark.parametrize(
    ("fields", "word", "level"),
    [
        ({"quality": GOOD}, "done", "done"),
        ({"quality": {"grade": "usable"}}, "done", "done"),
        ({}, "done", "unchecked"),
        ({"quality": {"grade": "poor"}}, "poor picture", "look"),
        ({"quality": NO_FUNDUS}, "not measurable", "look"),
        ({"quality": GOOD, "flags": [MIRRORED]}, "flagged", "look"),
        ({"quality": GOOD, "flags": [MIRRORED | {"withholds": True}]}, "not measurable", "look"),
    ],
)
def test_only_what_passed_the_gate_is_done(make_out: Callable[..., Out], fields: dict[str, Any], word: str, level: str) -> None:
    one = case(make_out(), "pa_R_v1_i1", **fields)
    found = status(one, nothing=False, useless=False)
    assert (found.word, found.level) == (word, level)
    assert status(one, nothing=True, useless=False).level == "look"
    assert status(one, nothing=False, useless=True).level == "look"


def test_numbers_are_withheld_everywhere_with_their_reason(make_out: Callable[..., Out]) -> None:
    out = make_out()
    case(out, "pa_R_v1_i1", quality=NO_FUNDUS)
    case(out, "pb_R_v1_i1", quality=GOOD, flags=[TWO_DISCS])
    case(out, "pc_R_v1_i1", quality=GOOD)
    index = write_report(out.path)
    with (index.parent / "worklist.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"][:2]: row for row in csv.DictReader(file)}
    discs = {name: (row["disc px"], row["cup px"]) for name, row in rows.items()}
    assert discs["pa"] == ("", "")
    assert discs["pb"] == ("", discs["pc"][1])
    assert int(discs["pc"][0]) > int(discs["pc"][1]) > 0
    assert rows["pa"]["withheld"] == "disc: This is no photograph of a fundus.; cup: This is no photograph of a fundus."
    assert rows["pb"]["withheld"] == "disc: Two discs were found."
    assert [rows[name]["needs_eyes"] for name in ("pa", "pb", "pc")] == ["yes", "yes", "no"]
    assert (rows["pb"]["flags"], rows["pb"]["reasons"], rows["pb"]["status"]) == ("two_discs", "Two discs were found.", "flagged")
    shown = f"disc <b>{int(discs['pc'][0]):,} px</b>".replace(",", "\N{NARROW NO-BREAK SPACE}")
    text = index.read_text(encoding="utf-8")
    assert text.count(shown) == 1, "the number of the table, of the one case that may show it"
    assert text.count("disc <b>–</b>") == 2


def test_a_spreadsheet_takes_no_text_for_a_formula(make_out: Callable[..., Out]) -> None:
    out = make_out()
    case(out, "pa_R_v1_i1", warnings=['=HYPERLINK("x")'])
    table: Path = write_report(out.path).parent / "worklist.csv"
    with table.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["warnings"] == '\'=HYPERLINK("x")'
    assert row["order"] == "1"

"""What cannot be measured has no number on its page, and the reason stands there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from pipeline.reports.measures import with_unit
from pipeline.reports.single_file import write_single_file
from pipeline.reports.worklist import write_report
from pipeline.types import Unit
from tests.reports.conftest import LESIONS, Out, disc_and_cup, spot

SCALE = {"spacing_mm": [0.01, 0.01], "spacing_source": "user"}
FORM = {"grade": "not_measurable", "reasons": ["This is no photograph of a fundus."], "scores": {"kind": 0.0}}
TWO_DISCS = {"code": "disc_in_pieces", "text": "More than one disc was found.", "withholds": True, "classes": ["disc"]}


@pytest.mark.parametrize(
    ("known", "hidden", "reason"),
    [
        ({"quality": {"grade": "good", "scores": {"sharpness": 0.9}}}, set(), ""),
        ({"quality": {"grade": "poor", "reasons": ["It is blurred."]}}, set(), "It is blurred."),
        ({"flags": [TWO_DISCS]}, {"disc"}, "More than one disc was found."),
        ({"quality": FORM}, {"disc", "cup"}, "This is no photograph of a fundus."),
        ({"flags": [TWO_DISCS | {"classes": []}]}, {"disc", "cup"}, "More than one disc was found."),
    ],
    ids=["good", "poor", "one class", "the whole picture", "a flag on everything"],
)
def test_numbers_are_withheld_where_they_may_not_be_believed(
    make_out: Callable[..., Out], known: dict[str, Any], hidden: set[str], reason: str
) -> None:
    out = make_out()
    mask = disc_and_cup()
    out.add("pa_R_v1_i1", mask, geometry=SCALE, **known)
    write_report(out.path)
    page = (out.path / "report" / "cases" / "pa_R_v1_i1.html").read_text(encoding="utf-8")
    for name, bit in (("disc", 1), ("cup", 2)):
        pixels = str(int((mask & bit > 0).sum()))
        (cells,) = re.findall(rf'<tr class=""><th scope="row">{name}</th>(.*?)</tr>', page.replace("\N{NARROW NO-BREAK SPACE}", ""), re.S)
        assert (pixels not in cells and cells.count("–") == 2) if name in hidden else pixels in cells
    assert reason in page


@pytest.mark.parametrize("known", [{"flags": [TWO_DISCS]}, {"quality": FORM}], ids=["one class", "the whole picture"])
def test_no_file_of_the_report_holds_a_withheld_size_of_an_object_or_number_of_a_changed_mask(
    make_out: Callable[..., Out], known: dict[str, Any]
) -> None:
    out = make_out(LESIONS).detection()
    found = spot((211, 307), 150, 100, 23) | {"class": "disc", "score": 0.9, "size_mm": (4.71, 4.73)}
    folder = out.add_objects("pa_R_v1_i1", (211, 307), [found], has_masks=True, geometry=SCALE, **known)
    area = int(found["mask"].sum())
    record = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    record["classes"]["disc"] |= {"pixels": 7654, "objects": 87}
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8")
    write_report(out.path)
    write_single_file(out.path, "pa_R_v1_i1")
    secret = re.compile(rf"\b(4\.7[13] |47 × 47|{area}|{area * 1e-4:.3g} mm|7654|87 objects|holds 1 objects)")
    for path in (out.path / "report").rglob("*"):
        if path.suffix in (".html", ".js", ".csv"):
            text = re.sub(r'(d="|base64,)[^"]*', "", path.read_text(encoding="utf-8").replace("\N{NARROW NO-BREAK SPACE}", ""))
            assert not secret.search(text), path.name
    assert "the mask was changed" in (out.path / "report" / "worklist.csv").read_text(encoding="utf-8")


def test_every_unit_has_its_words() -> None:
    assert len({with_unit(0.5, unit) for unit in get_args(Unit)}) == len(get_args(Unit))

"""The report as a whole: complete, offline, escaped, updated in place, and never stopped by one bad case."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, NothingUsableError
from pipeline.reports.worklist import write_report
from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import Out, disc_and_cup

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onmouseover=\"alert(2)"


class Page(HTMLParser):
    """Elements, links and text of a page, as an HTML parser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.path = path
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]

    def links(self) -> list[str]:
        return [str(a[k]) for _, a in self.elements for k in ("href", "src") if a.get(k)]


def test_every_case_and_every_file_is_accounted_for(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name in ("pb_L_v1_i1", "pa_R_v1_i2", "pa_L_v1_i1", "pa_U_v0_i9"):
        out.add(name, disc_and_cup())
    out.reject("rejected", "truncated", "the JPEG picture ends before it should")
    out.reject("not_an_image", "not_an_image", "this is not an image")
    out.reject("failed", "unsupported", "the bundle reads fundus", case="pc_R_v1_i1")
    out.reject("duplicate", "duplicate", "same content as pa_R_v1_i2")
    seen: list[tuple[int, int | None]] = []
    index = write_report(out.path, progress=lambda done, total: seen.append((done, total)))
    assert index == out.path / "report" / "index.html"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    page = Page(index)
    order = [a["href"] for a in page.with_class("open")]
    # by patient, then visit; fellow eyes adjacent, right before left
    assert order == [f"cases/{n}.html" for n in ("pa_U_v0_i9", "pa_R_v1_i2", "pa_L_v1_i1", "pb_L_v1_i1")]
    assert "4 cases, 2 patients" in page.text
    counts = dict(re.findall(r'class="tile (\w+)[^"]*">(?:<a[^>]*>)?<strong>(\d+)', index.read_text(encoding="utf-8")))
    assert counts == {"done": "4", "eyes": "0", "rejected": "1", "failed": "1", "duplicate": "1", "not_an_image": "1"}
    for word in ("token4", "truncated", "ends before it should", "pc_R_v1_i1", "same content as", "disc_little", "0123456789ab", "0.912"):
        assert word in page.text
    assert "2026-01-02 03:04 UTC" in page.text


def test_every_link_leads_somewhere_on_this_disk(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name in ("pa_R_v1_i1", "pa_L_v1_i1", "pb_R_v1_i1"):
        out.add(name, disc_and_cup())
    write_report(out.path)
    pages = [out.path / "report" / "index.html", *(out.path / "report" / "cases").glob("*.html")]
    assert len(pages) == 4
    for path in pages:
        for link in Page(path).links():
            if link.startswith(("data:", "#", "url(#")):
                continue
            assert "//" not in link, f"{link} leaves the machine"
            assert (path.parent / link.split("#")[0]).resolve().exists(), f"{path.name}: {link} leads nowhere"
    for asset in (out.path / "report" / "assets").iterdir():
        addresses = set(re.findall(r"https?://[^\s\"')]+", asset.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}, "the name of SVG is the only address, and nothing is fetched from it"


def test_text_from_scans_stays_text(make_out: Callable[..., Out]) -> None:
    out = make_out(LabelMap((LabelClass(1, EVIL, (230, 159, 0)),)))
    out.write_run(bundle_name=EVIL, ocuseg=EVIL, started=EVIL, thresholds={EVIL: 0.5}, metrics={EVIL + " dice": 0.5})
    out.add("pa_R_v1_i1", (disc_and_cup() & 1), warnings=[EVIL], bundle_id=EVIL)
    out.reject("rejected", EVIL, EVIL, case=EVIL)
    out.reject("duplicate", "", EVIL)
    index = write_report(out.path)
    for path in (index, out.path / "report" / "cases" / "pa_R_v1_i1.html"):
        page = Page(path)
        assert EVIL in page.text, "shown as it is"
        scripts = [a for tag, a in page.elements if tag == "script"]
        assert all(a.get("type") == "application/json" or str(a.get("src")).endswith((".js",)) for a in scripts)
        assert not any(name.startswith("on") for _, a in page.elements for name in a), "no event handler came in"
        assert "x" not in page.links()
        assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_a_damaged_case_is_listed_and_the_others_are_shown(make_out: Callable[..., Out], caplog: pytest.LogCaptureFixture) -> None:
    out = make_out()
    good = "pa_R_v1_i1"
    out.add(good, disc_and_cup())
    (out.add("pb_R_v1_json", disc_and_cup()) / "case.json").write_text('{"case": ')
    (out.add("pb_R_v1_gone", disc_and_cup()) / "mask_000.png").unlink()
    half = out.add("pb_R_v1_half", disc_and_cup()) / "mask_000.png"
    half.write_bytes(half.read_bytes()[:60])
    out.add("pb_R_v1_size", disc_and_cup(), geometry={"shape": [160, 120]})
    out.add("pb_R_v1_other", disc_and_cup(), case="pb_R_v1_else")
    out.add("pb_R_v1_path", disc_and_cup(), planes=[{"index": 0, "image": "../../../secret.png", "mask": "mask_000.png"}])
    out.add("pb_R_v1_inf", disc_and_cup(), geometry={"spacing_mm": [1.0, -1.0], "spacing_source": "tag"})
    (out.path / "cases" / "no case name").mkdir()
    (out.path / "cases" / "pb_R_v1_empty").mkdir()
    out.ledger.append(("pz_R_v1_lost", "tokenz", "", "done", "", "", 1))
    out.write_ledger()
    page = Page(write_report(out.path))
    assert [a["href"] for a in page.with_class("open")] == [f"cases/{good}.html"]
    for name in ("json", "gone", "half", "size", "other", "path", "inf", "empty", "lost"):
        assert f"_{name}" in page.text
    assert "no case name" in page.text
    assert str(out.path) not in page.text
    assert len(caplog.records) == 9
    (neighbour,) = (a["href"] for _, a in Page(out.path / "report" / "cases" / f"{good}.html").elements if a.get("id") == "next")
    stand_in = Page(out.path / "report" / "cases" / str(neighbour))
    assert "cannot be shown" in stand_in.text


def test_a_second_report_only_does_what_changed(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name in ("pa_R_v1_i1", "pb_R_v1_i1", "pd_R_v1_i1", "pe_R_v1_i1"):
        out.add(name, disc_and_cup())
    write_report(out.path)
    cases = out.path / "report" / "cases"
    before = {p.name: p.stat().st_mtime_ns for p in cases.iterdir()}
    out.add("pc_R_v1_i1", disc_and_cup())
    index = write_report(out.path)
    after = {p.name: p.stat().st_mtime_ns for p in cases.iterdir()}
    untouched = {n for n in before if after[n] == before[n]}
    assert untouched == {"pa_R_v1_i1.html", "pe_R_v1_i1.html"}, "the new case's neighbours lead to it, the others stay"
    assert len(Page(index).with_class("open")) == 5
    assert not list((out.path / "report").rglob("*.part"))


def test_a_changed_mask_is_seen_and_said(make_out: Callable[..., Out]) -> None:
    from pipeline.scans.raster import write_png

    out = make_out()
    folder = out.add("pa_R_v1_i1", disc_and_cup())
    write_report(out.path)
    write_png(folder / "mask_000.png", np.zeros((120, 160), np.uint8))
    text = Page(write_report(out.path)).text
    assert "disc: the mask holds 0 px where the prediction recorded" in text
    assert "not found: disc, cup" in text


def test_pages_of_cases_that_are_gone_go_too(make_out: Callable[..., Out]) -> None:
    import shutil

    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup())
    gone = out.add("pb_R_v1_i1", np.stack([disc_and_cup()] * 3))
    write_report(out.path)
    assert len(list((out.path / "report").rglob("pb_R*"))) == 5
    shutil.rmtree(gone)
    write_report(out.path)
    assert not list((out.path / "report").rglob("pb_R*"))


def test_a_folder_without_predictions_is_refused_in_one_sentence(make_out: Callable[..., Out], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingUsableError, match=r"no run\.json here"):
        write_report(tmp_path / "empty")
    out = make_out()
    with pytest.raises(NothingUsableError, match="no case and no ledger"):
        write_report(out.path)
    (out.path / "run.json").write_text('{"classes": {"classes": []}}')
    with pytest.raises(NothingUsableError, match=r"run\.json is damaged"):
        write_report(out.path)


def test_a_run_in_which_everything_was_rejected_still_gets_its_list(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.reject("rejected", "empty", "the file is empty")
    text = Page(write_report(out.path)).text
    assert "No case was segmented" in text
    assert "the file is empty" in text


def test_a_missing_ledger_is_said(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup())
    (out.path / "ledger.csv").unlink()
    page = Page(write_report(out.path))
    assert "ledger.csv is missing or damaged" in page.text
    assert len(page.with_class("open")) == 1


@pytest.mark.parametrize("shape", [(90, 140), (1500, 700), (3, 9)])
def test_thumbnails_are_small_whatever_the_scan(make_out: Callable[..., Out], shape: tuple[int, int]) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup(*shape), image=np.full((*shape, 3), 90, np.uint8))
    write_report(out.path)
    path = out.path / "report" / "thumbs" / "pa_R_v1_i1.jpg"
    with Image.open(path) as picture:
        assert picture.width == 240
        assert picture.height <= 258
    assert path.stat().st_size < 25_000


def test_two_reports_on_one_folder_exclude_each_other(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup())
    out.reject("part", "slice", "slice 2 of 5 of a volume", case="pa_R_v1_i1")

    def second(done: int, total: int | None = None, note: str = "") -> None:
        with pytest.raises(ConfigError, match="another process is writing this report"):
            write_report(out.path)

    index = write_report(out.path, progress=second)
    assert "slice 2 of 5 of a volume" in Page(index).text
    assert write_report(out.path) == index

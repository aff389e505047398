"""What a case page shows without its scripts, on paper, and of layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import Out, disc_and_cup
from tests.reports.test_case_page import made
from tests.reports.test_worklist import Page


def test_without_scripts_there_is_a_scale_bar_as_long_as_it_says_and_no_dead_control(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for source, drawn in (("tag", 2), ("estimated", 0)):
        html, page = made_with(out, f"p{source[0]}_R_v1_i1", {"spacing_mm": [0.01, 0.01], "spacing_source": source})
        bars = re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" [^>]*/><text [^>]*>([^<]*)', html)
        assert len(bars) == drawn, "in both panes, or in none"
        for start, end, text in bars:
            assert (float(end) - float(start)) * 10 == pytest.approx(float(text.split()[0])), "µm"
        controls = page.with_class("needs-script")
        assert {"tools", "opacity"} <= {name for a in controls for name in str(a["class"]).split()}
    assert "No scale bar, because the spacing is an estimate" in html


def made_with(out: Out, name: str, geometry: dict[str, Any]) -> tuple[str, Page]:
    out.add(name, disc_and_cup(), geometry=geometry)
    return made(out, name)


def test_printed_pages_name_patient_and_eye(make_out: Callable[..., Out]) -> None:
    out = make_out()
    html, page = made_with(out, "pa_L_v7_i1", {"laterality": "L", "laterality_source": "tag"})
    assert '@bottom-center { content: "Patient pa · OS · visit v7"' in html
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_layers_are_drawn_as_their_surfaces_with_a_profile_of_thickness(make_out: Callable[..., Out]) -> None:
    retina = LabelMap(tuple(LabelClass(i, name, (0, 0, 60 * i)) for i, name in enumerate(("RNFL", "RPE"), 1)), layered=("RNFL", "RPE"))
    out = make_out(retina)
    mask = np.zeros((20, 30), np.int64)
    mask[5:9], mask[9:12] = 1, 2
    folder = out.add("pa_R_v1_i1", mask, modality="oct", geometry={"spacing_mm": [0.004, 0.01], "spacing_source": "tag"})
    lines = [f"0,{column},{5 + (column > 14)},{'' if column == 20 else 9},12" for column in range(30)]
    (folder / "surfaces.csv").write_text("\n".join(["slice,column,top of RNFL,top of RPE,bottom of RPE", *lines]), encoding="utf-8")
    html, _ = made(out, "pa_R_v1_i1")
    drawn = dict(re.findall(r'class="outline surface" id="outline-(\d)"[^>]* d="([^"]*)"', html))
    assert drawn["0"] == "M1 10l28 0 2 2 28 0", "half pixels: depth 5 up to column 14, then 6"
    assert drawn["1"] == "M1 18l38 0M43 18l16 0M1 24l58 0", "interrupted where it was not found; the last layer has a lower one, too"
    (profile,) = re.findall(r'<svg viewBox="0 0 30 100" preserveAspectRatio="none"[^>]*>(.*?)</svg>', html, re.S)
    paths = re.findall(r' d="(M[^"]*)"', profile)
    assert paths[1].startswith("M0 16l1 0"), "four rows of 4 µm"
    assert paths[-1].startswith("M0 28l1 0"), "all layers"
    assert 'id="one-to-one"' in html
    assert "device-lines" not in html
    lines = [f"0,{column},{4.5 if column > 2 else ''},{12.25 if column % 2 else 12}" for column in range(30)]
    (folder / "device_surfaces.csv").write_text("\n".join(["slice,column,ILM,BM", *lines]), encoding="utf-8")
    html, _ = made(out, "pa_R_v1_i1")
    assert set(re.findall(r'class="device-line[^>]* d="([^"]*)"', html)) == {"M7 9l52 0M1 24l58 0"}
    assert "The device’s lines (Heidelberg: ILM, BM)" in html
    (folder / "surfaces.csv").write_text("damaged", encoding="utf-8")
    html, _ = made(out, "pa_R_v1_i1")
    assert "outline surface" not in html
    assert 'class="profile"' not in html

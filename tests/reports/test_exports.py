"""A case or a patient as PDF, and a case as a single file."""

from __future__ import annotations

import builtins
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFile

from pipeline.errors import ConfigError, OcusegError
from pipeline.reports.pdf import printer, write_pdfs
from pipeline.reports.single_file import write_single_file
from pipeline.reports.worklist import write_report
from pipeline.types import LabelClass, LabelMap
from tests.reports.conftest import Out, disc_and_cup, spot
from tests.reports.test_worklist import EVIL

pypdf = pytest.importorskip("pypdf", reason="pypdf reads the PDFs")
# WeasyPrint leaves its colour profile open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

VCDR = {"key": "vcdr", "title": "vertical cup-to-disc ratio", "value": 0.6, "unit": "1", "definition": "of heights", "source": "Jonas"}


@pytest.fixture
def both_eyes(make_out: Callable[..., Out]) -> Out:
    out = make_out()
    for eye in "RL":
        known = {"laterality": eye, "laterality_source": "tag", "spacing_mm": [0.02, 0.02], "spacing_source": "user"}
        flags = [{"code": "mirrored", "text": "The tag and the picture disagree."}] if eye == "L" else []
        out.add(f"pa_{eye}_v1_i1", disc_and_cup(), geometry=known, measures=[VCDR], quality={"grade": "usable"}, flags=flags)
    write_report(out.path)
    return out


def pages_of(path: Path) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(path.read_bytes())).pages]


def test_a_patients_pdf_has_notice_patient_and_eye_on_every_page_and_the_same_bytes_twice(both_eyes: Out) -> None:
    (path,) = write_pdfs(both_eyes.path, "pa")
    first = path.read_bytes()
    pages = pages_of(path)
    assert len(pages) >= 3, "both eyes, then each"
    for number, page in enumerate(pages, start=1):
        assert "Research use, not for diagnosis" in page
        assert re.search(r"Patient pa · (both eyes|OD|OS)", page)
        assert f"Page {number} of {len(pages)}" in page
    assert "both eyes" in pages[0]
    assert [words for page in pages for words in re.findall(r"Patient pa · (\w+) · visit", page)][:2] == ["OD", "OS"]
    text = " ".join(pages)
    assert "The tag and the picture disagree." in text
    assert "0.60" in text
    assert "Of heights" in text, "definitions stand at the end"
    assert str(both_eyes.path) not in text
    assert write_pdfs(both_eyes.path, "pa")[0].read_bytes() == first
    reader = pypdf.PdfReader(io.BytesIO(first))
    archived = reader.xmp_metadata.stream.get_data() if reader.xmp_metadata else b""
    assert re.search(rb"pdfaid:part(=\"|>)3", archived)
    assert re.search(rb"pdfaid:conformance(=\"|>)U", archived)
    fonts = {name: font for page in reader.pages for name, font in page["/Resources"]["/Font"].items()}
    assert fonts
    for font in fonts.values():
        described = font["/DescendantFonts"][0]["/FontDescriptor"]
        assert {"/FontFile2", "/FontFile3"} & set(described), "fonts are inside"


def test_a_truncated_picture_is_still_refused_in_the_process_that_made_a_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)  # its import sets what all of Pillow does
    printer()
    assert "weasyprint" in sys.modules
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_all_are_each_patient_and_each_case_and_what_is_not_there_is_said(both_eyes: Out) -> None:
    out = both_eyes
    assert [path.name for path in write_pdfs(out.path, "all")] == ["pa.pdf", "pa_R_v1_i1.pdf", "pa_L_v1_i1.pdf"]
    with pytest.raises(ConfigError, match=r"called 'pb' here; give a name of the worklist, for example pa_R_v1_i1 or pa, or all"):
        write_pdfs(out.path, "pb")


def test_a_pdf_leaves_pages_as_they_are_and_a_damaged_case_concerns_its_patient_alone(both_eyes: Out) -> None:
    out = both_eyes
    (out.add("pb_R_v1_i1", disc_and_cup()) / "case.json").write_text("{", encoding="utf-8")
    write_report(out.path)
    pages = sorted((out.path / "report" / "cases").glob("*.html"))
    before = [path.stat().st_mtime_ns for path in pages]
    write_pdfs(out.path, "pa")
    assert [path.stat().st_mtime_ns for path in pages] == before, "Previous and Next follow the worklist, in which OS comes first"
    for name in ("pb", "pb_R_v1_i1", "all"):
        with pytest.raises(OcusegError, match=r"pb_R_v1_i1 cannot be shown: case\.json is damaged"):
            write_pdfs(out.path, name)


def test_an_answer_is_no_missing_finding(make_out: Callable[..., Out]) -> None:
    out = make_out(LabelMap(()))
    out.write_run(answers=True)
    for name, answer in (("pa_L_v1_i1", "left"), ("pb_L_v1_i1", None)):
        answers = [{"name": "eye_side", "answer": answer, "probabilities": {"left": 0.9, "right": 0.1}}]
        out.add(name, np.zeros((60, 80), np.uint8), answers=answers, quality={"grade": "good"})
    write_report(out.path)
    text = [pages_of(write_pdfs(out.path, name)[0])[0] for name in ("pa_L_v1_i1", "pb_L_v1_i1")]
    assert ["Not answered" in page for page in text] == [False, True]
    assert "Done" in text[0]


def test_objects_and_volumes_are_printed_and_what_a_tag_says_stays_text(make_out: Callable[..., Out]) -> None:
    out = make_out(LabelMap((LabelClass(1, "exudate", (240, 228, 66)),))).detection()
    found = spot((90, 140), 40, 30, 9) | {"class": "exudate", "score": 0.8}
    out.add_objects("pa_R_v1_i1", (3, 90, 140), [found | {"plane": 1}], has_masks=True, modality="oct", warnings=[EVIL])
    write_report(out.path)
    text = " ".join(pages_of(write_pdfs(out.path, "pa_R_v1_i1")[0]))
    assert "slice 2 of 3" in text
    assert "alert('x')" in text
    assert "exudate" in text


def test_a_missing_weasyprint_is_one_sentence(both_eyes: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    for error, said in ((ImportError(), r"pip install 'ocuseg\[pdf\]'"), (OSError(), "library Pango")):

        def without(name: str, *args: Any, error: Exception = error, **more: Any) -> Any:
            if name.startswith("weasyprint"):
                raise error
            return real(name, *args, **more)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ConfigError, match=said):
            write_pdfs(both_eyes.path, "pa")


def test_a_single_file_refers_to_nothing(make_out: Callable[..., Out]) -> None:
    out = make_out()
    mask = np.stack([disc_and_cup(60, 90)] * 3)
    out.add("pa_R_v1_i1", mask, modality="oct", warnings=["</script>" + EVIL])
    out.add("pa_L_v1_i1", disc_and_cup(60, 90), warnings=[EVIL])
    write_report(out.path)
    with pytest.raises(ConfigError, match=r"no case 'pb' in this report.*pa_L_v1_i1"):
        write_single_file(out.path, "pb")
    with pytest.raises(ConfigError, match="no case"):
        write_single_file(out.path, "../index")
    for name, pictures in (("pa_R_v1_i1", 3), ("pa_L_v1_i1", 1)):
        path = write_single_file(out.path, name)
        text = path.read_text(encoding="utf-8")
        assert path == out.path / "report" / "single" / f"{name}.html"
        links = re.findall(r"""<[^>]*\s(?:href|src)=["']([^"']*)""", text)
        assert all(link.startswith(("data:", "#")) for link in links)
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert text.count("data:image/png;base64,") == 2 + (pictures if pictures > 1 else 0), "both views, and every slice"
        assert ("ocusegSlices({" in text) == (pictures > 1)
        assert "<script>alert" not in text
        assert "script-src 'sha256-" in text

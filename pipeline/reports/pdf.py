"""Reports on paper: a PDF of a case, or of all that a patient has, with the words and numbers of the pages.

WeasyPrint (the extra ``ocuseg[pdf]``) sets them as PDF/A-3u, fonts and pictures inside. The same folder gives the same bytes: the
document's identifier is made of what stands in it, and no date of the making does.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
from PIL import ImageFile

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError, OcusegError
from pipeline.reports import wording
from pipeline.reports.case_page import write_case_page
from pipeline.reports.case_values import page_values
from pipeline.reports.need import chart_order, status
from pipeline.reports.neighbours import Neighbours, neighbours
from pipeline.reports.objects import read_objects
from pipeline.reports.pages import environment
from pipeline.reports.patient_page import Visit, patient_visits
from pipeline.reports.results import ReportCase, RunFacts, read_run
from pipeline.reports.rows import found_nothing
from pipeline.reports.slices import draw_case
from pipeline.reports.visits import read_visits
from pipeline.reports.worklist import FOLDERS, cases_in_order
from pipeline.types import Laterality, ProgressCallback

ALL = "all"
VARIANT = "pdf/a-3u"
"""Text can be searched and copied (u), and nothing outside the file is needed to show it in fifty years."""
_LONGEST_SIDE = 1600
"""Pixels of a picture: 18 a millimetre of paper, where it is half a page wide."""
_PANE_MM, _HIGHEST_MM, _PX_PER_MM = 88.0, 95.0, 96 / 25.4
"""Largest width and height of one picture of a pair on an A4 page; lines are as wide on it as on a screen."""


def write_pdfs(
    out: Path, which: str, *, eyes: Mapping[str, Laterality] | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Write ``out/report/pdf/<case>.pdf`` or ``<patient>.pdf``; returns their paths.

    Parameters
    ----------
    which: a case, a patient, or "all": each patient and each case.
    eyes: as reviewers set them, by name of the case.
    progress: called with the number of documents finished and of all.

    Raises
    ------
    ConfigError: nothing has that name, or WeasyPrint or the library Pango is missing. OcusegError: one of its cases is damaged.
    OSError: it cannot be read or written.
    """
    documents = Documents(out, eyes or {})
    cases = documents.cases
    patients = sorted({case.key.patient for case in cases})
    wanted = [*patients, *(str(case.key) for case in cases)] if which == ALL else [which]
    for lost in documents.unshown:
        if which in (ALL, lost.name, lost.name.partition("_")[0]):
            raise OcusegError(f"case {lost.name} cannot be shown: {lost.reason}")
    folder = out / "report" / "pdf"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for at, name in enumerate(wanted):
        own = [case for case in cases if name in (case.key.patient, str(case.key))]
        if not own:
            example = f", for example {cases[0].key} or {patients[0]}" if cases else ""
            raise ConfigError(f"no case and no patient is called {name!r} here; give a name of the worklist{example}, or {ALL}")
        with atomic_path(folder / f"{name}.pdf") as staged:
            staged.write_bytes(documents.of(own, out / "report", whole=name in patients))
        written.append(folder / f"{name}.pdf")
        if progress is not None:
            progress(at + 1, len(wanted))
    return written


class Documents:
    """A folder of predictions, read once for any number of documents; ``eyes`` as reviewers set them, by name of the case.

    Raises
    ------
    ConfigError: WeasyPrint or the library Pango is missing. OcusegError: the folder holds no predictions.
    """

    def __init__(self, out: Path, eyes: Mapping[str, Laterality]) -> None:
        self._print = printer()
        self._run = read_run(out)
        listed, _, self.unshown = cases_in_order(out, eyes)
        self.cases = sorted(listed, key=chart_order)
        self._visits = read_visits(out)
        self._near = {str(case.key): one for case, one in zip(listed, neighbours(listed, self._visits), strict=True)}

    def of(self, cases: Sequence[ReportCase], report: Path, *, whole: bool, review: str = "") -> bytes:
        """The PDF of a case, or of all that a patient has (``whole``); ``report``: where their pages are, or are written."""
        visits = patient_visits(cases, self._visits) if whole else []
        return self._print(_html(report, self._run, cases, self._near, visits, review))

    def of_case(self, case: ReportCase, review: str) -> bytes:
        """The PDF of a case as it is given, whatever its folder holds; nothing is written beside the predictions. ``review``: what
        reviewers said ("that anna accepted"), or "" where nobody did."""
        with TemporaryDirectory() as report:
            for name in FOLDERS:
                (Path(report) / name).mkdir()
            return self.of([case], Path(report), whole=False, review=review)


def printer() -> Callable[[str], bytes]:
    """HTML -> PDF, with nothing fetched from anywhere.

    Raises
    ------
    ConfigError: WeasyPrint or the library Pango is missing.
    """
    # WeasyPrint has Pillow take truncated pictures for whole ones from its import on, in the whole process: scans that are read after a
    # PDF was made would be half grey, and nobody would know.
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except ImportError:
        raise ConfigError("a PDF needs WeasyPrint: pip install 'ocuseg[pdf]'") from None
    except OSError:
        raise ConfigError(
            "a PDF needs the library Pango, which WeasyPrint does not find; on Debian: apt install libpango-1.0-0 libpangoft2-1.0-0"
        ) from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated

    def print_page(html: str) -> bytes:
        fetcher = URLFetcher(allowed_protocols={"data"}, fail_on_errors=True)
        identifier = hashlib.sha256(html.encode()).hexdigest()[:32].encode()
        made: bytes = HTML(string=html, url_fetcher=fetcher).write_pdf(pdf_variant=VARIANT, pdf_identifier=identifier)
        return made

    return print_page


def _html(
    report: Path, run: RunFacts, cases: Sequence[ReportCase], near: Mapping[str, Neighbours], visits: Sequence[Visit], review: str
) -> str:
    """One document: of a patient first both eyes side by side at each visit, then a part for each case."""
    parts = [_case_values(report, run, case, near[str(case.key)]) for case in cases]
    views = {name: _data_uri((report / "views" / f"{name}.jpg").read_bytes()) for name in _pictures(visits)}
    definitions = {one.record.key: one.record for part in parts for _, own in part["measures"] for one in own}
    values = {"patient": cases[0].key.patient, "run": run, "parts": parts, "visits": visits, "views": views, "review": review}
    return environment().get_template("pdf.html").render(values | {"definitions": list(definitions.values())})


def _pictures(visits: Iterable[Visit]) -> Iterator[str]:
    for visit in visits:
        for kind in visit.kinds:
            yield from (one.name for eye in (kind.right, kind.left, kind.unknown) for one in eye)


def _case_values(report: Path, run: RunFacts, case: ReportCase, near: Neighbours) -> dict[str, Any]:
    """What the page shows of a case, its picture and what is drawn on it."""
    facts = write_case_page(report, case, run, near)
    run = run.of(case)
    objects = read_objects(case, run) if run.objects else None
    drawn = draw_case(report / "data", case, run, objects)
    values = page_values(case, run, facts, drawn, objects, near)
    rows, columns = case.geometry.plane
    styles = wording.class_styles(run.label_map)
    boxes = [] if objects is None else [one for one in objects.in_slice(drawn.start) if objects.above(one)]
    high = min(_PANE_MM * rows / columns, _HIGHEST_MM)
    return values | {
        "picture": _data_uri(_jpeg(case.image(case.planes[drawn.start]))),
        "status": status(case, nothing=found_nothing(case, facts), useless=bool(run.useless)),
        "pixel": columns / (high * columns / rows * _PX_PER_MM),
        "high": high,
        "wide": high * columns / rows,
        "boxes": [(styles[one.label], one.box, one.score) for one in boxes],
        "outlines": [(styles[one.label], drawn.first.outlines[one.id]) for one in boxes if one.id in drawn.first.outlines],
    }


def _jpeg(image: npt.NDArray[Any]) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image).convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"

"""workflows/published_scores.py: the tables in docs/ are what it says, and it tells regions apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows import published_scores
from workflows.published_scores import BEGIN, END, Triple, consistent, ours, pages, region, renew

RENEW = "python workflows/published_scores.py --write"


def test_the_tables_in_the_docs_are_those_of_the_shipped_models() -> None:
    for page, text in pages().items():
        shown = page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
        assert shown == f"\n{text}\n", f"{page.name} is out of date: {RENEW}"


def test_our_own_scores_can_only_come_from_where_evaluation_counts() -> None:
    assert {region(consistent(triple)) for triple in ours()} <= {"field of view"}


@pytest.mark.parametrize(
    ("positives", "negatives", "found"), [(577649, 3960494, "fov_som"), (577945, 6021255, "all_som")], ids=["inside", "everywhere"]
)
def test_pooled_scores_come_from_where_their_pixels_lie(positives: int, negatives: int, found: str) -> None:
    """Counts of DRIVE's 20 test photographs, first observer; three of four vessel pixels found, one of fifty others wrong."""
    right, wrong = round(0.75 * positives), round(0.02 * negatives)
    accuracy = (right + negatives - wrong) / (positives + negatives)
    possible = consistent(Triple("drawn", "not said", round(accuracy, 4), 0.75, 0.98))
    assert found in possible
    assert {counting.partition("_")[0] for counting in possible} == {found.partition("_")[0]}


def test_only_what_stands_between_the_marks_is_renewed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    renew(page, "new")
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_every_score_on_published_data_has_its_line() -> None:
    """A model of vessels or of the disc that is measured on other data needs a line in BESIDE; for boxes, OCT and whole pictures nothing is
    published."""
    table = "\n".join(published_scores.comparison())
    for name in set(published_scores.names()) - {"lesions", "oct_layers", "eye_side", "picture_kind", "quality"}:
        for on, *_ in published_scores.read_model(name).scores:
            assert f"| {on} | `{name}` " in table

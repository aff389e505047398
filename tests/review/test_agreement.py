"""Two readers: kappa by hand, Dice of what each left, and who waits for the adjudicator."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import NothingUsableError
from pipeline.metrics.classification import kappa, quadratic_kappa
from pipeline.review.agreement import find_agreement
from pipeline.scans.raster import png_of
from tests.reports.conftest import LESIONS, Out, disc_and_cup, make_out
from tests.review.reading import edit, read

__all__ = ["make_out"]


def test_kappa_of_a_table_by_hand() -> None:
    """Cohen 1960: agreement 0.7 where chance gives 0.5 is 0.4."""
    table = np.array([[[20.0, 5.0], [10.0, 15.0]]])
    assert kappa(table) == pytest.approx([0.4])
    assert quadratic_kappa(table) == pytest.approx([0.4]), "of two classes both are one"
    assert kappa(np.array([[[3.0, 0, 0], [0, 2, 0], [0, 0, 4]]])) == pytest.approx([1.0])
    assert np.isnan(kappa(np.array([[[5.0, 0], [0, 0]]]))[0]), "one verdict throughout says nothing"


def test_two_readers_of_five_cases(make_out: Callable[..., Out]) -> None:
    out = make_out()
    names = [f"p{number}_{eye}_0_i" for number in range(3) for eye in "RL"]
    for name in names:
        out.add(name, disc_and_cup())
    shifted = np.roll(disc_and_cup(), 8, axis=1)
    for name in names[:3]:
        read(out.path, name, "accepted")
        read(out.path, name, "accepted", by="Dr. B", role="second")
    edit(out.path, names[3], [shifted])
    read(out.path, names[3], "accepted", by="Dr. B", role="second")
    read(out.path, names[4], "rejected", reasons=("quality",))
    read(out.path, names[4], "rejected", by="Dr. B", role="second")
    read(out.path, names[5], "accepted")
    found = find_agreement(out.path)
    assert (found.both, found.one, found.waiting) == (5, 1, (names[3],))
    assert found.table == {("accepted", "accepted"): 3, ("edited", "accepted"): 1, ("rejected", "rejected"): 1}
    assert found.kappa.value == pytest.approx((0.8 - 0.52) / 0.48), "by chance 0.6 x 0.8 accepted and 0.2 x 0.2 rejected by both"
    disc = disc_and_cup() & 1
    other = shifted & 1
    one = 2 * (disc & other).sum() / (disc.sum() + other.sum())
    assert found.dice["disc"].value == pytest.approx((3 + one) / 4)
    assert found.dice["disc"].cases == 4
    read(out.path, names[3], "accepted", by="Prof. C", role="adjudicator")
    result = CliRunner().invoke(app, ["review", "agreement", str(out.path), "--json"])
    told = json.loads(result.stdout)
    assert (told["waiting"], told["adjudicated"], told["read_by_both"]) == ([], 1, 5)


def test_verdicts_on_different_answers_are_not_compared(make_out: Callable[..., Out]) -> None:
    out = make_out()
    names = [f"p{number}_R_0_i" for number in range(3)]
    for name in names:
        out.add(name, disc_and_cup())
        read(out.path, name, "accepted")
    masks = [out.path / "cases" / name / "mask_000.png" for name in names]
    masks[0].write_bytes(png_of(np.zeros_like(disc_and_cup())))
    for name in names:
        read(out.path, name, "accepted", by="Dr. B", role="second")
    masks[1].write_bytes(png_of(np.zeros_like(disc_and_cup())))
    found = find_agreement(out.path)
    assert (found.both, found.dice["disc"].cases) == (2, 1)
    assert found.left_out[0] == (names[0], "it was predicted anew between the two verdicts")
    assert found.left_out[1][0] == names[1], "there is no mask any more that the two accepted"


def test_boxes_are_compared_by_what_they_cover(make_out: Callable[..., Out]) -> None:
    out = make_out(LESIONS).detection()
    boxes = [{"class": "exudate", "score": 0.9, "box": [10, 10, 30, 30]}]
    out.add_objects("p1_R_0_i", (60, 80), boxes)
    read(out.path, "p1_R_0_i", "accepted")
    edit(out.path, "p1_R_0_i", [], objects=[{"id": 1, "class": "exudate", "box": (20, 10, 40, 30)}], by="Dr. B", role="second")
    found = find_agreement(out.path)
    assert found.dice["exudate"].value == pytest.approx(0.5)
    assert "haemorrhage" not in found.dice, "what neither marked says nothing"


def test_one_reader_alone_is_told(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("p1_R_0_i", disc_and_cup())
    read(out.path, "p1_R_0_i", "accepted")
    with pytest.raises(NothingUsableError, match="nothing can agree"):
        find_agreement(out.path)

"""Who is looked at first: the least sure, the most disputed, or nobody in particular."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.doubt.evidence import Gathering
from pipeline.doubt.model import DoubtModel
from pipeline.errors import ConfigError
from pipeline.review.order import in_order
from pipeline.types import Prediction
from tests.reports.conftest import DISC_CUP, Out, disc_and_cup, make_out

__all__ = ["make_out"]
NAMES = [f"p{number}_R_0_i{number}" for number in range(4)]


def test_the_most_in_doubt_or_disputed_come_first_and_damaged_cases_last(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name, score, apart in zip(NAMES, (0.2, 0.7, 0.7, 0.1), (0.3, None, 0.05, 0.4), strict=True):
        told = {"score": score} | ({} if apart is None else {"disagreement": apart})
        out.add(name, disc_and_cup(), doubt=told)
    assert in_order(out.path, NAMES, "doubt") == [NAMES[1], NAMES[2], NAMES[0], NAMES[3]]
    assert in_order(out.path, NAMES[::-1], "doubt")[:2] == [NAMES[2], NAMES[1]], "equals stay as they are given"
    assert in_order(out.path, NAMES, "disagreement") == [NAMES[3], NAMES[0], NAMES[2], NAMES[1]]
    (out.path / "cases" / NAMES[1] / "case.json").write_text("{")
    assert in_order(out.path, NAMES, "doubt")[-1] == NAMES[1]


def test_a_random_order_is_that_of_its_seed_and_newcomers_move_nobody(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name in NAMES:
        out.add(name, disc_and_cup())
    orders = [in_order(out.path, NAMES, "random", seed) for seed in range(6)]
    assert orders[0] == in_order(out.path, NAMES, "random", 0)
    assert all(sorted(order) == NAMES for order in orders)
    assert len(set(map(tuple, orders))) > 1
    more = in_order(out.path, [*NAMES, "p9_L_0_new"], "random", 3)
    assert [name for name in more if name in NAMES] == orders[3]
    with pytest.raises(ConfigError, match="looked at once"):
        in_order(out.path, NAMES, "disagreement")


def test_typical_cases_come_before_the_surest_and_the_least_sure(make_out: Callable[..., Out]) -> None:
    out = make_out()
    for name, told in zip(NAMES, ({"score": 0.9}, {"score": 0.2}, {}, {"score": 0.3}), strict=True):
        out.add(name, disc_and_cup(), doubt=told)
    assert in_order(out.path, NAMES, "typical") == [NAMES[3], NAMES[0], NAMES[1], NAMES[2]]


def test_flips_that_differ_are_a_disagreement() -> None:
    layers = DISC_CUP.layers(disc_and_cup(12, 16).astype(np.int64))
    chances = np.where(layers, np.float32(0.9), np.float32(0.1))

    def seen(deviation: float | None) -> float | None:
        spread = None if deviation is None else np.full((12, 16), deviation, np.float32)
        gathering = Gathering(DISC_CUP, DoubtModel())
        gathering.add(Prediction(probabilities=chances, uncertainty=spread), layers)
        return gathering.evidence(flat=True).disagreement

    marked = int(layers.any(axis=0).sum())
    assert seen(None) is None
    assert seen(0.0) == 0
    assert seen(0.02) == pytest.approx(0.02 * 12 * 16 / marked, rel=1e-5)
    assert seen(1.0) == 1

"""Patient bootstrap: repeatable, exact where it can be worked out, covering what it says it covers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.interval import mean_of_images, paired_patient_bootstrap, patient_bootstrap, pooled_dice, pooled_iou
from pipeline.metrics.overlap import Confusion


def test_constant_values_have_no_width():
    assert patient_bootstrap({"a": [0.8, 0.8], "b": [0.8], "c": [0.8]}) == pytest.approx((0.8, 0.8))


def test_two_patients_say_nothing_about_others():
    assert patient_bootstrap({"a": [0.1, 0.9, 0.5]}) is None
    assert patient_bootstrap({"a": [0.2, 0.4], "b": [0.9]}) is None
    assert patient_bootstrap({"a": [0.1, 0.9], "b": [0.4], "c": []}) is None


def test_three_patients_by_hand():
    # Draws of three: (a, a, a) and (b, b, b) with chance 1/27 each, so the outer percentiles are the outermost patients' own means.
    assert patient_bootstrap({"a": [0.2, 0.4], "b": [0.9], "c": [0.5]}) == pytest.approx((0.3, 0.9))


def test_patients_are_drawn_whole():
    """Ten images of one patient are worth no more than one: the interval is as wide as that of the patients' means."""
    generator = np.random.default_rng(1)
    means = generator.normal(0.8, 0.1, size=30)
    many = patient_bootstrap({f"p{i}": np.full(10, m) for i, m in enumerate(means)})
    once = patient_bootstrap({f"p{i}": [m] for i, m in enumerate(means)})
    images = patient_bootstrap({f"i{i}": [m] for i, m in enumerate(np.repeat(means, 10))})
    assert many == pytest.approx(once)
    assert many is not None
    assert images is not None
    assert many[1] - many[0] > 2.5 * (images[1] - images[0])


def test_it_agrees_with_a_plain_loop():
    generator = np.random.default_rng(2)
    values = {f"p{i}": generator.random(int(generator.integers(1, 5))) for i in range(12)}
    patients = list(values)
    loop = []
    for _ in range(4000):
        drawn = generator.choice(patients, size=len(patients))
        loop.append(np.concatenate([values[p] for p in drawn]).mean())
    found = patient_bootstrap(values, n=4000)
    assert found == pytest.approx(np.percentile(loop, [2.5, 97.5]), abs=0.01)


def test_pooled_scores_pool():
    sums = np.array([[4.0, 1.0, 3.0, 9.0], [0.0, 5.0, 2.0, 9.0]])
    counts = [Confusion(4, 1, 3, 9), Confusion(0, 5, 2, 9)]
    assert pooled_dice(sums, np.ones(2)) == pytest.approx([c.dice for c in counts])
    assert pooled_iou(sums, np.ones(2)) == pytest.approx([c.iou for c in counts])
    low, high = patient_bootstrap({"a": [[4, 1, 3, 9]], "b": [[8, 2, 6, 0]], "c": [[4, 1, 3, 1]]}, pooled_dice) or (0, 0)
    assert (low, high) == pytest.approx((8 / 12, 8 / 12))


@pytest.mark.parametrize("pooled", [pooled_dice, pooled_iou])
def test_draws_without_the_structure_are_left_out(pooled):
    assert np.isnan(pooled(np.array([[0.0, 0.0, 0.0, 9.0], [0.0, 3.0, 0.0, 9.0]]), np.ones(2))).all()
    rows = {"a": [[4, 0, 0, 9]], "b": [[0, 0, 0, 9]], "c": [[0, 0, 0, 9]]}  # a is not in 8 of 27 draws
    assert patient_bootstrap(rows, pooled) == pytest.approx((1.0, 1.0))
    assert patient_bootstrap({name: [[0, 1, 0, 9]] for name in "abc"}, pooled) is None


def test_same_seed_same_interval_whatever_the_order():
    values = {"b": [0.1, 0.5], "a": [0.9], "c": [0.4]}
    assert patient_bootstrap(values, seed=3) == patient_bootstrap(dict(sorted(values.items())), seed=3)
    wide, narrow = patient_bootstrap(values), patient_bootstrap(values, level=0.5)
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_paired_draws_see_a_small_but_steady_gain():
    generator = np.random.default_rng(4)
    hard = generator.uniform(0.4, 0.9, size=25)
    first = {f"p{i}": [h + 0.02] for i, h in enumerate(hard)}
    second = {f"p{i}": [h] for i, h in enumerate(hard)}
    low, high = paired_patient_bootstrap(first, second) or (0, 0)
    assert (low, high) == pytest.approx((0.02, 0.02))
    unpaired = patient_bootstrap(first)
    assert unpaired is not None
    assert unpaired[1] - unpaired[0] > 0.05


def test_paired_needs_the_same_images():
    with pytest.raises(ValueError, match="same patients"):
        paired_patient_bootstrap({"a": [0.1], "b": [0.2]}, {"a": [0.1], "c": [0.2]})
    with pytest.raises(ValueError, match="same patients"):
        paired_patient_bootstrap({"a": [0.1], "b": [0.2]}, {"a": [0.1, 0.3], "b": [0.2]})


def test_undefined_values_do_not_slip_in():
    with pytest.raises(ValueError, match="finite"):
        patient_bootstrap({"a": [0.1], "b": [np.nan]})
    with pytest.raises(ValueError, match="level"):
        patient_bootstrap({"a": [0.1], "b": [0.2]}, mean_of_images, level=1.5)


@pytest.mark.slow
def test_coverage_is_close_to_what_it_says():
    """With 40 patients of two alike eyes, the 95 % interval holds the true mean in 90-99 % of 300 repetitions."""
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        centre = generator.normal(0.8, 0.05, size=40)
        low, high = patient_bootstrap({f"p{i}": c + generator.normal(0, 0.01, size=2) for i, c in enumerate(centre)}, n=500) or (1, 0)
        hits += low <= 0.8 <= high
    assert 0.90 <= hits / 300 <= 0.99

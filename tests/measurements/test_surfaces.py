"""Surfaces are ordered whatever the probabilities, exact on masks, sub-pixel on soft ones, and say where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cards.card import load_card
from pipeline.measurements.case import MeasuredCase, Value
from pipeline.measurements.surfaces import Surfaces, find_surfaces, jumps, surface_errors, thickness_between
from pipeline.measurements.thickness import THICKNESS, measure_thickness
from pipeline.phantoms.oct import SURFACES, draw_oct
from pipeline.types import Geometry, LabelClass, LabelMap
from pipeline.types.scan import Spacing

# Inner, outer and fluid; fluid is no layer.
TWO = LabelMap(tuple(LabelClass(i, name, (i, i, i)) for i, name in enumerate(("inner", "fluid", "outer"), 1)), layered=("inner", "outer"))
INNER, FLUID, OUTER = 1, 2, 3


def column(*values: int) -> npt.NDArray[np.bool_]:
    """Boolean layers (K, H, 1) of one column."""
    return TWO.layers(np.array(values)[:, None])


def depths(probabilities: npt.NDArray[np.generic]) -> list[float]:
    """Of the one column of a picture."""
    return [float(v) for v in find_surfaces(np.asarray(probabilities), TWO).depth[:, 0, 0]]


def test_the_edges_of_a_clean_column() -> None:
    found = find_surfaces(column(0, 0, INNER, INNER, INNER, OUTER, 0), TWO)
    assert found.names == ("top of inner", "top of outer", "bottom of outer")
    assert found.depth.dtype == np.float32
    assert found.depth[:, 0, 0].tolist() == [2, 5, 6]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # A layer that is missing in a column (the nerve fibres in the fovea) has no thickness there.
        ((0, 0, OUTER, OUTER, 0), [2, 2, 4]),
        ((0, 0, INNER, INNER, 0), [2, 4, 4]),
        # Fluid is on neither side: the top of what lies below it is below it.
        ((0, INNER, INNER, FLUID, FLUID, OUTER, 0), [1, 5, 6]),
        ((0, INNER, FLUID, INNER, INNER, OUTER, 0), [1, 5, 6]),
        ((0, INNER, OUTER, FLUID, FLUID, OUTER, 0), [1, 2, 6]),
        # An island or a hole moves nothing.
        ((0, OUTER, 0, INNER, INNER, INNER, OUTER, OUTER, OUTER, 0), [3, 6, 9]),
        ((0, 0, INNER, INNER, 0, INNER, OUTER, OUTER, INNER, OUTER, OUTER, 0), [2, 6, 11]),
    ],
)
def test_columns_that_are_not_clean(values: tuple[int, ...], expected: list[float]) -> None:
    found = find_surfaces(column(*values), TWO, window=1).depth[:, 0, 0].tolist()
    assert [round(v) for v in found] == expected


def test_what_lies_outside_the_picture_is_nowhere() -> None:
    def nowhere(*values: int) -> list[bool]:
        return [bool(lost) for lost in np.isnan(find_surfaces(column(*values), TWO).depth[:, 0, 0])]

    assert nowhere(0, 0, 0, 0) == [True, True, True]
    assert nowhere(INNER, INNER, OUTER, 0) == [True, False, False]
    assert nowhere(0, INNER, OUTER, OUTER) == [False, False, True]
    assert nowhere(0, INNER, INNER, INNER) == [False, True, True]
    weak = np.where(column(0, INNER, OUTER, 0), np.float32(0.4), np.float32(0))  # nothing is likelier than background
    assert np.isnan(find_surfaces(weak, TWO).depth).all()


def test_a_surface_beside_unknown_pixels_is_unknown() -> None:
    layers = column(0, INNER, INNER, OUTER, OUTER, 0)
    for hidden, lost in ((0, 0), (1, 0), (2, 1), (3, 1), (5, 2)):
        known = np.ones((6, 1), dtype=bool)
        known[hidden] = False
        depth = find_surfaces(layers, TWO, known).depth[:, 0, 0]
        assert np.isnan(depth).tolist() == [k == lost for k in range(3)], hidden
        assert depth[~np.isnan(depth)].tolist() == [v for k, v in enumerate([1, 3, 5]) if k != lost], hidden


def test_what_unknown_pixels_hold_moves_nothing() -> None:
    layers = column(OUTER, OUTER, OUTER, 0, 0, INNER, INNER, OUTER, OUTER, 0)
    known = np.arange(10)[:, None] > 2
    assert find_surfaces(layers, TWO, known, window=1).depth[:, 0, 0].tolist() == [5, 7, 9]
    assert np.isnan(find_surfaces(layers, TWO, window=1).depth[0, 0, 0])


@pytest.mark.parametrize("edge", [9.5, 9.9, 10.0, 10.3, 10.49])
def test_between_pixels_the_surface_follows_the_probabilities(edge: float) -> None:
    """A transition that is spread over three pixels, as a network's is, has its middle at ``edge``."""
    below = np.clip((np.arange(20) + 0.5 - edge) / 3 + 0.5, 0, 1)
    inner, outer = 1 - below, below
    inner[:3] = outer[17:] = 0
    soft = np.stack([inner, np.zeros(20), outer])[:, :, None].astype(np.float32)
    top, middle, bottom = depths(soft)
    assert (top, bottom) == (3, 17)
    assert middle == pytest.approx(edge, abs=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_surfaces_never_cross(seed: int, window: int, with_holes: bool) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet([0.3] * 7, size=(2, 14, 5)).transpose(3, 0, 1, 2)[1:].astype(np.float32)
    names = list("abcdef")
    fluids = int(rng.integers(0, 3))
    order = tuple(rng.permutation(names[fluids:]).tolist())
    label_map = LabelMap(tuple(LabelClass(i, name, (i, i, i)) for i, name in enumerate(names, 1)), layered=order)
    known = rng.random((2, 14, 5)) > 0.2 if with_holes else None
    depth = find_surfaces(chances, label_map, known, window).depth
    assert depth.shape == (len(order) + 1, 2, 5)
    for pair in range(len(order)):
        step = depth[pair + 1 :] - depth[pair]
        assert (step[~np.isnan(step)] >= 0).all()


def test_each_cut_is_the_best_of_all_cuts() -> None:
    """Against the definition, tried cut by cut."""
    rng = np.random.default_rng(3)
    truth = TWO.layers(np.array([0] * 5 + [INNER] * 6 + [FLUID] * 3 + [OUTER] * 5 + [0] * 4)[:, None].repeat(40, axis=1))
    chances = 0.7 * truth + 0.3 * rng.dirichlet([0.5] * 4, size=(23, 40)).transpose(2, 0, 1)[1:]
    found = find_surfaces(chances.astype(np.float32), TWO).depth[:, 0]
    for at in range(40):
        inner, fluid, outer = chances[:, :, at]
        counted = fluid <= 0.5
        empty = (1 - inner - fluid - outer) * counted
        mass = np.cumsum((inner + outer) * counted)
        middle = int(np.searchsorted(mass, mass[-1] / 2))
        over, under = np.where(np.arange(23) < middle, empty, 0), np.where(np.arange(23) < middle, 0, empty)
        sides = ((over, inner + outer + under), (over + inner, outer + under), (over + inner + outer, under))
        for surface, (above, below) in enumerate(sides):
            cost = [float((below * counted)[:cut].sum() + (above * counted)[cut:].sum()) for cut in range(24)]
            lowest = max(cut for cut in range(24) if cost[cut] <= min(cost) + 1e-6)  # all cuts through the pocket are equally good
            assert found[surface, at] == pytest.approx(lowest, abs=1.5)


def test_a_phantoms_mask_gives_its_surfaces_to_half_a_pixel() -> None:
    card = load_card("phantom_oct_layers")
    eye = draw_oct((3, 1), "L", slices=3, rows=160, columns=96, severity=0.0)
    mask = np.zeros(eye.labels.shape, np.int64)
    for value, name in card.labels[0].values.items():  # type: ignore[union-attr]
        mask[eye.labels == value] = ("background", *card.label_map.names).index(name)
    found = find_surfaces(card.label_map.layers(mask), card.label_map)
    places = [SURFACES.index(name) for name in ("ILM", "RNFL-GCL", "IPL-INL", "INL-OPL", "OPL-ONL", "OS outer", "BM", "choroid-sclera")]
    assert np.abs(found.depth - eye.layers[places]).max() <= 0.5 + 1e-3
    true = Surfaces(found.names, eye.layers[places])
    pixel_um = 1000 * eye.spacing_mm[1]
    for error in surface_errors(found, true, eye.spacing_mm):
        assert error.unit == "um"
        assert error.columns == 3 * 96
        assert error.missing == 0
        assert error.mean_abs is not None
        assert 0.15 * pixel_um < error.mean_abs < 0.35 * pixel_um  # a quarter of a pixel is what rounding costs on average


def surfaces(*depth: list[list[float]]) -> Surfaces:
    return Surfaces(tuple(f"s{k}" for k in range(len(depth))), np.array(depth, np.float32))


def test_errors_are_signed_measured_in_um_and_count_what_is_missing() -> None:
    nan = float("nan")
    true, found = surfaces([[10, 10, 10, 10, nan]], [[nan] * 5]), surfaces([[11, 9, 13, nan, 7]], [[1, 2, 3, 4, 5]])
    first, second = surface_errors(found, true, (0.1, 0.004, 0.01))
    assert (first.name, first.unit, first.columns, first.missing) == ("s0", "um", 3, 1)
    assert first.mean_abs == pytest.approx(4 * 5 / 3)
    assert first.bias == pytest.approx(4 * 1.0)
    assert first.p95 == pytest.approx(4 * np.quantile([1, 1, 3], 0.95))
    assert (second.mean_abs, second.bias, second.p95, second.columns, second.missing) == (None, None, None, 0, 0)
    assert surface_errors(found, true, None)[0].mean_abs == pytest.approx(5 / 3)
    assert surface_errors(found, true, None)[0].unit == "px"
    with pytest.raises(ValueError, match="cannot be compared"):
        surface_errors(found, surfaces([[1, 2, 3, 4, 5]]), None)


def test_jumps_leave_the_eyes_motion_out() -> None:
    flat = np.zeros((2, 4, 30))
    flat[1] = 20
    moved = Surfaces(("a", "b"), (flat + np.array([0, 5, -3, 8])[None, :, None]).astype(np.float32))
    assert jumps(moved, None) == [0, 0]
    torn = moved.depth.copy()
    torn[1, 2, :10] += 6  # a third of one surface stands out in one slice: two of its three steps
    assert jumps(Surfaces(("a", "b"), torn), (0.2, 0.005, 0.01)) == pytest.approx([0, 1000 * 0.005 * 6 * 2 / 3 / 3])
    where = np.ones(torn.shape, dtype=bool)
    where[:, :, :10] = False
    assert jumps(Surfaces(("a", "b"), torn), None, where) == [0, 0]
    assert jumps(surfaces([[1, 2, 3]]), None) == [None]


def test_thickness_is_measured_where_both_surfaces_are() -> None:
    nan = float("nan")
    found = surfaces([[10, 10, nan, 10]], [[14, 16, 3, nan]], [[nan] * 4])
    retina = LabelMap(tuple(LabelClass(k, name, (k, 0, 0)) for k, name in enumerate(("inner", "outer"), 1)), layered=("inner", "outer"))

    def measured(place: int, spacing: Spacing | None) -> Value:
        geometry = Geometry((1, 20, 4), spacing, "unknown" if spacing is None else "tag")
        case = MeasuredCase(geometry, retina, lambda place: np.zeros(geometry.shape, dtype=bool), surfaces=found)
        return measure_thickness(case, (place,))[THICKNESS.key]

    inner, outer = measured(0, (None, 0.004, 0.01)), measured(1, (None, 0.004, 0.01))
    assert (inner.value, inner.unit) == (pytest.approx(20.0), "um")
    assert (outer.value, outer.undefined is None) == (None, False)
    assert measured(0, None) == Value(pytest.approx(5.0), "px")
    assert measured(0, (None, 0.004, None)) == inner, "a height needs no other axis"
    assert measured(0, (0.2, None, 0.01)).unit == "px"


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="no layers"):
        find_surfaces(np.zeros((1, 4, 5)), LabelMap((LabelClass(1, "vessel", (1, 2, 3)),)))
    with pytest.raises(ValueError, match="3 classes"):
        find_surfaces(np.zeros((2, 4, 5)), TWO)
    with pytest.raises(ValueError, match="known"):
        find_surfaces(np.zeros((3, 4, 5)), TWO, np.ones((4, 6), dtype=bool))


def test_a_blurred_border_may_lie_higher_or_lower_and_a_sharp_one_may_not() -> None:
    """The probability of the layer rises along 8 rows: where what is above counts three times, the surface moves, by the same both ways."""
    layers = LabelMap((LabelClass(1, "layer", (1, 0, 0)),), layered=("layer",))
    chance = np.zeros((1, 40, 3), np.float32)
    chance[0, 10:30] = 1
    sharp = find_surfaces(chance, layers)
    assert sharp.up is not None
    assert sharp.down is not None
    assert not sharp.up.any()
    assert not sharp.down.any()
    chance[0, 6:14] = ((np.arange(8) + 0.5) / 8)[:, None]
    blurred = find_surfaces(chance, layers)
    assert blurred.up is not None
    assert blurred.down is not None
    assert blurred.depth[0, 0] == pytest.approx([10] * 3)
    assert (blurred.up[0, 0].tolist(), blurred.down[0, 0].tolist()) == ([2] * 3, [2] * 3), "from 0.5 to 0.25 and to 0.75"
    assert [thickness_between(blurred, 0, 1, lean)[0, 0] for lean in (-1, 0, 1)] == [pytest.approx(own) for own in (18, 20, 22)]

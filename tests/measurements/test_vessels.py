"""Numbers of vessels are those of the drawn line, at any rotation, and the same for a mirrored eye."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measurements import vessels
from pipeline.measurements.branching import branch_angles
from pipeline.measurements.by_role import measure_case
from pipeline.measurements.case import MeasuredCase
from pipeline.measurements.fractal import fractal_dimension
from pipeline.measurements.tortuosity import tortuosity
from pipeline.measurements.vessel_equivalents import ARTERY_FACTOR, calibres_in, equivalent
from pipeline.measurements.vessel_lines import smooth
from pipeline.measurements.vessel_zones import find_rings
from pipeline.measurements.vessels import Network
from pipeline.types import Geometry, LabelClass, LabelMap
from pipeline.types.assessment import MeasureRecord
from tests.measurements.drawn import ray, tubes, turned

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ALONG = np.linspace(0, 1, 400)
STRAIGHT = np.stack([0 * ALONG, 150 * ALONG], axis=1)
ARC = 60 * np.stack([np.sin(0.9 * np.pi * ALONG), np.cos(0.9 * np.pi * ALONG)], axis=1)
WAVE = np.stack([10 * np.sin(2 * np.pi * 240 * ALONG / 80), 240 * ALONG], axis=1)
_ANGLE = 2 + (5 * np.pi - 2) * ALONG
SPIRAL = 7 * np.stack([_ANGLE * np.sin(_ANGLE), _ANGLE * np.cos(_ANGLE)], axis=1)


def trace(mask: Bools) -> Network:
    network = vessels.trace(mask)
    assert network is not None
    return network


def true_values(line: Floats) -> tuple[float, float]:
    """Arc over chord, and squared curvature by length, of a finely drawn line."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    turns = np.diff(np.unwrap(np.arctan2(*np.diff(line, axis=0).T)))
    between = (steps[1:] + steps[:-1]) / 2
    return steps.sum() / math.dist(line[0], line[-1]), (turns**2 / between).sum() / between.sum()


def only_line(network: Network) -> Floats:
    (line,) = network.lines
    return line.points


@pytest.mark.parametrize("degrees", [0, 17, 52, 118])
@pytest.mark.parametrize("calibre", [3.0, 4.0, 7.5])
def test_a_straight_vessel_has_its_calibre_and_length_at_any_angle(calibre: float, degrees: float) -> None:
    (line,) = trace(tubes([(turned(STRAIGHT, degrees, (95.3, 104.8)), calibre)], (190, 210))).lines
    assert np.nanmean(line.widths) == pytest.approx(calibre, abs=0.55 if calibre == 7.5 and degrees == 0 else 0.12)  # 7.5: on a grid, 8
    assert line.length == pytest.approx(150, abs=calibre), "thinning shortens or lengthens it by half a calibre at each end"
    assert line.length / line.chord == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize(("line", "inflections"), [(ARC, 0), (WAVE, 5), (SPIRAL, 0)])
@pytest.mark.parametrize("degrees", [0, 33])
def test_tortuosity_is_that_of_the_drawn_line(line: Floats, inflections: int, degrees: float) -> None:
    found = tortuosity(only_line(trace(tubes([(turned(line, degrees, (140.2, 150.6)), 5.0)], (280, 300)))), 5)
    ratio, curvature = true_values(line)
    assert found is not None
    assert found.arc_chord == pytest.approx(ratio, rel=0.02)
    assert found.curvature == pytest.approx(curvature, rel=0.12)
    assert found.inflections == inflections
    assert found.inflection_count == (inflections + 1) * found.arc_chord


def test_tortuosity_of_points_is_exact_and_a_circle_has_no_chord() -> None:
    line = np.stack([np.zeros(50), np.arange(50.0)], axis=1)
    straight = tortuosity(line)
    assert straight is not None
    assert (straight.arc_chord, straight.curvature, straight.inflections) == (1.0, 0.0, 0)
    circle = 30 * np.stack([np.sin(np.arange(0, 361) * np.pi / 180), np.cos(np.arange(0, 361) * np.pi / 180)], axis=1)
    assert tortuosity(circle) is None
    part, back = tortuosity(circle[:180]), tortuosity(circle[179::-1])
    assert part is not None
    assert back is not None
    assert part.curvature == pytest.approx(back.curvature) == pytest.approx(1 / 30**2, rel=1e-3)


def carpet(depth: int) -> Bools:
    mask = np.ones((1, 1), dtype=bool)
    for _ in range(depth):
        mask = np.block([[mask, mask, mask], [mask, np.zeros_like(mask), mask], [mask, mask, mask]])
    return mask


def test_fractal_dimension_of_known_shapes() -> None:
    line = np.pad(np.ones((1, 256), dtype=bool), ((20, 3), (9, 40)))
    square = np.pad(np.ones((256, 256), dtype=bool), 7)
    for mask, dimension, within in ((line, 1, 1e-9), (square, 2, 1e-9), (carpet(5), math.log(8) / math.log(3), 0.03)):
        found = fractal_dimension(mask)
        assert found is not None
        assert found.value == pytest.approx(dimension, abs=within)
        assert found.low - 1e-9 <= dimension <= found.high + 1e-9
        assert found.high - found.value == pytest.approx(found.value - found.low)
    assert fractal_dimension(np.zeros((90, 80), dtype=bool)) is None
    assert fractal_dimension(np.ones((20, 30), dtype=bool)) is None, "too small for four sizes"


@pytest.mark.parametrize("degrees", [0, 20, 67])
def test_a_drawn_tree_has_its_branch_points_angles_and_no_spurs(degrees: float) -> None:
    """A trunk with a fork of 70 degrees, a side branch at 90 degrees to the trunk, and a bump of its wall that is no branch."""
    middle, fork = (150.0, 160.0), ray((150.0, 160.0), degrees, 60)[1]
    trunk = np.stack([ray(middle, degrees + 180, 110)[1], fork])
    pair = [ray(tuple(fork), degrees + side * 35, 70) for side in (1, -1)]
    bump = ray(ray(middle, degrees + 180, 60)[1], degrees - 90, 5)
    side = ray(middle, degrees + 90, 80)
    network = trace(tubes([(trunk, 8.0), (pair[0], 5.0), (pair[1], 5.0), (side, 4.0), (bump, 3.0)], (310, 330)))
    assert sorted(network.tree.degrees[network.tree.degrees > 0].tolist()) == [3, 3]
    assert len(network.lines) == 5
    assert sorted(branch_angles(network.tree, network.lines)) == pytest.approx([70, 90], abs=6)


def test_a_crossing_is_one_point_of_four_segments() -> None:
    lines = [(turned(STRAIGHT, degrees, (95.4, 104.6)), calibre) for degrees, calibre in ((10.0, 7.0), (85.0, 5.0))]
    network = trace(tubes(lines, (190, 210)))
    assert network.tree.degrees[network.tree.degrees > 0].tolist() == [4]
    assert len(network.lines) == 4
    holed = tubes([(turned(STRAIGHT, 0, (30.0, 95.0)), 9.0)], (60, 190))
    holed[29:32, 60:64] = False
    assert len(trace(holed).lines) == 1, "a reflex along the middle is no island between two vessels"


def test_equivalents_follow_the_published_formula() -> None:
    """Six vessels by hand: (10, 5), (9, 6), (8, 7) -> a, b, c -> widest with narrowest, the middle one waits -> one."""
    pairs = sorted(0.88 * math.hypot(a, b) for a, b in ((10, 5), (9, 6), (8, 7)))
    last = sorted([0.88 * math.hypot(pairs[0], pairs[2]), pairs[1]])
    assert equivalent([10, 9, 8, 7, 6, 5], ARTERY_FACTOR) == pytest.approx(0.88 * math.hypot(*last), rel=1e-12)
    assert equivalent([4.0], 0.95) == 4.0


LABELS = LabelMap(
    tuple(
        LabelClass(k, name, (0, 0, k), role=role)
        for k, (name, role) in enumerate({"artery": "artery", "vein": "vein", "nerve": "optic_disc"}.items(), 1)
    ),  # type: ignore[arg-type]
    overlapping=True,
)


def wheel(calibres: list[float], first: float) -> Bools:
    """Vessels from the disc outwards like spokes, the first of which branches where half of zone B is behind it."""
    spokes = [(ray((240.0, 250.0), first + 60 * k, 140), calibre) for k, calibre in enumerate(calibres)]
    fork = spokes[0][0][0] + (spokes[0][0][1] - spokes[0][0][0]) * 0.6
    return tubes([*spokes, (ray(tuple(fork), first + 40, 70), calibres[0] - 2)], (480, 500))


def measured(*masks: Bools, mm: float | None = 0.01) -> dict[str, MeasureRecord]:
    spacing = {} if mm is None else {"spacing_mm": (mm, mm), "spacing_source": "user"}
    records = measure_case(MeasuredCase(Geometry(masks[0].shape, **spacing), LABELS, masks.__getitem__))  # type: ignore[arg-type]
    return {record.key: record for record in records}


@pytest.fixture(scope="module")
def spokes() -> tuple[Bools, Bools, Bools]:
    rows, columns = np.ogrid[:480, :500]
    disc = np.hypot(rows - 240, columns - 250) < 30
    return wheel([7.0, 6.6, 6.2, 5.8, 5.4, 5.0], 12.0), wheel([9.0, 8.6, 8.2, 7.8, 7.4, 7.0], 42.0), disc


def test_arteries_and_veins_in_zone_b_give_their_equivalents(spokes: tuple[Bools, Bools, Bools]) -> None:
    found = measured(*spokes)
    for key, calibres, factor in (("crae", [7.0, 6.6, 6.2, 5.8, 5.4, 5.0], 0.88), ("crve", [9.0, 8.6, 8.2, 7.8, 7.4, 7.0], 0.95)):
        assert (found[key].unit, found[key].scale) == ("um", "user")
        assert found[key].value == pytest.approx(10 * equivalent(calibres, factor), rel=0.02)
    assert found["avr"].value == pytest.approx(found["crae"].value / found["crve"].value, rel=1e-4)  # type: ignore[operator]
    without = measured(spokes[0], spokes[1], np.zeros_like(spokes[2]))
    assert without["avr"].undefined == "no optic disc was found, around which the zone lies"
    five = wheel([7.0, 6.6, 6.2, 5.8, 5.4], 12.0)
    assert "5 arteries run far enough through zone B, and the formula is of 6" in str(measured(five, *spokes[1:])["crae"].undefined)


def test_zones_are_rings_of_the_discs_diameter(spokes: tuple[Bools, Bools, Bools]) -> None:
    artery, _, disc = spokes
    rings = find_rings(disc, np.ones_like(disc))
    assert [(rings[zone].inner, rings[zone].outer) for zone in "bc"] == [pytest.approx(own, rel=0.01) for own in ((60, 90), (60, 150))]
    assert rings["b"].seen == pytest.approx(1, abs=0.01)
    found = measured(*spokes)
    inside = artery & rings["b"].area
    assert found["artery_density_zone_b"].value == pytest.approx(100 * inside.sum() / rings["b"].area.sum(), rel=1e-4)
    assert find_rings(disc, np.arange(500) > 260 + 0 * disc)["c"].seen < 0.5
    assert len(calibres_in(trace(artery).lines, rings["b"])) == 6, "a vessel that branches far out in the zone is measured before"


TURNS: list[Callable[[Bools], Bools]] = [lambda m: m[:, ::-1], np.rot90, lambda m: np.rot90(m)[::-1]]


@pytest.mark.parametrize("turn", TURNS)
def test_a_mirrored_or_turned_eye_has_the_same_numbers_exactly(spokes: tuple[Bools, Bools, Bools], turn: Callable[[Bools], Bools]) -> None:
    artery, vein, disc = spokes
    vein = vein & (np.arange(500) > 60)  # nothing is symmetrical
    assert measured(*(np.ascontiguousarray(turn(mask)) for mask in (artery, vein, disc))) == measured(artery, vein, disc)


def test_twice_the_pixels_are_the_same_vessels(spokes: tuple[Bools, Bools, Bools]) -> None:
    once, twice = measured(*spokes, mm=0.02), measured(*(mask.repeat(2, 0).repeat(2, 1) for mask in spokes), mm=0.01)
    for key, within in {
        "artery_density": 1e-4,
        "artery_length": 0.01,
        "artery_calibre": 0.03,
        "crae": 0.03,
        "artery_branch_points": 0,
    }.items():
        assert twice[key].value == pytest.approx(once[key].value, rel=within), key


def test_an_empty_mask_and_unknown_spacing_say_so(spokes: tuple[Bools, Bools, Bools]) -> None:
    artery, vein, disc = spokes
    found = measured(np.zeros_like(artery), vein, disc, mm=None)
    assert {r.undefined for key, r in found.items() if key.startswith("artery_")} == {"no artery was found in the field of view"}
    assert (found["vein_length"].unit, found["vein_calibre"].unit, found["vein_squared_curvature"].unit) == ("px", "px", "1/px2")
    assert found["vein_calibre"].scale is None


@pytest.mark.parametrize("fraction", [0.0005, 0.01, 0.4, 1.0])
def test_noise_is_no_tree_and_nothing_is_computed_of_it_for_long(fraction: float) -> None:
    mask = np.random.default_rng(3).random((500, 480)) < fraction
    said = {record.undefined for key, record in measured(mask, mask, mask).items() if key.startswith("artery_")}
    assert (said == {"the mask is no tree of vessels: it has more than 5000 segments"}) == (fraction == 0.4)


def test_at_another_angle_the_same_vessels_differ_little(spokes: tuple[Bools, Bools, Bools]) -> None:
    first, second = measured(*spokes), measured(wheel([7.0, 6.6, 6.2, 5.8, 5.4, 5.0], 35.0), *spokes[1:])
    for key, within in {"density": 0.02, "length": 0.02, "calibre": 0.02, "fractal_dimension": 0.05, "tortuosity": 0.002}.items():
        assert second[f"artery_{key}"].value == pytest.approx(first[f"artery_{key}"].value, rel=within), key
    assert second["artery_branch_points"].value == first["artery_branch_points"].value


def test_paths_that_are_smoothed_together_come_out_as_each_alone() -> None:
    random = np.random.default_rng(3)
    paths = [np.cumsum(random.normal(size=(n, 2)), axis=0) for n in (3, 20, 21, 4, 22, 90)]  # as far as the Gaussian reaches, and less
    for together, path in zip(smooth(paths, 5.0), paths, strict=True):
        (alone,) = smooth([path], 5.0)
        assert together.shape == path.shape
        assert np.array_equal(together, alone)
        assert np.allclose(together[[0, -1]], path[[0, -1]])

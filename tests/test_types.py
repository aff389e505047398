"""The core types refuse what cannot be true, and a placement's round trip loses nothing it can keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Measure, Placement, Scan, Target, known_spacing

DISC_CUP = LabelMap((LabelClass(1, "disc", (230, 159, 0)), LabelClass(2, "cup", (86, 180, 233))), overlapping=True)
LAYERS = LabelMap((LabelClass(1, "ilm", (1, 2, 3)), LabelClass(2, "rnfl", (4, 5, 6))))
VESSEL = LabelMap((LabelClass(1, "vessel", (213, 94, 0)),))
KEY = CaseKey("a1", "R", "v1", "i1")


def test_unknown_spacing_and_laterality_stay_unknown() -> None:
    geometry = Geometry((3, 5))
    assert geometry.spacing_mm is None
    assert geometry.laterality is None
    with pytest.raises(ValueError, match="known together"):
        Geometry((3, 5), spacing_mm=(0.1, 0.1))
    with pytest.raises(ValueError, match="known together"):
        Geometry((3, 5), laterality="R")


def test_spacing_is_known_axis_by_axis() -> None:
    assert known_spacing((None, None)) is None
    star = Geometry((4, 3, 5), known_spacing((None, 0.004, 0.01)), "tag")
    assert (star.pixel_mm, star.voxel_mm) == ((0.004, 0.01), None)
    assert Geometry((4, 3, 5), (0.2, None, 0.01), "tag").pixel_mm is None
    assert Geometry((4, 3, 5), (0.2, 0.3, 0.4), "tag").voxel_mm == (0.2, 0.3, 0.4)
    assert Geometry((4, 3, 5)).voxel_mm is None


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0,), (None, 0.0), (None, None)])
def test_impossible_spacing_is_refused(spacing: tuple[float | None, ...]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        Geometry((3, 5), spacing_mm=spacing, spacing_source="tag")


def test_a_scan_keeps_rows_and_columns_apart() -> None:
    Scan(np.zeros((3, 4, 6), np.uint8), Geometry((4, 6)), "fundus", KEY, "0" * 64)
    with pytest.raises(ValueError, match="do not match geometry"):
        Scan(np.zeros((3, 6, 4), np.uint8), Geometry((4, 6)), "fundus", KEY, "0" * 64)


@pytest.mark.parametrize("bad", ["", "a b", "../x", "a/b", "a_b", "x" * 65, "\n", "-a"])
def test_a_case_key_is_safe_in_a_file_name(bad: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        CaseKey(bad, "R", "v", "i")


def test_a_case_key_reads_back() -> None:
    assert CaseKey.parse(str(KEY)) == KEY
    assert sorted([CaseKey("b", "L", "1", "1"), KEY])[0] == KEY


@given(st.integers(0, 3), st.integers(0, 3))
def test_overlapping_layers_read_back_from_one_integer_image(a: int, b: int) -> None:
    mask = np.array([[a, b, -1]])
    layers = DISC_CUP.layers(mask)
    assert layers.shape == (2, 1, 3)
    assert (DISC_CUP.mask(layers)[:, :2] == mask[:, :2]).all()
    assert not layers[:, :, 2].any()


def test_exclusive_layers_and_network_channels() -> None:
    mask = np.array([[0, 1, 2, -1]])
    assert LAYERS.layers(mask).tolist() == [[[False, True, False, False]], [[False, False, True, False]]]
    assert (VESSEL.channels, LAYERS.channels, DISC_CUP.channels) == (1, 3, 2)
    assert LabelMap.from_json(DISC_CUP.to_json()) == DISC_CUP


def nest(**inside: str | None) -> LabelMap:
    """Overlapping classes by name, each with the one that it lies inside."""
    return LabelMap(tuple(LabelClass(i, name, (i, i, i), None, outer) for i, (name, outer) in enumerate(inside.items(), 1)), True)


def test_a_class_that_lies_inside_others_is_nowhere_without_all_of_them() -> None:
    """Innermost first, so that what a class has lost counts for those inside it whatever the order of the classes."""
    layers = np.array([[[1, 1, 1, 1, 0]], [[1, 1, 0, 1, 0]], [[1, 0, 1, 1, 1]]], dtype=bool)  # pit, cup, disc
    assert nest(pit="cup", cup="disc", disc=None).nested(layers).astype(int).tolist() == [
        [[1, 0, 0, 1, 0]],
        [[1, 0, 0, 1, 0]],
        [[1, 0, 1, 1, 1]],
    ]
    assert (nest(pit=None, cup=None, disc=None).nested(layers) == layers).all()


@given(st.permutations(["pit", "cup", "disc"]), st.integers(0, 2**18 - 1))
def test_nested_layers_are_nested_and_lose_nothing_more(order: list[str], bits: int) -> None:
    outer = {"pit": "cup", "cup": "disc", "disc": None}
    layers = ((bits >> np.arange(18)) & 1).astype(bool).reshape(3, 2, 3)
    out = dict(zip(order, nest(**{name: outer[name] for name in order}).nested(layers), strict=True))
    found = dict(zip(order, layers, strict=True))
    assert (out["disc"] == found["disc"]).all()
    assert (out["cup"] == found["cup"] & found["disc"]).all()
    assert (out["pit"] == found["pit"] & out["cup"]).all()


def test_the_relation_travels_with_the_classes() -> None:
    three = nest(disc=None, cup="disc", pit="cup")
    assert LabelMap.from_json(three.to_json()) == three
    assert [c.inside for c in three.only(["pit", "disc"]).classes] == ["disc", None]  # a pit in the cup is a pit in the disc
    assert [c.inside for c in three.only(["cup", "pit"]).classes] == [None, "cup"]
    assert [(c.name, c.inside) for c in three.renamed({"disc": "optic_disc", "pit": "hole"}).classes] == [
        ("optic_disc", None),
        ("cup", "optic_disc"),
        ("hole", "cup"),
    ]
    assert "inside" not in DISC_CUP.to_json()["classes"][1]  # an unchanged card keeps its cache and its records


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ({"cup": "disk", "disc": None}, "class 'cup' is said to lie inside 'disk', but classes are: cup, disc"),
        ({"cup": "cup"}, "'cup' is said to lie inside 'cup', and so inside itself"),
        ({"pit": "cup", "cup": "disc", "disc": "cup"}, "'cup' is said to lie inside 'disc', and so inside itself"),
    ],
)
def test_a_relation_that_cannot_be_is_refused(inside: dict[str, str | None], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nest(**inside)


def test_of_classes_that_exclude_each_other_none_lies_inside_another() -> None:
    with pytest.raises(ValueError, match="'cup' is said to lie inside 'disc', which needs overlapping: true"):
        LabelMap(nest(disc=None, cup="disc").classes)


def test_a_target_may_hold_no_object_but_not_a_wrong_dtype() -> None:
    Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="mask must be int64"):
        Target(mask=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="come together"):
        Target(boxes=torch.zeros(1, 4))


def test_a_measure_has_a_value_or_a_reason() -> None:
    Measure(None, "mm", "distance", "the structure is missing")
    for value, reason in ((math.nan, None), (None, None), (1.0, "why")):
        with pytest.raises(ValueError, match="measure"):
            Measure(value, "1", "x", reason)


@st.composite
def placements(draw: st.DrawFn, resize: bool) -> Placement:
    rows, columns = draw(st.integers(5, 40)), draw(st.integers(5, 40))
    height, width = draw(st.integers(3, rows)), draw(st.integers(3, columns))
    top, left = draw(st.integers(-2, rows - height + 2)), draw(st.integers(-2, columns - width + 2))
    resized = (draw(st.integers(3, 60)), draw(st.integers(3, 60))) if resize else (height, width)
    pad = tuple(draw(st.integers(0, 4)) for _ in range(4))
    return Placement((rows, columns), (top, left, height, width), resized, pad)  # type: ignore[arg-type]


@given(placements(resize=False))
def test_a_crop_and_pad_comes_back_exactly(placement: Placement) -> None:
    rows, columns = placement.source
    source = torch.arange(1.0, rows * columns + 1).reshape(1, rows, columns)
    top, left, height, width = placement.crop
    crop = torch.zeros(1, height, width)
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    for r in range(max(top, 0), min(top + height, rows)):
        for c in range(max(left, 0), min(left + width, columns)):
            crop[0, r - top, c - left] = source[0, r, c]
            inside[r, c] = True
    net = torch.nn.functional.pad(crop, (placement.pad[1], placement.pad[3], placement.pad[0], placement.pad[2]))
    back = placement.to_source(net)
    assert torch.equal(back[0][inside], source[0][inside])
    assert not back[0][~inside].any()


@given(placements(resize=True), st.data())
def test_boxes_come_back_through_any_placement(placement: Placement, data: st.DataObject) -> None:
    rows, columns = placement.source
    x0, y0 = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1))
    box = torch.tensor([[x0, y0, data.draw(st.integers(x0 + 1, columns)), data.draw(st.integers(y0 + 1, rows))]], dtype=torch.float32)
    assert torch.allclose(placement.boxes_to_source(placement.boxes_to_net(box)), box, atol=1e-3)


def test_a_resized_constant_map_comes_back_constant_with_the_box_beside_it() -> None:
    placement = Placement((20, 30), (4, 6, 10, 20), (5, 40), (1, 2, 3, 4))
    assert placement.net == (9, 46)
    back = placement.to_source(torch.full((2, 9, 46), 0.25), fill=-1.0)
    assert back.shape == (2, 20, 30)
    assert torch.allclose(back[:, 4:14, 6:26], torch.tensor(0.25))
    assert (back[:, :4] == -1).all()
    # closed form: x = 16 is (16 - 6) * 40 / 20 + 2 = 22, y = 9 is (9 - 4) * 5 / 10 + 1 = 3.5
    assert placement.boxes_to_net(torch.tensor([[16.0, 9.0, 26.0, 14.0]])).tolist() == [[22.0, 3.5, 42.0, 6.0]]


def test_layers_and_their_surfaces_travel_with_the_classes() -> None:
    classes = tuple(LabelClass(i, name, (i, i, i)) for i, name in enumerate(("fluid", "RPE", "RNFL"), 1))
    plain = LabelMap(classes, layered=("RNFL", "RPE"))
    assert plain.surface_names == ("top of RNFL", "top of RPE", "bottom of RPE")
    named = LabelMap(classes, layered=("RNFL", "RPE"), surfaces=("ILM", "OS-RPE", "BM"))
    assert named.surface_names == ("ILM", "OS-RPE", "BM")
    assert LabelMap.from_json(named.to_json()) == named
    assert named.only(["RNFL", "RPE"]).surface_names == ("ILM", "OS-RPE", "BM")
    assert named.only(["fluid", "RPE"]).surface_names == ("top of RPE", "bottom of RPE")  # nobody knows the names of others
    assert named.only(["fluid"]).surface_names == ()
    three = LabelMap(classes, layered=("RNFL", "fluid", "RPE"))
    assert three.only(["RPE", "RNFL"]).layered == ()  # not one on the other
    assert three.only(["fluid", "RNFL"]).layered == ("RNFL", "fluid")
    assert (named.renamed({"RNFL": "NFL"}).layered, named.renamed({"RNFL": "NFL"}).surfaces) == (("NFL", "RPE"), ("ILM", "OS-RPE", "BM"))
    assert LAYERS.to_json().keys() == {"overlapping", "classes"}  # an unchanged card keeps its cache and its records
    for wrong, message in (
        ({"layered": ("RNFL", "INL")}, "layers speak of class 'INL'"),
        ({"layered": ("RPE", "RPE")}, "name a class twice"),
        ({"layered": ("RNFL",), "overlapping": True}, "overlapping: true does not"),
        ({"layered": ("RNFL", "RPE"), "surfaces": ("ILM", "BM")}, "2 layers have 3 surfaces, but 2 are named"),
        ({"surfaces": ("ILM",)}, "surfaces lie between layers, and there are none"),
        ({"layered": ("RNFL",), "surfaces": ("ILM", "ILM")}, "must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelMap(classes, **wrong)

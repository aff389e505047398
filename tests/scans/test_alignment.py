"""Arrays are brought onto an image by both affines: exactly, or not at all."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ScanError
from pipeline.scans.alignment import align
from pipeline.types import Geometry, NiftiFrame

SHAPE = (4, 5, 7)
IMAGE = np.arange(140).reshape(SHAPE)
ITK = np.diag([1.0, 1.0, 1.0, 1.0])


def oblique(angle: float, sizes: tuple[float, float, float], corner: tuple[float, float, float]) -> np.ndarray:
    """Axes turned about two of the patient's, (column, row, slice) to LPS."""
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(sizes)
    affine[:3, 3] = corner
    return affine


def relaid(array: np.ndarray, affine: np.ndarray, order: Any, flips: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same pixels in the same places, stored along other axes (array order) and backwards along ``flips``."""
    stored, columns = np.transpose(array, order), affine[:3, [2, 1, 0]][:, list(order)]
    corner = affine[:3, 3].copy()
    for axis, back in enumerate(flips):
        if back:
            corner += columns[:, axis] * (stored.shape[axis] - 1)
            stored, columns[:, axis] = np.flip(stored, axis), -columns[:, axis]
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = columns[:, ::-1], corner
    return stored, out


def placed(array: np.ndarray, affine: np.ndarray | None, **more: Any) -> Geometry:
    return Geometry(array.shape, affine=affine, **more)


@given(
    order=st.sampled_from(list(permutations(range(3)))),
    flips=st.tuples(*[st.booleans()] * 3),
    angle=st.floats(-3, 3),
    sizes=st.tuples(*[st.floats(0.002, 2)] * 3),
    corner=st.tuples(*[st.floats(-90, 90)] * 3),
)
def test_every_order_of_axes_and_every_flip(order: Any, flips: Any, angle: float, sizes: Any, corner: Any) -> None:
    affine = oblique(angle, sizes, corner)
    stored, own = relaid(IMAGE, affine, order, flips)
    assert np.array_equal(align(stored, placed(stored, own), placed(IMAGE, affine)), IMAGE)
    colour = np.stack([stored, stored + 1, stored + 2], axis=-1)
    assert np.array_equal(align(colour, placed(stored, own), placed(IMAGE, affine))[..., 2], IMAGE + 2)


def test_float32_and_rounded_decimals_are_no_difference() -> None:
    affine = oblique(0.4, (0.0117, 0.0039, 0.12), (31.4159, -20.5, 7.25))
    stored, own = relaid(IMAGE, affine, (2, 0, 1), (True, False, True))
    assert np.array_equal(align(stored, placed(stored, own.astype(np.float32).astype(float)), placed(IMAGE, affine.round(6))), IMAGE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "their centres lie 0.5 mm apart"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.6], [0, 0, 0, 1.0]]), "their centres lie 0.6 mm apart"),
        (oblique(np.radians(20), (1, 1, 1), (0, 0, 0)), "turned by (20|28|2[0-9].*) degrees"),
        (np.diag([1.0, 2.0, 1.0, 1.0]), "its voxels measure .* mm, the image's "),
    ],
)
def test_anything_else_is_refused_with_the_difference(change: np.ndarray, said: str) -> None:
    affine = np.diag([0.1, 0.2, 0.3, 1.0])
    with pytest.raises(ScanError, match=said) as caught:
        align(IMAGE, placed(IMAGE, change @ affine), placed(IMAGE, affine))
    assert caught.value.code == "misplaced"
    assert "place: array" in str(caught.value)


def test_another_size_is_left_to_the_check_of_sizes() -> None:
    assert align(IMAGE[:3], placed(IMAGE[:3], ITK), placed(IMAGE, ITK)).shape == (3, 5, 7)
    assert align(IMAGE[0], placed(IMAGE[0], None), placed(IMAGE, None)).shape != SHAPE


def test_one_slice_is_a_picture_and_a_picture_is_one_slice() -> None:
    picture = IMAGE[0]
    for image_affine in (ITK, None):
        thick = np.diag([1.0, 1.0, 5.0, 1.0])
        assert np.array_equal(align(picture[None], placed(picture[None], thick), placed(picture, image_affine)), picture)
        assert align(picture, placed(picture, ITK), placed(picture[None], image_affine)).shape == (1, 5, 7)
    assert np.array_equal(align(picture[None], placed(picture[None], None), placed(picture, None)), picture)


@pytest.mark.parametrize("flips", list(product((False, True), repeat=2)))
def test_an_image_without_an_affine_lies_as_itk_places_it(flips: tuple[bool, bool]) -> None:
    picture, affine = IMAGE[:1], np.diag([0.03, 0.02, 1.0, 1.0])
    stored, own = relaid(picture, affine, (0, 1, 2), (False, *flips))
    assert np.array_equal(align(stored, placed(stored, own), placed(picture[0], None)), picture[0])


def test_a_bare_identity_says_two_things_of_a_picture() -> None:
    """nibabel.Nifti1Image(mask.T, np.eye(4)): its world is RAS, in which a picture's axes run the other way."""
    with pytest.raises(ScanError, match="does not lie on its image"):
        align(IMAGE[:1], placed(IMAGE[:1], np.diag([-1.0, -1.0, 1.0, 1.0])), placed(IMAGE[0], None))


def header(srow: tuple[tuple[float, ...], ...] = ((0.0,) * 4,) * 3) -> NiftiFrame:
    return NiftiFrame((1.0, 0.1, 0.2, 0.3), 2, 0, 0, (0.0,) * 6, srow)


def test_a_header_without_codes_is_placed_as_itk_and_as_nibabel_do() -> None:
    image = placed(IMAGE, None, nifti=header())
    sizes = np.diag([0.1, 0.2, 0.3, 1.0])
    centred = np.array([[0.1, 0, 0, -0.3], [0, -0.2, 0, 0.4], [0, 0, 0.3, -0.45], [0, 0, 0, 1]])  # LPS of nibabel's base affine
    for affine in (sizes, centred, None):
        assert np.array_equal(align(IMAGE, placed(IMAGE, affine), image), IMAGE)
        if affine is not None:
            stored, own = relaid(IMAGE, affine, (1, 2, 0), (True, True, False))
            assert np.array_equal(align(stored, placed(stored, own), image), IMAGE)


def test_rows_from_the_bottom_up_without_a_code_are_asked_about() -> None:
    upward = header(((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, -4.0), (0.0, 0.0, 1.0, 0.0)))
    with pytest.raises(ScanError, match="place: rows_up"):
        align(IMAGE, placed(IMAGE, None, nifti=upward), placed(IMAGE, None))
    with pytest.raises(ScanError, match="place: rows_up"):
        align(IMAGE, placed(IMAGE, None), placed(IMAGE, None, nifti=upward))
    assert np.array_equal(align(IMAGE, placed(IMAGE, None, nifti=upward), placed(IMAGE, None, nifti=upward)), IMAGE)
    assert np.array_equal(align(IMAGE, placed(IMAGE, None, nifti=header()), placed(IMAGE, None, nifti=upward)), IMAGE)

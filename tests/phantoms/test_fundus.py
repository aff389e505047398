"""Phantom photographs: equal seeds give equal bytes, and the truth is where anatomy says it must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from pipeline.phantoms.fundus import FundusPhantom, draw_fundus
from pipeline.phantoms.lesions import LESIONS, grow_lesions
from pipeline.phantoms.vessels import grow_anatomy, stream

SHAPE = (200, 232)


@pytest.fixture(scope="module")
def eyes() -> list[FundusPhantom]:
    return [draw_fundus((7, number), "RL"[number % 2], SHAPE, severity=0.8) for number in range(8)]


def centre(mask: np.ndarray) -> np.ndarray:
    """(row, column) of a mask's centroid."""
    return np.argwhere(mask).mean(axis=0)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = (draw_fundus(seed, "R", SHAPE, visit=1) for seed in ((3, 1), (3, 1), (3, 2)))
    assert first.image.tobytes() == again.image.tobytes()
    for name, mask in first.masks.items():
        np.testing.assert_array_equal(mask, again.masks[name])
    assert np.mean(first.image != other.image) > 0.5


def test_the_global_random_state_neither_matters_nor_moves() -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = draw_fundus(5, "R", SHAPE).image
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(one, draw_fundus(5, "R", SHAPE).image)


def test_streams_of_different_length_differ() -> None:
    assert stream((1, 2), 3).random() != stream((1,), 2, 3).random()


def test_left_eye_is_the_mirror_image_of_the_right() -> None:
    right, left = draw_fundus(11, "R", SHAPE, severity=1), draw_fundus(11, "L", SHAPE, severity=1)
    np.testing.assert_array_equal(left.image, right.image[:, ::-1])
    np.testing.assert_array_equal(left.field_of_view, right.field_of_view[:, ::-1])
    for name in right.masks:
        np.testing.assert_array_equal(left.masks[name], right.masks[name][:, ::-1])
    for name in right.instances:
        np.testing.assert_array_equal(left.instances[name], right.instances[name][:, ::-1])


def test_disc_is_nasal_two_and_a_half_diameters_from_a_lower_fovea(eyes: list[FundusPhantom]) -> None:
    for eye in eyes:
        disc, fovea = centre(eye.masks["disc"]), centre(eye.masks["fovea"])
        nasal = 1 if eye.eye == "R" else -1
        assert nasal * (disc[1] - fovea[1]) > 0
        height = np.ptp(np.nonzero(eye.masks["disc"])[0]) + 1
        assert 2.1 < math.dist(disc, fovea) / height < 3.0
        assert fovea[0] > disc[0]


def test_masks_lie_inside_the_field_of_view_and_the_cup_inside_the_disc(eyes: list[FundusPhantom]) -> None:
    for eye in eyes:
        for name, mask in eye.masks.items():
            assert mask.dtype == bool
            assert mask.shape == SHAPE
            assert not (mask & ~eye.field_of_view).any(), name
        assert eye.masks["cup"].any()
        assert not (eye.masks["cup"] & ~eye.masks["disc"]).any()
        assert eye.masks["cup"].sum() < eye.masks["disc"].sum()
        np.testing.assert_array_equal(eye.masks["vessel"], eye.masks["artery"] | eye.masks["vein"])


def test_surround_is_dark_and_the_field_is_a_disc_of_known_size() -> None:
    for number in range(6):
        eye = draw_fundus((7, number), "R", SHAPE)
        assert eye.image[~eye.field_of_view].mean() < 12
        assert eye.image[eye.field_of_view].mean() > 40
        # A round field of 6.6 mm radius, cut by the image's edges: exact area by counting finely.
        fine = 8
        rows, columns = ((np.arange(n * fine) + 0.5) / fine - n / 2 for n in SHAPE)
        area = np.mean(np.hypot(rows[:, None], columns[None]) < 6.6 / eye.spacing_mm[0]) * SHAPE[0] * SHAPE[1]
        assert eye.field_of_view.sum() == pytest.approx(area, rel=0.005)


def test_vessels_avoid_the_fovea_and_reach_far_from_the_disc(eyes: list[FundusPhantom]) -> None:
    for eye in eyes:
        rows, columns = np.indices(SHAPE)
        fovea, disc = centre(eye.masks["fovea"]), centre(eye.masks["disc"])
        distance_mm = np.hypot(rows - fovea[0], columns - fovea[1]) * eye.spacing_mm[0]
        assert not (eye.masks["vessel"] & (distance_mm < 0.3)).any()
        assert (np.hypot(rows - disc[0], columns - disc[1]) * eye.spacing_mm[0])[eye.masks["vessel"]].max() > 6
        assert 0.05 < eye.masks["vessel"].sum() / eye.field_of_view.sum() < 0.2
        # One unbroken tree is most of it: an annotator would draw it so, too.
        labels, count = ndimage.label(eye.masks["vessel"], np.ones((3, 3)))
        assert np.bincount(labels.ravel())[1:].max() > 0.75 * eye.masks["vessel"].sum(), count


def test_veins_are_wider_and_darker_than_arteries_and_both_darker_than_retina(eyes: list[FundusPhantom]) -> None:
    for number in range(4):
        anatomy = grow_anatomy((7, number))
        assert max(b[:, 2].max() for b in anatomy.veins) > max(b[:, 2].max() for b in anatomy.arteries)
    contrasts = []
    for eye in eyes:
        green = eye.image[..., 1].astype(float)
        retina = ndimage.gaussian_filter(green, 12)
        ratio = green / np.maximum(retina, 1)
        inside = ndimage.binary_erosion(eye.field_of_view, iterations=8) & ~eye.masks["disc"]
        contrasts.append([ratio[eye.masks[name] & inside].mean() for name in ("vein", "artery")])
        contrasts[-1].append(ratio[inside & ~eye.masks["vessel"]].mean())
    vein, artery, bare = np.mean(contrasts, axis=0)
    assert vein < artery < bare
    assert vein < 0.9 * bare


def test_branching_obeys_murray() -> None:
    for branch in grow_anatomy(4).veins:
        steps = branch[1:, 2] / branch[:-1, 2]
        # Between forks a vessel thins slowly; at a fork r1 = r0 / (1 + q^3)^(1/3) with q at most 0.95.
        assert steps.max() <= 1
        assert steps.min() > 1 / (1 + 0.95**3) ** (1 / 3) - 0.03


def test_disc_is_bright_and_its_cup_brighter(eyes: list[FundusPhantom]) -> None:
    for eye in eyes:
        green = eye.image[..., 1].astype(float)
        bare = eye.field_of_view & ~eye.masks["vessel"]
        rim, cup = bare & eye.masks["disc"] & ~eye.masks["cup"], bare & eye.masks["cup"]
        assert green[rim].mean() > 1.2 * np.median(green[bare])
        assert green[cup].mean() > green[rim].mean()
        assert green[eye.masks["fovea"]].mean() < np.median(green[bare])


def test_instances_agree_with_masks_and_never_share_a_pixel(eyes: list[FundusPhantom]) -> None:
    assert sum(eye.masks[kind].any() for eye in eyes for kind in LESIONS) > 15
    for number, eye in enumerate(eyes):
        kinds = {lesion.number: lesion.kind for lesion in grow_lesions((7, number), grow_anatomy((7, number)), 0.8)}
        assert (sum((eye.instances[kind] > 0).astype(int) for kind in LESIONS) <= 1).all()
        for kind in LESIONS:
            np.testing.assert_array_equal(eye.instances[kind] > 0, eye.masks[kind])
            assert eye.instances[kind].dtype == np.int32
            assert {kinds[int(i)] for i in np.unique(eye.instances[kind]) if i} <= {kind}


def test_a_lesion_far_from_others_holds_its_analytic_area() -> None:
    seed = (7, 3)
    eye = draw_fundus(seed, "R", (900, 980), severity=1.0)
    checked = 0
    for lesion in grow_lesions(seed, grow_anatomy(seed), 1.0):
        # r(t) = r (1 + sum a cos): area = pi r^2 (1 + sum a^2 / 2) to second order, for products of harmonics nearly so.
        area = math.pi * lesion.radius_at(0) ** 2 * (1 + 0.5 * float(np.sum(lesion.wobble[:, 0] ** 2)))
        pixels = int((eye.instances[lesion.kind] == lesion.number).sum())
        rows, _ = np.nonzero(eye.instances[lesion.kind] == lesion.number)
        if pixels > 120 and rows.min() > 0 and rows.max() < 899:
            assert pixels * eye.spacing_mm[0] ** 2 == pytest.approx(area, rel=0.08)
            checked += 1
    assert checked >= 3


def test_lesions_keep_their_number_and_grow_from_visit_to_visit() -> None:
    seed = (7, 3)
    first, later = (draw_fundus(seed, "R", (512, 560), visit=visit, severity=1.0) for visit in (0, 2))
    grown = 0
    for kind in LESIONS:
        early = np.bincount(first.instances[kind].ravel(), minlength=400)[1:]
        late = np.bincount(later.instances[kind].ravel(), minlength=400)[1:]
        both = (early > 40) & (late > 0)
        grown += int((late[both] > early[both]).sum())
        assert (late[both] > 0.8 * early[both]).all()
    assert grown >= 3
    assert sum(m.sum() for n, m in later.masks.items() if n in LESIONS) > sum(m.sum() for n, m in first.masks.items() if n in LESIONS)


def test_visits_share_anatomy_and_differ_in_aim() -> None:
    first, later = draw_fundus(9, "L", SHAPE, visit=0), draw_fundus(9, "L", SHAPE, visit=1)
    assert first.spacing_mm == later.spacing_mm

    def distance(eye: FundusPhantom) -> float:
        return math.dist(centre(eye.masks["disc"]), centre(eye.masks["fovea"]))

    assert distance(first) == pytest.approx(distance(later), abs=0.7)
    assert np.mean(first.image != later.image) > 0.5


def test_healthy_eyes_have_no_lesions_and_some_eyes_are_healthy() -> None:
    healthy = draw_fundus(2, "R", SHAPE, severity=0)
    assert not any(healthy.masks[kind].any() for kind in LESIONS)
    drawn = [any(draw_fundus((1, n), "R", (64, 80), visit=3).masks[kind].any() for kind in LESIONS) for n in range(14)]
    assert 2 < sum(drawn) < 13


@pytest.mark.parametrize(("shape", "eye", "visit"), [((40, 200), "R", 0), ((200, 200), "U", 0), ((200, 220), "R", -1)])
def test_what_cannot_be_drawn_is_refused(shape: tuple[int, int], eye: str, visit: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        draw_fundus(1, eye, shape, visit=visit)

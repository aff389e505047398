"""Phantom OCT volumes: surfaces in order, labels that follow from them, a pit, shadows where the photograph has vessels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantoms.oct import DEPTH_MM, FIELD_MM, LAYERS, OCT_LABELS, SURFACES, OctPhantom, draw_oct
from pipeline.phantoms.vessels import grow_anatomy

SHAPE = (7, 120, 152)


@pytest.fixture(scope="module")
def volumes() -> list[OctPhantom]:
    return [draw_oct((3, number), "RL"[number % 2], *SHAPE, severity=1.0 if number < 6 else 0.0) for number in range(8)]


def test_same_seed_gives_the_same_bytes_and_left_is_the_mirror() -> None:
    right, again, left = draw_oct(5, "R", *SHAPE, visit=1), draw_oct(5, "R", *SHAPE, visit=1), draw_oct(5, "L", *SHAPE, visit=1)
    assert right.volume.tobytes() == again.volume.tobytes()
    assert right.labels.tobytes() == again.labels.tobytes()
    np.testing.assert_array_equal(left.volume, right.volume[..., ::-1])
    np.testing.assert_array_equal(left.layers, right.layers[..., ::-1])
    np.testing.assert_array_equal(left.labels, right.labels[..., ::-1])
    assert np.mean(right.volume != draw_oct(6, "R", *SHAPE, visit=1).volume) > 0.5


def test_shapes_spacing_and_order_of_surfaces(volumes: list[OctPhantom]) -> None:
    for eye in volumes:
        assert eye.volume.shape == eye.labels.shape == SHAPE
        assert eye.volume.dtype == eye.labels.dtype == np.uint8
        assert eye.layers.shape == (len(SURFACES), SHAPE[0], SHAPE[2])
        assert eye.spacing_mm == pytest.approx((FIELD_MM / SHAPE[0], DEPTH_MM / SHAPE[1], FIELD_MM / SHAPE[2]))
        assert np.diff(eye.layers, axis=0).min() >= -1e-4
        assert eye.layers.min() > 0
        assert eye.layers.max() < SHAPE[1]


def test_labels_are_what_lies_between_surfaces(volumes: list[OctPhantom]) -> None:
    for eye in volumes:
        for index, name in enumerate(LAYERS):
            top, bottom = eye.layers[index], eye.layers[index + 1]
            # Rows whose centre r + 0.5 lies in [top, bottom): counted in closed form.
            expected = np.ceil(bottom.astype(float) - 0.5) - np.ceil(top.astype(float) - 0.5)
            counted = (eye.labels == OCT_LABELS[name]).sum(axis=1)
            cysts = (eye.labels == OCT_LABELS["IRF"]).sum(axis=1)
            if name in ("INL", "OPL", "ONL"):
                assert (counted <= expected + 1).all()
                assert (counted >= expected - cysts - 1).all()
            else:
                assert np.abs(counted - expected).max() <= 1  # float32 surfaces may round the other way
                assert np.mean(counted != expected) < 0.001


def test_fluid_lies_where_its_name_says(volumes: list[OctPhantom]) -> None:
    seen = set()
    rows = np.arange(SHAPE[1])[None, :, None] + 0.5
    for eye in volumes[:6]:
        surface = dict(zip(SURFACES, eye.layers[:, :, None, :], strict=True))
        for name, top, bottom in (("IRF", "IPL-INL", "ELM"), ("SRF", "OS outer", "RPE inner"), ("PED", "RPE outer", "BM")):
            fluid = eye.labels == OCT_LABELS[name]
            assert not (fluid & ((rows < surface[top] - 0.01) | (rows > surface[bottom] + 0.01))).any()
            seen |= {name} if fluid.any() else set()
    assert seen == {"IRF", "SRF", "PED"}
    for eye in volumes[6:]:
        assert not np.isin(eye.labels, [OCT_LABELS[name] for name in ("IRF", "SRF", "PED")]).any()


def test_fluid_is_dark_and_grows_by_visit() -> None:
    first, later = draw_oct((3, 0), "R", *SHAPE, severity=1.0), draw_oct((3, 0), "R", *SHAPE, visit=3, severity=1.0)
    fluids = [OCT_LABELS[name] for name in ("IRF", "SRF", "PED")]
    assert np.isin(later.labels, fluids).sum() > 1.1 * np.isin(first.labels, fluids).sum()
    for eye in (first, later):
        retina = (eye.labels > 0) & (eye.labels <= OCT_LABELS["RPE"]) & ~np.isin(eye.labels, fluids)
        assert eye.volume[np.isin(eye.labels, fluids)].mean() < 0.7 * eye.volume[retina].mean()


def test_a_dry_macula_has_a_pit_in_its_middle(volumes: list[OctPhantom]) -> None:
    for eye in volumes[6:]:
        thickness_um = (eye.layers[SURFACES.index("BM")] - eye.layers[0]) * eye.spacing_mm[1] * 1000
        middle = np.array(SHAPE)[[0, 2]] // 2
        lowest = np.array(np.unravel_index(thickness_um.argmin(), thickness_um.shape))
        assert np.abs(lowest - middle)[0] <= 0
        assert np.abs(lowest - middle)[1] * eye.spacing_mm[2] < 0.2
        assert 170 < thickness_um.min() < 270
        assert 300 < thickness_um.max() < 420


def test_nerve_fibres_are_thicker_towards_the_disc(volumes: list[OctPhantom]) -> None:
    for eye in volumes[6:]:
        nerve = (eye.layers[1] - eye.layers[0])[SHAPE[0] // 2]
        temporal, nasal = nerve[:30].mean(), nerve[-30:].mean()
        assert (nasal > 1.5 * temporal) if eye.eye == "R" else (temporal > 1.5 * nasal)


def test_relative_brightness_of_layers_is_that_of_a_real_scan() -> None:
    eye = draw_oct(8, "R", 5, 400, 200, severity=0)
    mean = {name: eye.volume[eye.labels == value].mean() for name, value in OCT_LABELS.items() if (eye.labels == value).any()}
    vitreous = eye.volume[:, :20].mean()
    assert vitreous < mean["ONL"] < mean["INL"] < mean["IPL"] < mean["RNFL"]
    assert mean["INL"] < mean["OPL"]
    assert mean["RPE"] == max(mean.values())
    assert mean["choroid"] < mean["RPE"]


def test_a_vessel_of_the_photograph_throws_its_shadow() -> None:
    seed, slices, columns = (3, 7), 61, 300
    eye = draw_oct(seed, "R", slices, 120, columns, severity=0)
    points = np.concatenate([*grow_anatomy(seed).arteries, *grow_anatomy(seed).veins])
    points = points[(points[:, 2] > 0.03) & (np.abs(points[:, :2]) < 2.8).all(axis=1)]
    assert len(points) > 10
    column = np.rint((points[:, 0] + FIELD_MM / 2) / eye.spacing_mm[2] - 0.5).astype(int)
    plane = np.rint(points[:, 1] / eye.spacing_mm[0] + (slices - 1) / 2).astype(int)
    rpe = np.where(eye.labels == OCT_LABELS["RPE"], eye.volume, np.nan)
    brightness = np.nanmean(rpe, axis=1)
    under = np.array([brightness[p, c] for p, c in zip(plane, column, strict=True)])
    assert np.median(under) < 0.8 * np.median(brightness)


def test_what_cannot_be_scanned_is_refused() -> None:
    for arguments in ((1, "R", 0, 100, 120), (1, "R", 3, 40, 120), (1, "X", 3, 100, 120)):
        with pytest.raises(ValueError, match="cannot draw"):
            draw_oct(*arguments)

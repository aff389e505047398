"""Other ways of scanning a phantom eye: circles around the disc, other windows and instruments; and a set of them on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.phantoms.oct import LAYERS, OCT_LABELS, SURFACES, draw_oct
from pipeline.phantoms.oct_protocol import CIRCLE_MM, PLAIN, OctProtocol, lay_out, varied
from pipeline.phantoms.oct_set import write_oct_set
from pipeline.phantoms.vessels import grow_anatomy
from pipeline.scans.nifti import read_nifti

BM = SURFACES.index("BM")


def test_a_circle_is_a_circle_around_the_disc() -> None:
    disc = grow_anatomy((2, 3)).disc
    grid = lay_out(OctProtocol(pattern="circle"), disc, 3, 100, 400)
    radius = np.hypot(grid.x - disc[0], grid.y - disc[1])
    np.testing.assert_allclose(radius[1], CIRCLE_MM / 2)
    np.testing.assert_allclose(np.diff(radius[:, 0]), grid.spacing_mm[0])
    # One step along the middle circle is what the spacing says, to the difference of chord and arc; the ends meet.
    steps = np.hypot(np.diff(grid.x[1], append=grid.x[1, 0]), np.diff(grid.y[1], append=grid.y[1, 0]))
    np.testing.assert_allclose(steps, grid.spacing_mm[2], rtol=1e-4)
    quarter = [grid.x[1, 0] - disc[0], grid.y[1, 100] - disc[1], grid.x[1, 200] - disc[0], grid.y[1, 300] - disc[1]]
    assert np.sign(quarter).tolist() == [-1, -1, 1, 1]  # temporal, superior, nasal, inferior


def test_nerve_fibres_are_thick_around_the_disc_above_and_below() -> None:
    mean = []
    for number in range(6):
        eye = draw_oct((4, number), "R", 1, 248, 360, severity=0, protocol=varied((4, number), "circle"))
        nerve = (eye.layers[1] - eye.layers[0])[0] * eye.spacing_mm[1] * 1000
        mean.append(nerve.mean())
        temporal, superior, inferior = nerve[-20:].mean(), nerve[50:95].mean(), nerve[265:310].mean()
        assert superior > 1.2 * temporal
        assert inferior > 1.2 * temporal
        assert np.abs(eye.layers[:, 0, 0] - eye.layers[:, 0, -1]).max() < 4  # a circle closes
    assert 75 < np.mean(mean) < 135


def test_vessels_shade_the_circle_where_they_cross_it() -> None:
    seed, protocol = (4, 2), replace(PLAIN, pattern="circle", looks=(50.0, 60.0))
    eye = draw_oct(seed, "R", 1, 200, 512, severity=0, protocol=protocol)
    anatomy = grow_anatomy(seed)
    points = np.concatenate([*anatomy.arteries, *anatomy.veins])
    x, y = points[:, 0] - anatomy.disc[0], points[:, 1] - anatomy.disc[1]
    crossing = (np.abs(np.hypot(x, y) - CIRCLE_MM / 2) < 0.04) & (points[:, 2] > 0.035)
    assert crossing.sum() >= 6
    angle = np.arctan2(-y[crossing], -x[crossing]) % (2 * np.pi)
    column = (angle / (2 * np.pi) * 512).astype(int)
    brightness = np.nanmean(np.where(eye.labels == OCT_LABELS["RPE"], eye.volume, np.nan), axis=1)[0]
    assert np.median(brightness[column]) < 0.8 * np.median(brightness)


@pytest.mark.parametrize("pattern", ["raster", "circle"])
def test_any_protocol_keeps_its_promises(pattern: str) -> None:
    for number in range(12):
        seed = (6, number)
        protocol = varied(seed, pattern)  # type: ignore[arg-type]
        eye = draw_oct(seed, "RL"[number % 2], 3, 124, 152, protocol=protocol)  # type: ignore[arg-type]
        assert np.diff(eye.layers, axis=0).min() >= -1e-4
        assert eye.layers.min() > 0
        assert eye.layers[BM].max() < 124
        assert eye.spacing_mm[1] == pytest.approx(protocol.depth_mm / 124)
        for index, name in enumerate(LAYERS[:3]):
            expected = np.ceil(eye.layers[index + 1] - 0.5) - np.ceil(eye.layers[index] - 0.5)
            assert np.abs((eye.labels == OCT_LABELS[name]).sum(axis=1) - expected).max() <= 1


def test_where_the_eye_lies_in_the_picture() -> None:
    seed = (7, 1)
    high, low = (draw_oct(seed, "R", 3, 200, 96, severity=0, protocol=OctProtocol(depth_mm=2.0, top_mm=top)) for top in (0.1, 0.8))
    np.testing.assert_allclose(low.layers - high.layers, 70, atol=1e-3)
    deep = draw_oct(seed, "R", 3, 200, 96, severity=0, protocol=OctProtocol(depth_mm=2.0, top_mm=1.9))
    assert 180 < deep.layers[BM].max() < 200  # never out of the picture
    bowed, straight = (draw_oct(seed, "R", 1, 200, 96, severity=0, protocol=OctProtocol(depth_mm=2.0, bow_mm=bow)) for bow in (0.2, 0.0))
    sag = (bowed.layers[BM] - straight.layers[BM])[0]
    assert (sag[0] + sag[-1]) / 2 - sag[47:49].mean() == pytest.approx(20, abs=0.6)


def test_averaging_leaves_less_speckle_and_subtracted_noise_is_black() -> None:
    def drawn(**settings: object) -> tuple[float, float]:
        eye = draw_oct((8, 1), "R", 1, 200, 256, severity=0, protocol=replace(PLAIN, **settings))  # type: ignore[arg-type]
        nerve = eye.volume[eye.labels == OCT_LABELS["IPL"]].astype(float)
        return float(nerve.std() / nerve.mean()), float((eye.volume[:, :20] == 0).mean())

    rough, no_black = drawn(looks=(4.0, 5.0))
    smooth, black = drawn(looks=(100.0, 120.0), black=2.0)
    assert smooth < 0.75 * rough
    assert no_black < 0.01
    assert black > 0.2


def test_a_set_is_the_same_again_and_is_never_written_over(tmp_path: Path) -> None:
    small = (3, 72, 88)
    counts = write_oct_set(tmp_path / "a", 2, 5, shape=small)
    assert counts == {"patients": 2, "rasters": 4, "circles": 4}
    write_oct_set(tmp_path / "b", 3, 5, shape=small)
    for kind in ("oct", "oct_labels"):
        files = sorted((tmp_path / "a" / "card" / kind).iterdir())
        assert len(files) == 8
        for file in files:  # a patient does not depend on how many others there are
            assert file.read_bytes() == (tmp_path / "b" / "card" / kind / file.name).read_bytes()
    picture, frame = read_nifti(tmp_path / "a" / "card" / "oct" / "P0001_L_V1.nii.gz")
    expected = draw_oct((5, 1, 1), "L", *small, protocol=varied((5, 1, 1), "raster"))
    np.testing.assert_array_equal(picture, expected.volume)
    assert frame.spacing_mm == expected.spacing_mm
    assert read_nifti(tmp_path / "a" / "card" / "oct_labels" / "P0002_R_V1-circle.nii.gz")[0].shape == small
    with pytest.raises(ConfigError, match="already holds OCT phantoms"):
        write_oct_set(tmp_path / "a", 1, 5, shape=small)
    with pytest.raises(ConfigError, match="patients 0"):
        write_oct_set(tmp_path / "c", 0, 5)

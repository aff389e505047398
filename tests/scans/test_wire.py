"""What a worker read is what its parent gets."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pipeline.scans.open import open_scan
from pipeline.scans.record import Opened
from pipeline.scans.wire import line_of, pack, room_for, unpack
from pipeline.types import Scan
from tests.scans.test_nifti_header import by_quaternion, drawn, no_pixdim, uncoded


@pytest.mark.parametrize("change", [lambda header: None, uncoded, by_quaternion, no_pixdim])
def test_a_scan_comes_over_whole(change: object, tmp_path: Path) -> None:
    scan = open_scan(drawn(tmp_path / "a.nii", change))  # type: ignore[arg-type]
    head, pixels = pack(Opened(scan=scan, sha256=scan.sha256, format="nifti"))
    assert pixels is not None
    head = json.loads(line_of(head))
    room = room_for(head)
    assert room is not None
    room[:] = pixels
    again = unpack(head, room, tmp_path / "a.nii").scan
    assert again is not None
    assert np.array_equal(again.pixels, scan.pixels)
    for field in fields(Scan):
        if field.name != "pixels":
            assert getattr(again, field.name) == getattr(scan, field.name), field.name
    assert again.geometry.nifti == scan.geometry.nifti
    assert (again.geometry.affine is None) == (scan.geometry.affine is None)
    if scan.geometry.affine is not None:
        assert np.array_equal(again.geometry.affine, scan.geometry.affine)

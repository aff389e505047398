"""Volumes stored one slice a file, in any order of files: one volume, or pictures that say why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ScanError
from pipeline.scans.catalogue import Catalogue
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.record import Opened
from pipeline.scans.series import arrange, from_text, stack, to_text
from pipeline.scans.wire import pack, unpack
from pipeline.types import SeriesSlice
from tests.scans.make import OPT, dicom, ramp, saved

NAMES = Pseudonyms(b"the key of this site")
TILTED = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def pieces(count: int, step: float = 0.2, **changes: Any) -> list[SeriesSlice]:
    """Slices that lie ``step`` apart along the normal of TILTED."""
    normal = np.cross(TILTED[:3], TILTED[3:])
    return [
        replace(SeriesSlice("s", "uint8 1x6x11", k + 1, tuple(np.array([1.0, 2.0, 3.0]) + k * step * normal), TILTED), **changes)
        for k in range(count)
    ]


def write_series(folder: Path, count: int = 4, patient: str = "P1", eye: str = "R", **tags: Any) -> np.ndarray:
    """Slices whose files' names and numbers run against their positions; the volume in its right order."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = np.stack([ramp(6, 11) + 7 * k for k in range(count)]).astype(np.uint8)
    for k, piece in enumerate(pieces(count)):
        about = {"ImagePositionPatient": list(piece.position or ()), "ImageOrientationPatient": list(TILTED), "PixelSpacing": [0.004, 0.01]}
        about |= {
            "InstanceNumber": count - k,
            "PatientID": patient,
            "ImageLaterality": eye,
            "SeriesInstanceUID": "1.2.3",
            "StudyDate": "20200102",
        }
        made = dicom(
            volume[k], sop_class=OPT, modality="OPT", **{name: value for name, value in (about | tags).items() if value is not None}
        )
        made.StudyInstanceUID = "1.2"
        saved(made, folder / f"{(k * 3) % count}{k}.dcm")
    return volume


def outcomes(root: Path, out: Path) -> list[tuple[str, str, int | None]]:
    index_folder(root, out, pseudonyms=NAMES, workers=0)
    with Catalogue(out) as catalogue:
        return sorted((record.status, record.code, record.slices) for record in catalogue)


def test_slices_are_ordered_by_position_along_their_normal() -> None:
    found = pieces(5)
    order = np.random.default_rng(0).permutation(5)
    arrangement = arrange([replace(found[k], number=1) for k in order])
    assert [int(order[index]) for index in arrangement.order] == [0, 1, 2, 3, 4]
    assert arrangement.step is not None
    assert np.allclose(arrangement.step, 0.2 * np.cross(TILTED[:3], TILTED[3:]))
    assert arrangement.warnings == ()


def test_gaps_and_missing_positions_are_told() -> None:
    gap = arrange([*pieces(3), *pieces(6)[4:]])
    assert (gap.order, gap.step) == ((0, 1, 2, 3, 4), None)
    assert gap.warnings == ("its slices lie 0.2 to 0.4 mm apart, or are shifted: some may be missing",)
    numbered = arrange([replace(piece, number=number, position=None) for piece, number in zip(pieces(3), (7, 2, 4), strict=True)])
    assert (numbered.order, numbered.step) == ((1, 2, 0), None)
    assert "Instance Numbers" in numbered.warnings[0]
    assert numbered.warnings[1].startswith("3 ")


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"kind": "uint8 1x6x12"}, "differ in size"),
        ({"position": (1.0, 2.0, 3.0)}, "at one position"),
        ({"orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}, "not parallel"),
        ({"position": None, "number": 1}, "one Instance Number"),
        ({"position": None, "number": None}, "not every file"),
    ],
)
def test_what_is_no_volume_says_why(odd: dict[str, Any], why: str) -> None:
    with pytest.raises(ScanError, match=why):
        arrange([*pieces(3), replace(pieces(1)[0], **odd)])


def test_the_volume_lies_where_its_slices_lie(tmp_path: Path) -> None:
    volume = write_series(tmp_path / "P1")
    scans = [open_scan(path, pseudonyms=NAMES) for path in sorted((tmp_path / "P1").iterdir())]
    assert all(scan.piece and from_text(to_text(scan.piece)) == scan.piece for scan in scans)
    head, pixels = pack(Opened(scan=scans[0]))
    again = unpack(head, pixels, tmp_path).scan
    assert again is not None
    assert again.piece == scans[0].piece
    made = stack(scans, arrange([scan.piece for scan in scans if scan.piece]))
    assert (made.pixels[0] == volume).all()
    assert made.geometry.spacing_mm == pytest.approx((0.2, 0.004, 0.01))
    assert made.geometry.affine is not None
    for k, piece in enumerate(pieces(4)):
        assert np.allclose(made.geometry.affine @ [0, 0, k, 1], [*(piece.position or ()), 1])
    first = min(scans, key=lambda scan: scan.piece.position[1] if scan.piece and scan.piece.position else 0.0)
    assert (made.case, made.geometry.laterality) == (first.case, "R")


def test_the_catalogue_has_one_image_of_a_series_and_accounts_for_its_files(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "c.sqlite"
    write_series(root / "A")
    write_series(root / "B", eye="L")  # the same UID of another eye is another volume
    write_series(root / "C", patient="P2", ImageOrientationPatient=None, ImagePositionPatient=None, InstanceNumber=5)
    expected = [*[("part", "slice", 1)] * 6, *[("read", "no_volume", 1)] * 4, *[("read", "volume", 4)] * 2]
    for _ in range(2):  # the second time from the catalogue
        assert outcomes(root, out) == expected
    sorted((root / "A").iterdir())[0].unlink()
    found = outcomes(root, out)
    assert {("read", "volume", 4)} < set(found)
    assert len(found) == 11
    with Catalogue(out) as catalogue:
        assert catalogue.groups() == {"patients": 2, "eyes": 3, "visits": 2, "images": 6}

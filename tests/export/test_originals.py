"""The files that cases were made of are found by content: where they were, where they were moved to, and slice by slice in order."""

from __future__ import annotations

import copy
import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.export.originals import find_originals
from pipeline.phantoms.dicom import make_uid, tomography, write_dicom
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import token_of
from tests.export.conftest import VISIT, Site

NAMES = Pseudonyms.unkeyed()


def slices(root: Path) -> list[Path]:
    """A volume of three files, of which names and order have nothing to do with each other."""
    root.mkdir()
    volume = np.random.default_rng(1).integers(0, 255, (3, 24, 32), dtype=np.uint8)
    whole = tomography(volume, VISIT, "R", (0.5, 0.02, 0.03), 4, "explicit")
    out = []
    for at in range(3):
        one = copy.deepcopy(whole)
        one.NumberOfFrames, one.InstanceNumber = 1, at + 1
        one.PerFrameFunctionalGroupsSequence = [whole.PerFrameFunctionalGroupsSequence[at]]
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = make_uid("slice", at)
        one.PixelData = volume[at].tobytes()
        out.append(root / f"{'bca'[at]}.dcm")
        write_dicom(one, out[-1])
    return out


def ledger(out: Path, root: Path, files: list[Path]) -> str:
    """As a prediction enters a volume; returns the volume's hash."""
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    whole = hashlib.sha256("".join(hashes).encode()).hexdigest()
    tokens = [token_of(path, root, NAMES) for path in files]
    rows = [("v", tokens[0], whole, "done", "", "", 1.0)]
    rows += [("v", tokens[at], hashes[at], "part", "slice", f"slice {at + 1} of 3 of a volume", 0.0) for at in (2, 1)]
    with (out / "ledger.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "token", "sha256", "status", "code", "reason", "seconds"), *rows])
    return whole


@pytest.mark.parametrize("names", [NAMES, None])
@pytest.mark.parametrize("moved", [False, True])
def test_slices_are_found_in_order(tmp_path: Path, moved: bool, names: Pseudonyms | None) -> None:
    root = tmp_path / "scans"
    files = slices(root)
    whole = ledger(tmp_path, root, files)
    if moved:
        (root / "elsewhere").mkdir()
        files = [path.rename(root / "elsewhere" / f"{number}.dcm") for number, path in zip((7, 9, 8), files, strict=True)]
    found = find_originals(tmp_path, {"v": whole}, root, names)
    assert list(found.files["v"]) == files
    assert [header.InstanceNumber for header in found.headers("v")] == [1, 2, 3]
    assert "PixelData" not in found.headers("v")[0]
    files[1].unlink()
    assert find_originals(tmp_path, {"v": whole}, root, names).headers("v") == ()


def test_a_file_of_the_same_name_with_other_content_is_not_the_original(site: Site, tmp_path: Path) -> None:
    (tmp_path / "colour.dcm").write_bytes(site.files["grey"].read_bytes())
    sha256 = hashlib.sha256(site.files["colour"].read_bytes()).hexdigest()
    assert find_originals(site.predictions, {site.cases["colour"]: sha256}, tmp_path, NAMES).files == {}

"""A phantom hospital's raw tree (DICOM in several transfer syntaxes, NIfTI, PNG, broken files) through a real, untrained bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.inference.folder import predict_folder
from pipeline.phantoms.hospital import write_hospital
from pipeline.scans.folder import FileRecord, index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from tests.inference.test_killed import tiny_bundle

KEY = Pseudonyms(b"a site key for tests")


@pytest.mark.slow
def test_every_file_of_a_hospital_ends_in_the_ledger_and_every_mask_where_its_scan_lies(tmp_path: Path) -> None:
    made = write_hospital(tmp_path / "hospital", 2, 1, broken=True)
    scans, out = tmp_path / "hospital" / "scans", tmp_path / "out"
    found = predict_folder(tiny_bundle(tmp_path / "bundle"), scans, out, device="cpu", pseudonyms=KEY)
    assert found == {
        "done": made["photographs"] + made["red_free"],
        "rejected": made["volumes"] + made["broken"] - 1,
        "failed": 0,
        "duplicate": made["duplicates"],
        "not_an_image": 1,
        "with_warnings": 0,
        "part": 0,
        "not_followed": 0,
    }
    with (out / "ledger.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["code"] for row in rows if row["status"] == "duplicate") == ["same_content", "same_instance"]
    assert sum(row["code"] == "wrong_modality" for row in rows) == made["volumes"]

    # Catalogue and ledger speak of the same files by the same names.
    catalogue: dict[str, tuple[Path, FileRecord]] = {}

    def note(path: Path, record: FileRecord) -> None:
        catalogue[record.token] = path, record

    index_folder(scans, tmp_path / "catalogue", pseudonyms=KEY, workers=0, on_file=note)
    assert {row["token"] for row in rows} == catalogue.keys()
    for row in rows:
        path, record = catalogue[row["token"]]
        assert row["sha256"] == (record.sha256 or "")
        if row["status"] != "done":
            continue
        assert row["case"] == record.case
        scan = open_scan(path, pseudonyms=KEY, root=scans)
        case = out / "cases" / row["case"]
        mask = open_scan(case / "mask.nii.gz")
        assert mask.geometry == scan.geometry
        for one, other in ((mask.geometry.affine, scan.geometry.affine),):
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one, other)
        assert mask.pixels.shape[1:] == scan.pixels.shape[1:]
        about = json.loads((case / "case.json").read_text())
        # A photograph without tags is taken for one because it is in colour.
        assert (about["modality"], about["modality_source"]) in {(scan.modality, "tag"), ("fundus", "picture")}
        assert scan.modality in ("unknown", about["modality"])
        assert about["geometry"]["laterality"] == scan.geometry.laterality

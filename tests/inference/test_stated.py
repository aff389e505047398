"""What the user says of scans whose files do not say it: it counts where they are silent, and only there; a run goes on with the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.inference.folder import predict_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.scans.stated import fill as fill_by
from pipeline.scans.stated import stated
from pipeline.types import Scan
from pipeline.types.stated import Stated
from tests.inference.conftest import picture
from tests.inference.test_laterality import scan
from tests.scans.test_spacing import round_photograph


def fill(scan: Scan, said: Stated) -> Scan:
    return fill_by(said, Pseudonyms.unkeyed(), scan, None)


def test_the_users_word_counts_where_the_file_is_silent_and_a_conflict_is_told() -> None:
    silent = Scan(scan(None).pixels, scan(None).geometry, "unknown", scan(None).case, "0" * 64)
    told = fill(silent, stated("slo"))
    assert (told.modality, told.modality_source, told.warnings) == ("slo", "user", ())
    kept = fill(scan(None), stated("oct"))
    assert (kept.modality, kept.modality_source) == ("fundus", "tag")
    assert kept.warnings == ("the file says that it is fundus, the user oct: the file's word counts",)
    assert fill(silent, stated()) is silent


def test_no_such_modality() -> None:
    with pytest.raises(ConfigError, match="modality 'mri': must be one of fundus, oct, octa, slo"):
        stated("mri")


def test_a_grey_picture_needs_a_word_and_a_run_keeps_to_it(tmp_path: Path, bundle: Bundle) -> None:
    """Without one the warning stays; with one there is none, and going on with another word is refused."""
    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "a_OD.png", picture(1)[..., 1])

    def run(out: str, modality: str | None) -> dict[str, object]:
        predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / out, device="cpu", stated=stated(modality))
        (case,) = (tmp_path / out / "cases").iterdir()
        record: dict[str, object] = json.loads((case / "case.json").read_text())
        return record

    assert "the scan is of unknown modality, the bundle was trained on fundus" in str(run("plain", None)["warnings"])
    said = run("said", "fundus")
    assert (said["modality"], said["modality_source"], "modality" in str(said["warnings"])) == ("fundus", "user", False)
    with pytest.raises(ConfigError, match=r"begun with --modality fundus, not with --modality slo, .*give a new folder"):
        run("said", "slo")
    with pytest.raises(ConfigError, match="begun with nothing stated of its scans, not with --modality slo"):
        run("plain", "slo")


def test_a_colour_picture_that_is_taken_for_a_photograph_gets_the_scale_of_one(tmp_path: Path, bundle: Bundle) -> None:
    """The kind is known only where the models are: an estimate, and a user's value, wait for it."""
    write_png(tmp_path / "a_OD.png", round_photograph())

    def geometry(**said: Any) -> dict[str, Any]:
        out = tmp_path / f"out_{'_'.join(said)}"
        predict_folder(tmp_path / "bundle", tmp_path / "a_OD.png", out, device="cpu", stated=stated(**said))
        (case,) = (out / "cases").iterdir()
        found: dict[str, Any] = json.loads((case / "case.json").read_text())["geometry"]
        return found

    estimated = geometry(field_angle=45.0)
    assert (estimated["spacing_source"], estimated["spacing_mm"][0]) == ("estimated", pytest.approx(0.13, rel=0.03))
    assert geometry(pixel_mm="0.0072")["spacing_mm"] == [0.0072, 0.0072]

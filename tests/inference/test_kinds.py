"""Which kind of scan a picture shows: a kind that nobody stated is taken from it, a conflict is flagged, what is no retina is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError, ConfigError, ScanError
from pipeline.inference.answers import Answer
from pipeline.inference.folder import predict_folder
from pipeline.inference.kinds import tells_kind, with_kind
from pipeline.inference.looking import Look
from pipeline.inference.segment import segment
from pipeline.scans.catalogue import Catalogue
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.scans.stated import stated
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan
from pipeline.types.case_record import CaseRecord
from tests.inference.conftest import VESSEL, make_bundle, picture
from tests.tasks.test_classification import EYES
from tests.tasks.test_classification import task as halves

KINDS = LabelMap(tuple(LabelClass(n, name, (n, n, n)) for n, name in enumerate(("fundus", "oct", "octa", "other"), 1)))
FUNDUS_OR_NOT = KINDS.only(["fundus", "other"])
LEAST = {"fundus": 0.6, "other": 0.6}


def answer(name: str, chance: float = 0.9) -> Answer:
    chances = np.full(4, (1 - chance) / 3, np.float32)
    chances[KINDS.names.index(name)] = chance
    return Answer("kind", KINDS, chances, (0.7,) * 4, "b")


def scan(modality: Any, source: Any = "tag") -> Scan:
    geometry = Geometry((4, 6))
    return Scan(np.zeros((3, 4, 6), np.uint8), geometry, modality, CaseKey("p", "U", "1", "i"), "0" * 64, modality_source=source)


def kinds(path: Path, **changes: Any) -> Bundle:
    """Bright on the left: a photograph; on the right: something else."""
    task = halves()
    task.temperature.fill_(0.3)
    made = {"id": "kinds0000000", "label_map": FUNDUS_OR_NOT, "task": task, "thresholds": LEAST, "modality": "unknown"}
    return make_bundle(path, **(made | changes))


def bright(side: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """On one side, or on none."""
    pixels = picture(7, 64, 80) // 8
    left, right = slice(None, 40), slice(40, None)
    if side:
        pixels[:, left if side == "left" else right] += 200
    return pixels


def test_a_kind_that_nobody_stated_is_the_one_found_in_the_picture() -> None:
    found = with_kind(scan("unknown"), answer("octa"))
    assert (found.modality, found.modality_source, found.doubts) == ("octa", "picture", ())
    unsure = scan("unknown")
    assert with_kind(unsure, answer("octa", 0.79)) is unsure, "whatever validation says"


def test_a_conflict_is_flagged_and_what_is_stated_stays() -> None:
    found = with_kind(scan("oct", "user"), answer("fundus"))
    assert (found.modality, found.modality_source) == ("oct", "user")
    assert found.doubts == (
        (
            "kind_conflict",
            "the picture looks like a fundus photograph (kind, probability 0.90), but the user says an OCT scan; look which it is",
        ),
    )
    assert "looks like no retinal picture" in with_kind(scan("fundus"), answer("other")).told
    assert with_kind(scan("slo"), answer("fundus")).doubts == (), "a kind that the network never saw"


def test_what_is_no_retinal_picture_is_refused_with_what_to_do() -> None:
    with pytest.raises(ScanError, match=r"not a retinal picture \(kind, probability 0.90\); .*--modality"):
        with_kind(scan("unknown"), answer("other"))


def test_a_bundle_tells_kinds_if_its_classes_are_kinds(tmp_path: Path) -> None:
    assert tells_kind(kinds(tmp_path))
    assert not tells_kind(make_bundle(tmp_path, label_map=FUNDUS_OR_NOT)), "these are classes of pixels"
    eyes = KINDS.only(["fundus", "other"]).renamed({"fundus": "right"})
    assert not tells_kind(kinds(tmp_path, label_map=eyes, thresholds={}))


def test_a_folder_is_looked_at_before_the_others_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scans").mkdir()
    for name, side in {"photograph": "left", "landscape": "right", "dark": ""}.items():
        write_png(tmp_path / "scans" / f"{name}_OD.png", bright(side))
    known = {tmp_path / "v": make_bundle(tmp_path / "v", label_map=VESSEL), tmp_path / "k": kinds(tmp_path / "k")}
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path: known[path])

    def run(out: str, **options: Any) -> tuple[dict[str, int], list[CaseRecord]]:
        counts = predict_folder([*known], tmp_path / "scans", tmp_path / out, device="cpu", **options)
        return counts, [CaseRecord.read(folder) for folder in sorted((tmp_path / out / "cases").iterdir())]

    counts, records = run("out")
    assert (counts["done"], counts["rejected"]) == (2, 1)
    assert 'not_retinal,"it is not a retinal picture (tiny, probability' in (tmp_path / "out" / "ledger.csv").read_text()
    assert {(one.modality, one.modality_source) for one in records} == {("fundus", "picture")}, "the dark one for its colours"
    assert sorted(str(one.answers[0].answer) for one in records) == ["None", "fundus"]
    assert all(one.answers[0].attention for one in records)
    assert {one.bundle_id for one in records} == {"0123456789ab+kinds0000000"}
    assert all(one.classes["vessel"].bundle_id == "0123456789ab" for one in records)
    assert not [flag for one in records for flag in one.flags if flag.code == "kind_conflict"]
    assert run("out")[0] == counts

    counts, records = run("said", stated=stated("fundus"))
    assert (counts["done"], counts["rejected"]) == (3, 0)
    (flagged,) = [one for one in records if "kind_conflict" in {flag.code for flag in one.flags}]
    assert flagged.needs_eyes
    assert json.loads((tmp_path / "said" / "run.json").read_text())["answers"]


def test_a_catalogue_holds_kind_and_side_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scans").mkdir()
    for name, side in {"photograph": "left", "landscape": "right", "dark_OS": ""}.items():
        write_png(tmp_path / "scans" / f"{name}.png", bright(side))
    sides = LabelMap(tuple(replace(c, role=r) for c, r in zip(EYES.classes, ("right_eye", "left_eye"), strict=True)))  # type: ignore[arg-type]
    eyes = kinds(tmp_path / "e", id="eyes00000000", label_map=sides, thresholds=dict.fromkeys(sides.names, 0.6), modality="fundus")
    known = {tmp_path / "e": eyes, tmp_path / "k": kinds(tmp_path / "k"), tmp_path / "v": make_bundle(tmp_path / "v")}
    monkeypatch.setattr("pipeline.inference.looking.open_bundle", lambda path: known[path])
    look, out = Look([tmp_path / "e", tmp_path / "k"]), tmp_path / "c.sqlite"
    assert look.id == "kinds0000000+eyes00000000"

    def index(models: str, **options: Any) -> tuple[int, list[tuple[Any, ...]]]:
        counts = index_folder(tmp_path / "scans", out, pseudonyms=Pseudonyms.unkeyed(), workers=0, models=models, **options)
        with Catalogue(out, models) as catalogue:
            rows = [(r.status, r.code, r.modality, r.modality_source, r.laterality, r.laterality_source) for r in catalogue]
        return counts.unchanged, rows

    plain = index("")
    seen = [
        ("read", "", "unknown", None, "L", "filename"),
        ("rejected", "not_retinal", None, None, None, None),
        ("read", "", "fundus", "picture", "R", "picture"),
    ]
    assert plain[1][0] == seen[0]
    assert index(look.id, look=look) == (0, seen), "what nobody looked at is looked at"
    assert index(look.id, look=look) == (3, seen)
    assert index("") == plain
    with pytest.raises(ConfigError, match="--with: tiny marks a scan's pixels or objects; name models of whole pictures"):
        Look([tmp_path / "v"])


def test_a_bundle_that_cannot_tell_ends_the_run_and_no_file_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Any:
        raise BundleError("its weights do not fit its network")

    (tmp_path / "scans").mkdir()
    write_png(tmp_path / "scans" / "a_OD.png", picture(1))
    known = {tmp_path / "v": make_bundle(tmp_path / "v"), tmp_path / "k": kinds(tmp_path / "k", build=build)}
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path: known[path])
    with pytest.raises(BundleError, match="do not fit"):
        predict_folder([*known], tmp_path / "scans", tmp_path / "out", device="cpu")
    assert len((tmp_path / "out" / "ledger.csv").read_text().splitlines()) == 1


def test_of_a_volume_the_middle_slice_is_looked_at_and_its_mask_stays_whole(tmp_path: Path) -> None:
    volume = np.stack([bright(side)[..., 0] for side in ("right", "left", "right")])
    found = segment(volume, [make_bundle(tmp_path, modality="oct", input_channels=1), kinds(tmp_path)], modality="oct")
    assert found.masks is not None
    assert found.masks.shape == (1, *volume.shape)
    assert found.answers == {"tiny": "fundus"}

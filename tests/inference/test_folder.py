"""A hospital folder through a bundle whose answer is known: what is written, what is refused, what is said."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.inference import writing
from pipeline.inference.folder import predict_folder
from pipeline.inference.journal import Journal
from pipeline.memory import Limits
from pipeline.scans import workers
from pipeline.scans.catalogue import Catalogue
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.scans.raster import read_image, write_png
from pipeline.scans.record import token_of
from pipeline.types import Geometry
from tests.inference.conftest import DISC_CUP, BrightTask, make_bundle, picture, write_folder
from tests.scans.make import dicom, saved
from tests.scans.test_nifti_header import drawn, uncoded

KEY = Pseudonyms(b"a site key for tests")


def run(tmp_path: Path, out: str = "out", **options: object) -> dict[str, int]:
    return predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / out, device="cpu", pseudonyms=KEY, **options)  # type: ignore[arg-type]


def ledger(out: Path) -> list[dict[str, str]]:
    with (out / "ledger.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def counts(**given: int) -> dict[str, int]:
    return dict.fromkeys(("done", "part", "failed", "duplicate", "not_an_image", "not_followed", "rejected", "with_warnings"), 0) | given


def test_every_file_of_a_case(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_folder(tmp_path / "scans", 1)
    assert run(tmp_path) == counts(done=1)
    (row,) = ledger(tmp_path / "out")
    scan = open_scan(path, pseudonyms=KEY, root=tmp_path / "scans")
    assert (row["case"], row["status"], row["sha256"], row["code"], row["reason"]) == (str(scan.case), "done", scan.sha256, "", "")
    assert row["token"] == token_of(path, tmp_path / "scans", KEY)
    case = tmp_path / "out" / "cases" / row["case"]
    assert sorted(p.name for p in case.iterdir()) == ["case.json", "image_000.png", "mask.nii.gz", "mask_000.png", "uncertainty_000.png"]
    stored = read_image(path)
    expected = (stored[..., 2] / np.float32(255) >= 0.5).astype(np.uint8)
    assert (read_image(case / "image_000.png") == stored).all()
    assert (read_image(case / "mask_000.png") == expected).all()
    record = json.loads((case / "case.json").read_text())
    assert record["case"] == row["case"]
    assert record["classes"] == {"vessel": {"pixels": int(expected.sum()), "slices": 1}}
    assert record["planes"] == [{"index": 0, "image": "image_000.png", "mask": "mask_000.png"}]
    assert record["geometry"] == {
        "shape": [24, 37],
        "spacing_mm": None,
        "spacing_source": "unknown",
        "laterality": "R",
        "laterality_source": "filename",
        "spacing_error": None,
        "spacing_note": "",
    }
    assert (record["modality"], record["modality_source"], record["warnings"]) == ("fundus", "picture", [])
    assert (record["sha256"], record["bundle_id"]) == (scan.sha256, bundle.id)
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (about["bundle_id"], about["bundle_name"], about["thresholds"]) == (bundle.id, "tiny", {"vessel": 0.5})
    assert about["classes"] == bundle.label_map.to_json()


def test_the_mask_lies_exactly_where_the_scan_lies(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilted volume of unequal sides: array and geometry, affine included, survive the way through the network and the disk."""
    volume = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1, label_map=DISC_CUP)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": volume)
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, size=(4, 18, 29), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 255
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0.011, 0.0, 0.002], [0.0, 0.0, -0.24], [0.0, 0.0039, 0.0]])
    affine[:3, 3] = [-2.5, 3.25, 0.125]
    column, row, between = (float(np.linalg.norm(affine[:3, axis])) for axis in range(3))
    geometry = Geometry((4, 18, 29), (between, row, column), "tag", affine, "L", "tag")
    path = tmp_path / "scans" / "P1" / "V1" / "cube.nii.gz"
    path.parent.mkdir(parents=True)
    write_nifti(path, pixels, geometry)
    assert run(tmp_path, probabilities=True) == counts(done=1)
    (folder,) = (tmp_path / "out" / "cases").iterdir()
    scan, mask = open_scan(path), open_scan(folder / "mask.nii.gz")
    assert mask.geometry == scan.geometry
    assert scan.geometry.affine is not None
    assert np.array_equal(mask.geometry.affine, scan.geometry.affine)
    disc = pixels / np.float32(255) >= 0.5
    cup = pixels / np.float32(255) / 2 >= 0.5
    assert (mask.pixels[0] == disc + 2 * cup).all()
    for index in range(4):
        assert (read_image(folder / f"mask_{index:03d}.png") == mask.pixels[0, index]).all()
        assert (read_image(folder / f"image_{index:03d}.png") == pixels[index]).all()
    record = json.loads((folder / "case.json").read_text())
    assert record["classes"]["disc"] == {"pixels": int(disc.sum()), "slices": 4}
    kept = np.load(folder / "probabilities.npz")
    assert kept["disc"].shape == (4, 18, 29)
    assert np.allclose(kept["disc"], pixels / 255, atol=1e-3)


def test_a_mask_has_the_header_of_a_nifti_scan_without_codes(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": volume)
    (tmp_path / "scans" / "P1").mkdir(parents=True)
    source = drawn(tmp_path / "scans" / "P1" / "bare.nii", uncoded)
    assert run(tmp_path) == counts(done=1)
    (mask,) = (tmp_path / "out" / "cases").glob("*/mask.nii.gz")
    before, after = nibabel.load(source), nibabel.load(mask)
    assert np.array_equal(before.affine, after.affine)
    for name in ("pixdim", "xyzt_units", "qform_code", "sform_code", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(before.header[name], after.header[name]), name


def test_sixteen_bits_are_shown_in_eight(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 1)
    ramp = np.linspace(500, 3500, 24 * 37).reshape(24, 37).astype(np.uint16)
    write_png(tmp_path / "scans" / "P0000" / "V1" / "deep.png", ramp)
    assert run(tmp_path) == counts(done=2)
    shown = [read_image(p) for p in (tmp_path / "out" / "cases").glob("*/image_000.png")]
    (grey,) = [image for image in shown if image.ndim == 2]
    assert grey.dtype == np.uint8
    assert (np.diff(grey.ravel().astype(int)) >= 0).all()
    assert (grey.min(), grey.max()) == (0, 255)


def test_bad_files_are_recorded_and_do_not_stop_the_run(tmp_path: Path, bundle: Bundle) -> None:
    good = write_folder(tmp_path / "scans", 2)
    folder = good[0].parent
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(good[0].read_bytes()[:300])
    (folder / "notes.txt").write_text("Dear colleague")
    shutil.copy(good[1], folder / "zz_copy.png")
    write_nifti(folder / "stack.nii.gz", np.zeros((3, 4, 5), np.uint8), Geometry((3, 4, 5)))
    assert run(tmp_path, workers=3) == counts(done=2, rejected=3, duplicate=1, not_an_image=1)
    rows = {row["token"]: row for row in ledger(tmp_path / "out")}
    assert len(rows) == 7

    def of(path: Path) -> dict[str, str]:
        return rows[token_of(path, tmp_path / "scans", KEY)]

    assert (of(folder / "empty.png")["status"], of(folder / "empty.png")["code"]) == ("rejected", "empty")
    assert of(folder / "half.png")["status"] == "rejected"
    assert of(folder / "half.png")["reason"]
    assert (of(folder / "notes.txt")["status"], of(folder / "notes.txt")["code"]) == ("not_an_image", "not_an_image")
    assert of(folder / "stack.nii.gz")["code"] == "wrong_modality"
    assert "3 slices" in of(folder / "stack.nii.gz")["reason"]
    # Of two equal files the one whose case has the smaller name is the original, whichever is met first or finished first.
    original, copy = sorted((of(folder / "zz_copy.png"), of(good[1])), key=lambda row: row["case"])
    assert (original["status"], copy["status"]) == ("done", "duplicate")
    assert copy["reason"] == f"the same file as {original['case']}"


def test_one_picture_under_the_names_of_both_eyes_is_doubted(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "scans" / "p"
    folder.mkdir(parents=True)
    write_png(folder / "a_OD.png", picture(1))
    shutil.copy(folder / "a_OD.png", folder / "b_OS.png")
    for _ in range(2):
        assert run(tmp_path) == counts(done=1, duplicate=1)
        (first,) = (row for row in ledger(tmp_path / "out") if row["status"] == "done")
        (second,) = (row for row in ledger(tmp_path / "out") if row["status"] == "duplicate")
        assert second["reason"] == f"the same file as {first['case']}, there under the name of the other eye; look which eye it is"
        flags = json.loads((tmp_path / "out" / "cases" / first["case"] / "case.json").read_text())["flags"]
        assert [flag["code"] for flag in flags].count("side_conflict") == 1
    with (tmp_path / "out" / "measurements.csv").open(newline="", encoding="utf-8") as file:
        assert "side_conflict" in next(csv.DictReader(file))["flags"]
    index_folder(tmp_path / "scans", tmp_path / "catalogue", pseudonyms=KEY, workers=0)
    with Catalogue(tmp_path / "catalogue") as catalogue:
        said = [record.reason.endswith("there under the name of the other eye; look which eye it is") for record in catalogue]
        assert sorted(said) == [False, True]


def test_no_name_and_no_path_is_written(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 2)
    secret = tmp_path / "scans" / "Mustermann_Erika" / "V1"
    secret.mkdir(parents=True)
    write_png(secret / "a.png", picture(7))
    (secret / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    run(tmp_path)
    for path in (tmp_path / "out").rglob("*"):
        assert "Mustermann" not in path.name
        if path.is_file():
            content = path.read_bytes()
            assert b"Mustermann" not in content
            assert os.fsencode(tmp_path) not in content


def test_one_failing_case_is_tried_again_next_time(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_folder(tmp_path / "scans", 3)
    bad = str(open_scan(paths[1], pseudonyms=KEY, root=tmp_path / "scans").case)
    predict = BrightTask.predict

    def stumble(self: BrightTask, batch):  # type: ignore[no-untyped-def]
        if str(batch.cases[0]) == bad:
            raise RuntimeError("/home/somebody/secret.dcm")
        return predict(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(BrightTask, "predict", stumble)
        assert run(tmp_path) == counts(done=2, failed=1)
    (row,) = [row for row in ledger(tmp_path / "out") if row["status"] == "failed"]
    assert (row["case"], row["code"]) == (bad, "error")
    assert "RuntimeError" in row["reason"]
    assert "secret" not in row["reason"]
    assert run(tmp_path) == counts(done=3)
    assert len(ledger(tmp_path / "out")) == 3


def test_a_full_disk_fails_the_case_not_the_run(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "scans", 3)
    write, calls = writing.write_case, []

    def full(*arguments: object) -> str:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_case", full)
        assert run(tmp_path) == counts(done=2, failed=1)
    (row,) = [row for row in ledger(tmp_path / "out") if row["status"] == "failed"]
    assert (row["code"], "No space left on device" in row["reason"]) == ("disk", True)
    assert run(tmp_path) == counts(done=3)


def test_what_equals_a_file_that_failed_gets_the_result(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case may fail as late as in a writer."""
    (path,) = write_folder(tmp_path / "scans", 1)
    shutil.copy(path, path.with_name("zz_copy.png"))
    write, calls = writing.write_case, []

    def full(*arguments: object) -> str:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write_case", full)
    assert run(tmp_path) == counts(done=1, failed=1)
    assert run(tmp_path) == counts(done=1, duplicate=1)
    assert len(calls) == 2


@pytest.mark.parametrize("gone", ["failed", "removed"])
def test_a_duplicate_whose_original_has_no_result_any_more_is_looked_at_again(tmp_path: Path, bundle: Bundle, gone: str) -> None:
    """Folders that were begun before a case that fails had no duplicates; and results that somebody removed, with their file."""
    (path,) = write_folder(tmp_path / "scans", 1)
    shutil.copy(path, path.with_name("zz_copy.png"))
    assert run(tmp_path) == counts(done=1, duplicate=1)
    tokens = {token_of(one, tmp_path / "scans", KEY): one for one in (path, path.with_name("zz_copy.png"))}
    (original,) = (row["token"] for row in ledger(tmp_path / "out") if row["status"] == "done")
    tokens.pop(original).unlink()
    assert run(tmp_path) == counts(done=1, duplicate=1)
    (case,) = (tmp_path / "out" / "cases").iterdir()
    shutil.rmtree(case)
    if gone == "failed":
        with closing(Journal(tmp_path / "out" / "journal.sqlite", KEY)) as journal:
            journal.record(*(replace(entry, status="failed") for entry in journal if entry.status == "done"))
    run(tmp_path)
    rows = {row["token"]: row for row in ledger(tmp_path / "out")}
    assert rows[tokens.popitem()[0]]["status"] == "done"


class Stopped(ThreadPoolExecutor):
    """Writers' threads; whoever waits for the second case is interrupted once."""

    submitted = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        future = super().submit(*arguments, **options)
        self.submitted += 1
        if self.submitted == 2:
            result, interrupts = future.result, iter([KeyboardInterrupt])
            future.done = lambda: False  # type: ignore[method-assign]

            def waited() -> Any:
                for interrupt in interrupts:
                    raise interrupt
                return result()

            future.result = waited  # type: ignore[method-assign,assignment]
        return future


def test_interrupted_while_it_waits_for_a_writer_it_enters_every_finished_case(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "scans", 4)
    monkeypatch.setattr(writing, "ThreadPoolExecutor", Stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, workers=1)
    cases = {path.name for path in (tmp_path / "out" / "cases").iterdir()}
    assert len(cases) >= 2
    assert {row["case"] for row in ledger(tmp_path / "out")} == cases


def test_a_second_call_looks_at_nothing_twice(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 3)
    run(tmp_path)
    task = bundle.task
    assert isinstance(task, BrightTask)
    assert len(task.seen) == 3
    before = (tmp_path / "out" / "ledger.csv").read_bytes()
    assert run(tmp_path) == counts(done=3)
    assert len(task.seen) == 3
    assert (tmp_path / "out" / "ledger.csv").read_bytes() == before
    write_png(tmp_path / "scans" / "P0001" / "V1" / "new.png", picture(50))
    assert run(tmp_path) == counts(done=4)
    assert len(task.seen) == 4


def test_a_touched_file_is_the_same_case(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_folder(tmp_path / "scans", 1)
    run(tmp_path)
    os.utime(path, ns=(1, 1))
    assert run(tmp_path) == counts(done=1)
    assert len(ledger(tmp_path / "out")) == 1


def test_a_changed_file_gets_a_result_of_its_own_and_the_old_one_stays(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_folder(tmp_path / "scans", 1)
    run(tmp_path)
    (old,) = (tmp_path / "out" / "cases").iterdir()
    before = (old / "mask_000.png").read_bytes()
    write_png(path, picture(99))
    assert run(tmp_path) == counts(done=2)
    new = [p for p in (tmp_path / "out" / "cases").iterdir() if p != old]
    assert [p.name[:-13] for p in new] == [old.name]
    assert (old / "mask_000.png").read_bytes() == before
    assert {row["case"] for row in ledger(tmp_path / "out")} == {old.name, new[0].name}
    assert run(tmp_path) == counts(done=2)


def test_a_repaired_file_replaces_its_rejection(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_folder(tmp_path / "scans", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert run(tmp_path) == counts(rejected=1)
    path.write_bytes(whole)
    assert run(tmp_path) == counts(done=1)
    assert len(ledger(tmp_path / "out")) == 1


def test_a_removed_result_is_made_again(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 2)
    run(tmp_path)
    first = sorted((tmp_path / "out" / "cases").iterdir())[0]
    shutil.rmtree(first)
    assert run(tmp_path) == counts(done=2)
    assert first.is_dir()


def test_another_bundle_is_refused(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "scans", 1)
    run(tmp_path)
    other = make_bundle(tmp_path / "bundle", id="ffffffffffff")
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": other)
    with pytest.raises(ConfigError, match="results of bundle 0123456789ab, not of ffffffffffff"):
        run(tmp_path)


def test_another_site_key_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 1)
    run(tmp_path)
    with pytest.raises(ConfigError, match="another site key"):
        predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / "out", device="cpu", pseudonyms=Pseudonyms(b"another site key"))


def test_results_and_scans_do_not_mix(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 1)
    for out in (tmp_path / "scans" / "out", tmp_path / "scans", tmp_path):
        with pytest.raises(ConfigError, match="inside"):
            predict_folder(tmp_path / "bundle", tmp_path / "scans", out, device="cpu", pseudonyms=KEY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        run(tmp_path)


def test_progress_counts_every_file(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 3)
    (tmp_path / "scans" / "x.txt").write_text("x")
    told: list[tuple[int, int | None]] = []
    run(tmp_path, progress=lambda done, total=None, note="": told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_interrupted_by_hand_the_ledger_is_there(tmp_path: Path, bundle: Bundle) -> None:
    write_folder(tmp_path / "scans", 6)

    def stop(done: int, total: int | None = None, note: str = "") -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=stop)
    rows = ledger(tmp_path / "out")
    assert 2 <= len(rows) < 6
    assert {row["case"] for row in rows} == {p.name for p in (tmp_path / "out" / "cases").iterdir()}
    assert run(tmp_path) == counts(done=6)


STAND_IN = """
import os, time
from pipeline.scans import worker
real = worker.open_file
def open_file(path, *rest):
    if "crash" in path.name:
        os.abort()
    if "hang" in path.name:
        time.sleep(600)
    if "huge" in path.name:
        held = [bytes(1 << 20) for _ in range(1 << 14)]
    return real(path, *rest)
worker.open_file = open_file
worker.main()
"""


def test_a_decoder_that_crashes_hangs_or_takes_all_memory_costs_one_file_from_the_first_on(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for index, name in enumerate(["a crash", "b hang", "c huge", "d", "e"]):
        write_png(folder / f"{name}.png", picture(index))
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    limits = Limits.chosen(memory=2 << 30, time_s=8)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_COMMAND", [sys.executable, str(tmp_path / "stand_in.py")])
        assert run(tmp_path, limits=limits) == counts(done=2, rejected=3)
    assert sorted(row["code"] for row in ledger(tmp_path / "out")) == ["", "", "crashed", "timeout", "too_large"]
    # Such an end may have been by chance, so each is tried again, and what was done stays.
    assert run(tmp_path, limits=limits) == counts(done=5)


@pytest.mark.parametrize("option", ["probabilities", "doubt"])
def test_a_folder_begun_without_an_option_goes_on_without_it(tmp_path: Path, bundle: Bundle, option: str) -> None:
    write_folder(tmp_path / "scans", 1)
    run(tmp_path)
    with pytest.raises(ConfigError, match=f"was begun without --{option}"):
        run(tmp_path, **{option: True})
    assert run(tmp_path) == counts(done=1)


def test_a_full_disk_is_told_as_the_journal_tells_it(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "scans", 1)

    def refuse(self: Journal, entry: object) -> None:
        raise ConfigError("the journal is full")

    def full(self: Journal, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "record", refuse)
    monkeypatch.setattr(Journal, "export", full)
    with pytest.raises(ConfigError, match="the journal is full"):
        run(tmp_path)


def test_a_picture_in_which_nothing_can_be_seen_is_not_done_without_a_word(tmp_path: Path, bundle: Bundle) -> None:
    seen, blank = write_folder(tmp_path / "scans", 2)
    write_png(blank, np.full((24, 37, 3), (90, 20, 7), np.uint8))
    for _ in range(2):  # the second call finds everything done
        assert run(tmp_path) == counts(done=2, with_warnings=1)
        reasons = {row["token"]: row["reason"] for row in ledger(tmp_path / "out")}
        assert reasons[token_of(seen, tmp_path / "scans", KEY)] == ""
        assert reasons[token_of(blank, tmp_path / "scans", KEY)] == "the image has one value everywhere"
    (case,) = [row["case"] for row in ledger(tmp_path / "out") if row["reason"]]
    record = json.loads((tmp_path / "out" / "cases" / case / "case.json").read_text())
    assert record["warnings"][0] == "the image has one value everywhere"


def test_folders_that_were_taken_for_no_patients_are_counted_and_not_named(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As `index` says it; where a tag names the patient no folder is taken for anything."""
    root, names = tmp_path / "in", KEY
    for number, place in enumerate(("OD/Meier/a.png", "OD/Huber/a.png", "2024-03-01/Meier/b.png", "Images/Meier_Eva.png", "Meier/v/c.png")):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / place, picture(number))
    saved(dicom(picture(9), PatientID="4711"), root / "OD" / "Meier" / "d.dcm")
    caplog.set_level(logging.INFO, "pipeline")
    index_folder(root, tmp_path / "c.sqlite", pseudonyms=names, workers=0)
    for _ in range(2):  # the second call finds everything done
        predict_folder(bundle.path, root, tmp_path / "out", device="cpu", pseudonyms=names, workers=1)
    said = [record.getMessage() for record in caplog.records if "not taken as a patient's" in record.getMessage()]
    assert len(said) == 3
    assert set(said) == {
        "folder names above images without a Patient ID were not taken as a patient's, because they read as: "
        "a date or visit (1 images), a kind of image (1 images), an eye (2 images)"
    }
    caplog.clear()
    index_folder(root / "Meier", tmp_path / "d.sqlite", pseudonyms=names, workers=0)
    assert "taken for" not in caplog.text


def test_photographs_of_one_size_go_together_and_one_that_fails_does_so_alone(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_folder(tmp_path / "scans", 6)
    assert run(tmp_path, "alone") == counts(done=6)
    bad = str(open_scan(paths[1], pseudonyms=KEY, root=tmp_path / "scans").case)
    predict, sizes = BrightTask.predict, []

    def stumble(self: BrightTask, batch):  # type: ignore[no-untyped-def]
        sizes.append(len(batch))
        if bad in map(str, batch.cases):
            raise RuntimeError
        return predict(self, batch)

    monkeypatch.setattr("pipeline.inference.predict.Predictor.at_once", lambda self, pixels: 4)
    with monkeypatch.context() as patch:
        patch.setattr(BrightTask, "predict", stumble)
        assert run(tmp_path) == counts(done=5, failed=1)
    assert sizes == [4, 1, 1, 1, 1, 2]
    assert run(tmp_path) == counts(done=6)
    for case in (tmp_path / "alone" / "cases").iterdir():
        assert (case / "mask_000.png").read_bytes() == (tmp_path / "out" / "cases" / case.name / "mask_000.png").read_bytes()


def test_of_two_equal_files_in_one_batch_the_second_is_a_duplicate(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = write_folder(tmp_path / "scans", 2)
    (first.parent / f"{first.stem}_copy{first.suffix}").write_bytes(first.read_bytes())
    monkeypatch.setattr("pipeline.inference.predict.Predictor.at_once", lambda self, pixels: 8)
    assert run(tmp_path) == counts(done=2, duplicate=1)

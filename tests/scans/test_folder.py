"""Hospital trees: every file accounted for, in one order, however it is read and whatever dies meanwhile."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import pytest

from pipeline.cli.data import ends
from pipeline.errors import ConfigError, NothingUsableError
from pipeline.lock import locked
from pipeline.memory import Limits
from pipeline.scans import files, folder, workers
from pipeline.scans.catalogue import Catalogue
from pipeline.scans.folder import FileRecord, index_folder, scan_files
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Listing
from pipeline.scans.merging import merge_catalogues, part_of
from pipeline.scans.raster import write_png
from pipeline.scans.shard import Shard, Share
from tests.patience import LONG_S, wait_until
from tests.scans.make import CT, dicom, ramp, saved

NAMES = Pseudonyms(b"the key of this site")


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two patients, a duplicate of each kind, and one of everything that goes wrong."""
    root = tmp_path / "hospital"
    one, two = root / "SCHMIDT_ANNA" / "2024-03-01", root / "MEIER_HANS" / "2024-04-02"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    person = {"PatientName": "SCHMIDT^ANNA", "PatientID": "HOSP-778899", "PatientBirthDate": "19540321", "StudyDate": "20240301"}
    photo = dicom(ramp(6, 11), ImageLaterality="R", PixelSpacing=[0.5, 0.25], **person)
    saved(photo, one / "a_right.dcm")
    shutil.copy(one / "a_right.dcm", one / "b_copy.dcm")
    photo.PatientComments = "sent again"
    saved(photo, one / "c_resent.dcm")
    saved(dicom(ramp(6, 11), ImageLaterality="L", StudyInstanceUID=photo.StudyInstanceUID, **person), one / "d_left.dcm")
    saved(dicom(ramp(6, 11), sop_class=CT, modality="CT", **person), one / "e_ct.dcm")
    write_png(two / "x_OD.png", ramp(7, 12))
    (two / "y_empty.png").write_bytes(b"")
    (two / "z_notes.txt").write_text("Hans Meier, born 1954-03-21")
    return root


def catalogue_of(root: Path, out: Path, **options: object) -> tuple[folder.Counts, str]:
    counts = index_folder(root, out, pseudonyms=NAMES, **options)  # type: ignore[arg-type]
    return counts, hashlib.sha256(out.read_bytes()).hexdigest()


EXPECTED = [
    ("MEIER_HANS/2024-04-02/x_OD.png", "read", ""),
    ("MEIER_HANS/2024-04-02/y_empty.png", "rejected", "empty"),
    ("MEIER_HANS/2024-04-02/z_notes.txt", "not_an_image", "not_an_image"),
    ("SCHMIDT_ANNA/2024-03-01/a_right.dcm", "read", ""),
    ("SCHMIDT_ANNA/2024-03-01/b_copy.dcm", "duplicate", "same_content"),
    ("SCHMIDT_ANNA/2024-03-01/c_resent.dcm", "duplicate", "same_instance"),
    ("SCHMIDT_ANNA/2024-03-01/d_left.dcm", "read", ""),
    ("SCHMIDT_ANNA/2024-03-01/e_ct.dcm", "rejected", "not_ophthalmic"),
]


def test_the_last_shares_of_a_catalogue_may_end_at_one_time(hospital: Path, tmp_path: Path) -> None:
    """Each of them would put the parts together; who comes second waits, instead of ending as if it was called wrongly."""
    out = hospital / "c.sqlite"  # among the scans: no part is a file of another share
    _, alone = catalogue_of(hospital, tmp_path / "alone.sqlite", workers=0)
    catalogue_of_share = partial(index_folder, hospital, out, pseudonyms=NAMES, workers=0)
    catalogue_of_share(share=Share(shard=Shard(1, 2)))
    with ThreadPoolExecutor(1) as threads:
        with locked(out.with_name(f".{out.name}.lock"), None):  # as one has that puts them together
            last = threads.submit(catalogue_of_share, share=Share(shard=Shard(2, 2)))
            wait_until(lambda: last.done() or part_of(out, Shard(2, 2)).exists())
        last.result(LONG_S)
    assert hashlib.sha256(out.read_bytes()).hexdigest() == alone
    assert merge_catalogues(out, wait=True) == []


def scanned(root: Path, **options: Any) -> list[tuple[Path, FileRecord]]:
    """Each file by itself, with its record."""
    with closing(Listing(root, root, NAMES)) as listing:
        return [(file.path, record) for file, record in scan_files(listing, root, pseudonyms=NAMES, **options)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_file_in_order_with_its_outcome(hospital: Path, tmp_path: Path, count: int) -> None:
    found: list[tuple[Path, FileRecord]] = []
    index_folder(hospital, tmp_path / "c", pseudonyms=NAMES, workers=count, on_file=lambda path, record: found.append((path, record)))
    assert [p.relative_to(hospital).as_posix() for p, _ in found] == [name for name, _, _ in EXPECTED]
    records = {p.name: r for p, r in found}
    # Three files are one picture under one name: the one with the smallest token is read.
    first, *others = sorted(("a_right.dcm", "b_copy.dcm", "c_resent.dcm"), key=lambda name: records[name].token)
    for name, status, code in EXPECTED:
        own = records[Path(name).name]
        if Path(name).name == first:
            assert (own.status, own.code) == ("read", "")
        elif Path(name).name in others:
            assert (own.status, own.code) == (
                "duplicate",
                "same_instance" if "c_resent.dcm" in (first, Path(name).name) else "same_content",
            )
        else:
            assert (own.status, own.code) == (status, code)
    right = records[first]
    assert (right.rows, right.columns, right.slices, right.modality, right.format) == (6, 11, 1, "fundus", "dicom")
    assert (right.laterality, right.laterality_source, right.spacing_source) == ("R", "tag", "tag")
    assert {records[name].related for name in others} == {right.token}
    assert records["x_OD.png"].laterality_source == "filename"
    assert right.case.split("_")[0] == records["d_left.dcm"].case.split("_")[0] == NAMES.token("patient", "HOSP-778899")


def test_the_catalogue_counts_and_groups(hospital: Path, tmp_path: Path) -> None:
    counts, _ = catalogue_of(hospital, tmp_path / "c.sqlite")
    assert counts.summary() == {
        "files": 8,
        "unchanged": 0,
        "read": 3,
        "part": 0,
        "duplicate": 2,
        "not_an_image": 1,
        "not_followed": 0,
        "rejected": 2,
        "with_warnings": 0,
        "rejected: empty": 1,
        "rejected: not_ophthalmic": 1,
        "patients": 2,
        "eyes": 3,
        "visits": 2,
        "images": 3,
    }
    with Catalogue(tmp_path / "c.sqlite") as catalogue:
        assert sorted(r.status for r in catalogue) == sorted(status for _, status, _ in EXPECTED)
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as database, database:
        assert database.execute("SELECT count(*) FROM visits").fetchone() == (3,)


def test_no_word_of_a_person_or_a_place_is_in_the_catalogue(hospital: Path, tmp_path: Path) -> None:
    catalogue_of(hospital, tmp_path / "c.sqlite")
    content = (tmp_path / "c.sqlite").read_bytes().lower()
    uids = [str(pydicom.dcmread(p).SOPInstanceUID) for p in hospital.rglob("*.dcm")]
    long = ["schmidt", "meier", "hosp-", "19540321", "1954-03", "20240301", "2024-03", "2024-04", ".dcm", ".png", "notes", *uids]
    for secret in long:
        assert secret.encode() not in content, secret
        assert secret.encode("utf-16-le") not in content, secret
    assert str(tmp_path).lower().encode() not in content
    # Shorter words turn up in a random identifier now and then, so they are looked for in what stands around those.
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        cells = {cell for table in tables for row in database.execute(f"SELECT * FROM {table}") for cell in row}
    told = " ".join(str(cell).lower() for cell in cells if isinstance(cell, str))
    told = re.sub(r"(?<![a-z0-9])([a-z2-7]{16}|[0-9a-f]{64})(?![a-z0-9])", "IDENTIFIER", told)
    assert "IDENTIFIER" in told
    assert "not_an_image" in told
    for secret in ["anna", "hans", "778899", "hosp", "1954", "0321", "2024", *long]:
        assert secret not in told, secret
    assert not cells & {19540321, 20240301, 20240402, 778899}


def test_the_same_input_gives_the_same_bytes_however_it_was_read(hospital: Path, tmp_path: Path) -> None:
    hashes = {catalogue_of(hospital, tmp_path / f"{n}.sqlite", workers=n)[1] for n in (0, 1, 3)}
    counts, again = catalogue_of(hospital, tmp_path / "1.sqlite")
    assert counts.unchanged == 8
    assert {again} == hashes


def test_only_what_changed_is_opened_again(hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "c.sqlite"
    catalogue_of(hospital, out, workers=0)
    opened: list[str] = []
    real = folder.examine

    def noted(path: Path, *rest: object) -> object:
        opened.append(path.name)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "examine", noted)
    visit = hospital / "MEIER_HANS" / "2024-04-02"
    write_png(visit / "y_empty.png", ramp(8, 13))
    write_png(visit / "new_OS.png", ramp(9, 13))
    (visit / "z_notes.txt").unlink()
    counts, changed = catalogue_of(hospital, out, workers=0)
    assert opened == ["new_OS.png", "y_empty.png"]
    assert (counts.files, counts.unchanged, counts.status("read")) == (8, 6, 5)
    assert changed == catalogue_of(hospital, tmp_path / "fresh.sqlite", workers=0)[1]


def test_a_duplicate_takes_the_place_of_a_removed_original(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.sqlite"
    catalogue_of(hospital, out)
    (hospital / "SCHMIDT_ANNA" / "2024-03-01" / "a_right.dcm").unlink()
    counts, changed = catalogue_of(hospital, out)
    assert (counts.unchanged, counts.status("read"), counts.status("duplicate")) == (7, 3, 1)
    assert changed == catalogue_of(hospital, tmp_path / "fresh.sqlite")[1]


def test_another_key_or_another_reader_starts_anew(hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "c.sqlite"
    catalogue_of(hospital, out, workers=0)
    assert index_folder(hospital, out, pseudonyms=Pseudonyms(b"another key here"), workers=0).unchanged == 0
    monkeypatch.setattr("pipeline.scans.catalogue.READER", 999)
    assert index_folder(hospital, out, pseudonyms=Pseudonyms(b"another key here"), workers=0).unchanged == 0


def test_the_catalogue_may_lie_inside_the_tree(hospital: Path) -> None:
    first, _ = catalogue_of(hospital, hospital / "c.sqlite")
    second, _ = catalogue_of(hospital, hospital / "c.sqlite")
    assert first.files == second.files == 8
    assert sorted(p.name for p in hospital.iterdir()) == [".c.sqlite.lock", "MEIER_HANS", "SCHMIDT_ANNA", "c.sqlite"]


def test_a_foreign_file_is_not_overwritten(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"mine\.txt"):
        catalogue_of(hospital, tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "years of work"
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as database, database:
        database.execute("CREATE TABLE work (years)")
    with pytest.raises(ConfigError, match="not a catalogue"):
        catalogue_of(hospital, tmp_path / "other.sqlite")


def test_a_missing_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="does not exist"):
        index_folder(tmp_path / "nowhere", tmp_path / "c.sqlite", pseudonyms=NAMES, workers=0)
    assert not (tmp_path / "c.sqlite").exists()


def test_odd_names_travel_to_the_workers_and_back(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for index, name in enumerate((b"new\nline.png", b"\xff\xfe.png", b'quote".png', b"-rf")):
        write_png(Path(os.fsdecode(os.path.join(os.fsencode(root), name))), ramp(6, 11) + index)
    os.mkfifo(root / "fifo")
    found = {os.fsencode(p.name): r for p, r in scanned(root, workers=1)}
    assert {name: r.status for name, r in found.items()} == {
        b"new\nline.png": "read",
        b"\xff\xfe.png": "read",
        b'quote".png': "read",
        b"-rf": "read",
        b"fifo": "not_an_image",
    }
    assert found[b"fifo"].code == "not_a_file"


def test_what_cannot_be_read_is_accounted_for_and_tried_again(hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_list, real_open = os.scandir, files._without_waiting

    def no_list(path: Any) -> Any:
        if isinstance(path, bytes) and path.endswith(b"SCHMIDT_ANNA"):
            raise PermissionError(13, "Permission denied", path)
        return real_list(path)

    def no_open(path: str, flags: int) -> int:
        if "x_OD" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, flags)

    monkeypatch.setattr(os, "scandir", no_list)
    monkeypatch.setattr(files, "_without_waiting", no_open)
    out = tmp_path / "c.sqlite"
    found = {p.name: r.code for p, r in scanned(hospital, workers=0)}
    assert found == {"x_OD.png": "unreadable", "y_empty.png": "empty", "z_notes.txt": "not_an_image", "SCHMIDT_ANNA": "unlisted"}
    summary = catalogue_of(hospital, out, workers=0)[0].summary()
    assert (summary["rejected: unreadable"], summary["rejected: unlisted"]) == (1, 1)
    monkeypatch.undo()
    counts, _ = catalogue_of(hospital, out, workers=0)
    assert (counts.files, counts.status("read"), counts.unchanged) == (8, 3, 2)


STAND_IN = """
import os, time
from pipeline.scans import worker
real = worker.open_file
def open_file(path, *rest):
    if "crash" in path.name:
        os.abort()
    if "hang" in path.name:
        time.sleep(600)
    return real(path, *rest)
worker.open_file = open_file
worker.main()
"""


def test_a_decoder_that_crashes_or_hangs_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for index, name in enumerate(["a", "crash 1", "d", "hang", "m", "x crash", "z"]):
        write_png(root / f"{name}.png", ramp(6, 11) + index)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(workers, "_COMMAND", [sys.executable, str(tmp_path / "stand_in.py")])
    found = {p.stem: (r.status, r.code) for p, r in scanned(root, workers=2, limits=Limits.chosen(time_s=5))}
    assert found == {
        "a": ("read", ""),
        "crash 1": ("rejected", "crashed"),
        "d": ("read", ""),
        "hang": ("rejected", "timeout"),
        "m": ("read", ""),
        "x crash": ("rejected", "crashed"),
        "z": ("read", ""),
    }


SLOW_START = """
import time
from pipeline.scans import worker
from pipeline.scans.record import Opened
from pipeline.cli.data import ends
from pipeline.errors import ScanError
time.sleep(3)
worker.open_file = lambda *_: Opened(error=ScanError("empty", "examined"))
worker.main()
"""


def test_the_files_clock_starts_when_its_process_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_text("a")
    (tmp_path / "stand_in.py").write_text(SLOW_START)
    monkeypatch.setattr(workers, "_COMMAND", [sys.executable, str(tmp_path / "stand_in.py")])
    assert [r.reason for _, r in scanned(tmp_path / "tree", workers=1, limits=Limits.chosen(time_s=2.5))] == ["examined"]


def test_a_worker_that_cannot_start_is_our_fault_and_not_the_files(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_COMMAND", [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RuntimeError, match="could not start"):
        scanned(hospital, workers=1)


def test_a_stream_that_is_left_early_leaves_no_process(hospital: Path) -> None:
    before = set(psutil.Process().children())
    with closing(Listing(hospital, hospital, NAMES)) as listing:
        stream = scan_files(listing, hospital, pseudonyms=NAMES, workers=2)
        next(stream)
        assert set(psutil.Process().children()) - before
        stream.close()
    assert not set(psutil.Process().children()) - before


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
seen = []
def on_file(*_):
    seen.append(0)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
index_folder(Path(sys.argv[1]), Path(sys.argv[2]), pseudonyms=Pseudonyms(b"the key of this site"), workers=1, progress=on_file)
"""


def test_killed_and_started_again(tmp_path: Path) -> None:
    root, out = tmp_path / "tree", tmp_path / "c.sqlite"
    root.mkdir()
    for index in range(1300):
        (root / f"{index:04d}.txt").write_text(str(index))
    out_before = index_folder(root / "0000.txt", out, pseudonyms=NAMES, workers=0)
    assert out_before.files == 1
    before = out.read_bytes()
    for stop in (1100, 1050):  # the second run gets less far than the first: what the first had read is not lost
        done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(out), str(stop)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert out.read_bytes() == before
    counts, resumed = catalogue_of(root, out, workers=0)
    assert counts.files == 1300
    assert 1000 <= counts.unchanged < 1300
    assert resumed == catalogue_of(root, tmp_path / "fresh.sqlite", workers=0)[1]
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["c.sqlite", "fresh.sqlite", "tree"]


def test_what_the_reader_noticed_is_in_the_catalogue_and_counted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    write_png(tmp_path / "root" / "seen.png", ramp(6, 11))
    write_png(tmp_path / "root" / "black.png", ramp(6, 11) * 0)
    saved(dicom(np.stack([ramp(6, 11), ramp(6, 11) * 0, ramp(6, 11)])), tmp_path / "root" / "volume.dcm")
    for _ in range(2):  # the second time from the catalogue
        counts, _ = catalogue_of(tmp_path / "root", tmp_path / "c.sqlite")
        assert counts.summary()["with_warnings"] == 2
        with Catalogue(tmp_path / "c.sqlite") as catalogue:
            assert [r.warnings for r in catalogue] == [
                "the image has one value everywhere",
                "",
                "1 of 3 slices have one value everywhere",
            ]


def test_one_uid_and_two_pictures_are_a_conflict_and_not_a_duplicate(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "c.sqlite"
    root.mkdir()
    uid = "1.2.3.4"
    for name, pixels, comment in (
        ("a", ramp(6, 11), ""),
        ("b", ramp(6, 11) + 1, ""),
        ("c", ramp(6, 11) + 1, "again"),
        ("d", ramp(11, 6), ""),
    ):
        saved(dicom(pixels, SOPInstanceUID=uid, PatientComments=comment), root / f"{name}.dcm")
    saved(dicom(ramp(6, 11)), root / "other.dcm")
    expected = [("read", "conflict"), ("read", "conflict"), ("duplicate", "same_instance"), ("read", "conflict"), ("read", "")]
    for _ in range(2):
        counts, _ = catalogue_of(root, out, workers=0)
        with Catalogue(out) as catalogue:
            records = list(catalogue)
        b, c = sorted(records[1:3], key=lambda record: (record.case or "", record.token))
        records[1:3] = b, c  # of the two with equal pixels the one with the smaller name is the original
        assert [(record.status, record.code) for record in records] == expected
        assert counts.with_warnings == 3
        assert c.related == b.token
        assert all("SOP Instance UID" in record.reason for record in records[:4])


def test_no_time_of_a_scan_is_stored_and_a_touched_file_is_read_again(hospital: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "c.sqlite", hospital / "MEIER_HANS" / "2024-04-02" / "x_OD.png"
    os.utime(path, ns=(1_712_052_123_456_789_012, 1_712_052_123_456_789_012))
    catalogue_of(hospital, out, workers=0)
    with Catalogue(out) as catalogue:
        cells = [str(value) for record in catalogue for value in vars(record).values()]
    assert not any("1712052123" in cell for cell in cells)
    os.utime(path, ns=(1, 1))
    counts, _ = catalogue_of(hospital, out, workers=0)
    assert counts.unchanged == 7


def test_two_runs_on_one_catalogue_exclude_each_other(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.sqlite"

    def second(*_: object) -> None:
        with pytest.raises(ConfigError, match="another process is writing the catalogue"):
            catalogue_of(hospital, out, workers=0)

    first, _ = catalogue_of(hospital, out, workers=0, progress=second)
    assert first.files == 8


def damaged(content: bytes, kind: str) -> bytes:
    if kind == "half":
        return content[: len(content) // 2]
    if kind == "hole":
        return content[:4096] + b"\xa5" * 4096 + content[8192:]
    return b"\x93random bytes of no database" * 300


@pytest.mark.parametrize("kind", ["half", "hole", "random"])
def test_a_damaged_catalogue_is_told_in_a_sentence(hospital: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "c.sqlite"
    catalogue_of(hospital, out, workers=0)
    out.write_bytes(damaged(out.read_bytes(), kind))
    with pytest.raises(ConfigError, match=r"the catalogue 'c.sqlite' (is damaged; remove it|exists and is not a catalogue)"):
        catalogue_of(hospital, out, workers=0)
    out.replace(tmp_path / "c.sqlite.part")  # what a killed run has left is only a help
    assert catalogue_of(hospital, out, workers=0)[0].unchanged == 0


def test_a_full_disk_is_called_a_full_disk(hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = sqlite3.connect, []

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(real(*args, **options))
        made[-1].execute("PRAGMA max_page_count = 3")
        return made[-1]

    monkeypatch.setattr("pipeline.scans.catalogue.sqlite3.connect", small)
    with pytest.raises(ConfigError, match="the disk is full; make room"):
        catalogue_of(hospital, tmp_path / "c.sqlite", workers=0)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[-1].execute("SELECT 1")
    monkeypatch.undo()
    assert catalogue_of(hospital, tmp_path / "c.sqlite", workers=0)[0].files == 8


def test_images_in_archives_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_png(root / "a.png", ramp(6, 11))
    for name, count in (("b.zip", 3), ("c.zip", 1), ("d.zip", 0)):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr("notes.txt", "nothing")
            for number in range(count):
                archive.write(root / "a.png", f"{number}.png")
    counts, _ = catalogue_of(root, tmp_path / "c.sqlite", workers=0)
    assert counts.summary() | {"archives": 2, "images_in_archives": 4, "rejected: unsupported": 2, "not_an_image": 1} == counts.summary()
    assert ends(counts.summary())[-1] == "2 archives hold 4 images: unpack them"


def test_a_catalogue_of_an_older_version_is_read_anew_and_its_times_go(
    hospital: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, when = tmp_path / "c.sqlite", 1_712_052_123_456_789_012
    for path in (out, tmp_path / "c.sqlite.part"):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
            database.execute("INSERT INTO about VALUES ('reader', 1)")
            database.execute("CREATE TABLE files (position INTEGER PRIMARY KEY, token, size, mtime_ns)")
            database.executemany("INSERT INTO files VALUES (NULL, ?, 1, ?)", [(f"t{k}", when) for k in range(300)])
    with caplog.at_level("INFO"):
        counts, _ = catalogue_of(hospital, out, workers=0)
    assert (counts.files, counts.unchanged) == (8, 0)
    assert "of another version of ocuseg, or of other models; every file is read anew" in caplog.text
    assert not any(when.to_bytes(8, "big") in path.read_bytes() for path in tmp_path.glob("*c.sqlite*"))

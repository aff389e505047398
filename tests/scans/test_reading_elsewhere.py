"""A catalogue whose files other processes read, or that is made on another disk: the same, byte for byte, as one process makes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pipeline.cluster.processes import DeviceWorkers
from pipeline.errors import StoppedRun, TooManyFailures
from pipeline.scans import on_cluster
from pipeline.scans.folder import Counts, index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.on_cluster import ReadingWork, read_by_workers
from pipeline.scans.raster import write_png
from pipeline.scans.shard import Share
from tests.scans.make import ramp

NAMES = Pseudonyms(b"the key of this site")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty photographs, of which two are equal, and every fourth is broken."""
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(20):
        path = root / f"p{number:02d}_OD.png"
        write_png(path, ramp(6, 8 + (number or 1)))
        if number % 4 == 3:
            path.write_bytes(path.read_bytes()[:60])
    return root


def catalogue(folder: Path, out: Path, **options: object) -> Counts:
    return index_folder(folder, out, pseudonyms=NAMES, workers=0, **options)  # type: ignore[arg-type]


def test_a_catalogue_by_other_processes_is_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_cluster, "_AT_ONCE", 4)
    monkeypatch.setattr(on_cluster, "_FAR", 3)  # of a second call, files that have not changed are passed over in several goes
    reader = partial(read_by_workers, DeviceWorkers(["cpu", "cpu"]), ReadingWork(folder, NAMES, 10**6), NAMES)
    for changed in (None, 9):
        if changed is not None:
            write_png(folder / f"p{changed:02d}_OD.png", ramp(9, 9))
        alone, together = catalogue(folder, tmp_path / "alone"), catalogue(folder, tmp_path / "together", reader=reader)
        assert (tmp_path / "together").read_bytes() == (tmp_path / "alone").read_bytes()
        assert alone == together
    assert (alone.unchanged, alone.status("duplicate")) == (19, 1)


def test_a_catalogue_on_a_scratch_disk_is_moved_when_it_ends_or_stops(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    local = partial(Share, scratch=tmp_path / "scratch")
    catalogue(folder, tmp_path / "alone")
    with pytest.raises(StoppedRun):
        catalogue(folder, tmp_path / "out", share=local(stop_after=0.0))
    assert not any((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "out").exists()
    counts = catalogue(folder, tmp_path / "out", share=local())
    assert counts.unchanged == 1, "what was read before is not read again"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "alone").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["alone", "out", "scans", "scratch"]


def test_failures_are_counted_when_they_happen(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TooManyFailures, match="3 files were rejected, more than --max-failures allows"):
        catalogue(folder, tmp_path / "out", share=Share(max_failures="10%"))
    assert catalogue(folder, tmp_path / "out", share=Share(max_failures="2")).status("rejected") == 5, "three were told before"

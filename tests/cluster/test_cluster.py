"""Workers of dask.distributed: prepared once, replaced when they die; a piece that kills them is lost alone."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.connect import connected
from pipeline.cluster.work import DaskWorkers, Lost, in_order
from pipeline.errors import ConfigError
from pipeline.inference.folder import predict_folder
from pipeline.inference.on_cluster import OnCluster
from pipeline.scans.identity import Pseudonyms
from tests.cluster.squares import DEADLY, FAULTY, Squares, files, given
from tests.inference.conftest import write_folder
from tests.inference.test_killed import tiny_bundle

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskWorkers]:
    import dask

    # Forked from the server that the tests of training use, where everything is imported already.
    settings = {"distributed.worker.multiprocessing-method": "forkserver", "distributed.scheduler.allowed-failures": 0}
    with dask.config.set(settings), connected("local:2", memory=8 << 30) as workers:
        yield workers


def test_a_piece_that_kills_its_worker_is_lost_and_no_other(workers: DaskWorkers, tmp_path: Path) -> None:
    tasks = [[(number,) for number in range(first, first + 4)] for first in range(0, 40, 4)]
    found = dict(in_order(workers.results(Squares(tmp_path), tasks)))
    assert list(found) == [(number,) for number in range(40)]
    lost = found.pop((DEADLY,))
    assert isinstance(lost, Lost)
    assert "killed each time" in lost.reason
    assert found == {(number,): number**2 for number in range(40) if number != DEADLY}
    # Workers are prepared once, and those that took the place of dead ones, too.
    assert {path.read_text() for path in tmp_path.glob("opened-*")} == {"1"}
    assert len(list(tmp_path.glob("opened-*"))) <= 2 + given(tmp_path)[DEADLY]
    opened = {int(path.name.partition("-")[2]) for path in tmp_path.glob("opened-*")}
    assert all((tmp_path / f"closed-{pid}").exists() for pid in opened & set(workers.client.run(os.getpid).values()))


def test_an_error_of_a_piece_is_tried_again_and_then_told(workers: DaskWorkers, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the piece is faulty"):
        list(workers.results(Squares(tmp_path), [[(1,)], [(FAULTY,)]]))
    assert given(tmp_path)[FAULTY] == 3


def test_a_scheduler_that_runs_already_is_taken_by_its_address(workers: DaskWorkers, tmp_path: Path) -> None:
    with connected(workers.client.scheduler.address) as own:
        assert list(own.results(Squares(tmp_path), [[(3,)]])) == [((3,), 9)]
    assert workers.client.status == "running"


def test_a_prediction_whose_workers_die_ends_like_one_without_a_cluster(workers: DaskWorkers, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    scans = write_folder(tmp_path / "scans", 12)
    shutil.copy(scans[0], scans[5].with_name("copy.png"))
    scans[1].with_name("broken.png").write_bytes(scans[0].read_bytes()[:100])
    Pseudonyms.load_or_create(tmp_path / "site.key")
    names = Pseudonyms.load(tmp_path / "site.key")
    predict = partial(predict_folder, bundle, tmp_path / "scans", device="cpu", pseudonyms=names)
    alone = predict(tmp_path / "alone")
    doomed = next(iter(workers.client.run(os.getpid).values()))

    def kill(done: int, total: int | None = None, note: str = "") -> None:
        nonlocal doomed
        if done and doomed:
            os.kill(doomed, signal.SIGKILL)
            doomed = 0

    assert predict(tmp_path / "together", cluster=OnCluster(workers, tmp_path / "site.key"), progress=kill) == alone
    assert doomed == 0
    assert files(tmp_path / "together") == files(tmp_path / "alone")


def test_nothing_listens_beyond_this_machine(workers: DaskWorkers) -> None:
    own, listening = psutil.Process(), []
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a helper of an earlier test may end while it is being asked
            listening += [at.laddr.ip for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}
    assert workers.client.dashboard_link.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("cluster", "dashboard", "said"),
    [
        ("4", None, "write it as local:4"),
        ("local:0", None, "write it as local:4"),
        ("tcp://127.0.0.1:1", "127.0.0.1:8787", "--dashboard '127.0.0.1:8787': must be HOST:PORT, of --cluster local:N"),
        ("local:2", "8787", "--dashboard '8787': must be HOST:PORT"),
    ],
)
def test_mistakes_are_told_before_anything_starts(cluster: str, dashboard: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said), connected(cluster, dashboard=dashboard):
        pass

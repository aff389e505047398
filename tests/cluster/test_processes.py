"""A process for each device: results equal those of one process, whatever becomes of the others; `--device` says which."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import plugins
from pipeline.cluster.processes import DeviceWorkers
from pipeline.cluster.work import Lost, in_order
from pipeline.errors import ConfigError, LabelFileError, OcusegError, PacsError, ScanError, TrainingError
from pipeline.evaluation.on_cluster import scored_by_cluster
from pipeline.inference.folder import predict_folder
from pipeline.inference.out_folder import WORK
from pipeline.scans.identity import Pseudonyms
from pipeline.training.platform import choose_device, choose_devices
from tests.cluster.squares import DEADLY, ENDLESS, FAULTY, Doomed, Squares, files, given
from tests.inference.conftest import write_folder
from tests.inference.test_killed import tiny_bundle
from tests.patience import wait_until

TWO = DeviceWorkers(["cpu", "cpu"])


def devices_at_work() -> list[BaseProcess]:
    return [one for one in multiprocessing.active_children() if one.name == "ocuseg-device"]


def test_a_piece_that_kills_its_process_is_lost_and_no_other(tmp_path: Path) -> None:
    tasks = [[(number,) for number in range(first, first + 4)] for first in range(0, 40, 4)]
    found = dict(in_order(TWO.results(Squares(tmp_path), tasks)))
    assert list(found) == [(number,) for number in range(40)]
    assert isinstance(found.pop((DEADLY,)), Lost)
    assert found == {(number,): number**2 for number in range(40) if number != DEADLY}
    assert given(tmp_path)[DEADLY] == 3
    opened = len(list(tmp_path.glob("opened-*")))
    assert 3 <= opened <= 2 + 3, "prepared once, and so are those that took the place of dead ones where work was left"
    assert len(list(tmp_path.glob("closed-*"))) == opened - 3


def test_what_a_process_raises_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the piece is faulty") as error:
        list(TWO.results(Squares(tmp_path), [[(1,)], [(FAULTY,)]]))
    assert "squares.py" in error.value.__notes__[0]


@pytest.mark.parametrize(
    "error",
    [LabelFileError(Path("coco.json"), "is no JSON", "boxes"), ScanError("empty", "the file is empty"), PacsError("no", passing=True)],
)
def test_an_error_comes_whole_from_another_process(error: OcusegError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_process_for_which_there_is_nothing_is_not_begun(tmp_path: Path) -> None:
    assert list(TWO.results(Squares(tmp_path), [[(3,)]])) == [((3,), 9)]
    assert len(list(tmp_path.glob("opened-*"))) == 1


def test_one_that_is_ready_early_and_slow_keeps_no_other_waiting(tmp_path: Path) -> None:
    results = DeviceWorkers(("slow", "quick")).results(Squares(tmp_path), [[(1,)], [(ENDLESS,)], [(2,)]])
    assert [next(results), next(results)] == [((1,), 1), ((2,), 4)]
    del results
    assert not devices_at_work()


def test_ctrl_c_in_a_terminal_which_comes_to_all_processes_lets_each_save_what_it_has(tmp_path: Path) -> None:
    results = TWO.results(Squares(tmp_path, closing_s=0.5), [[(1,)], [(ENDLESS,)]])
    assert next(results) == ((1,), 1)
    wait_until(lambda: given(tmp_path)[ENDLESS] == 1)
    for one in devices_at_work():
        assert one.pid is not None
        os.kill(one.pid, signal.SIGINT)
    del results  # which asks those at work to end, too
    assert len(list(tmp_path.glob("closed-*"))) == 2
    assert not devices_at_work()


def test_ctrl_c_does_not_interrupt_the_saving_at_the_end(tmp_path: Path) -> None:
    results = TWO.results(Squares(tmp_path, closing_s=0.5), [[(1,)]])
    assert next(results) == ((1,), 1)
    (one,) = devices_at_work()
    assert one.pid is not None
    again = threading.Timer(0.2, os.kill, (one.pid, signal.SIGINT))
    again.start()
    del results  # its end is seen at once, and the signal comes while it saves
    again.join()
    assert len(list(tmp_path.glob("closed-*"))) == 1


def test_no_process_is_left_where_a_case_cannot_be_scored() -> None:
    work: Any = Doomed()
    with pytest.raises(TrainingError, match=r"case 7: its worker was killed each time .*do something else") as error:
        list(scored_by_cluster(TWO, work, [SimpleNamespace(key="7")]))  # type: ignore[list-item]
    assert not devices_at_work()
    assert error.tb is not None, "as it was while the error, with all that its frames hold, was there"


def test_processes_know_the_plugins_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {})
    mine = tmp_path / "mine.py"
    mine.write_text("import os, pathlib\npathlib.Path(__file__).with_name(f'loaded-{os.getpid()}').touch()\n")
    plugins.load_plugin(mine)
    assert list(TWO.results(Squares(tmp_path), [[(1,)], [(2,)]]))
    assert len(list(tmp_path.glob("loaded-*"))) == 3


def test_a_process_that_cannot_begin_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--device cpu: its process ended \(code 7\) while it loaded the networks"):
        list(TWO.results(Squares(tmp_path, begins=False), [[(1,)]]))


def test_a_prediction_by_two_processes_of_which_one_dies_is_as_by_one(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    scans = write_folder(tmp_path / "scans", 4)
    shutil.copy(scans[0], scans[3].with_name("copy.png"))
    scans[1].with_name("broken.png").write_bytes(scans[0].read_bytes()[:100])
    predict = partial(predict_folder, bundle, tmp_path / "scans", workers=1, pseudonyms=Pseudonyms(b"the key of this site"))
    alone = predict(tmp_path / "alone", device="cpu")
    killed: list[BaseProcess] = []
    shared = tmp_path / "together" / WORK

    def other_is_at_work() -> bool:
        """It has begun a block, or has ended all that are left."""
        return any(shared.glob("leases/*")) or len(list(shared.glob("entries/*.jsonl"))) == 6

    def kill(done: int, total: int | None = None, note: str = "") -> None:
        if done and not killed:
            wait_until(other_is_at_work)
            killed.extend(devices_at_work())
            for one in killed:
                one.kill()

    assert predict(tmp_path / "together", device="cpu,cpu", progress=kill) == alone
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    assert killed
    assert not devices_at_work()


@pytest.mark.parametrize(
    ("names", "gpus", "said"),
    [
        ("cuda:0,1", 0, "--device cuda: .*use --device cpu"),
        ("cuda:7", 2, "there is no cuda:7; torch finds 2 here, counted from cuda:0"),
        ("cuda:0,2", 2, "there is no cuda:2"),
        ("cpu,cuda:0", 2, "several devices are GPUs by their numbers, such as cuda:0,1, or cpu,cpu"),
        ("auto,cpu", 2, "several devices are GPUs"),
        ("cuda,1", 2, "several devices are GPUs"),
        ("cuda:", 2, "must be auto, cpu or cuda"),
    ],
)
def test_devices_that_are_not_there_are_told(names: str, gpus: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=said):
        choose_devices(names)


def test_devices_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for names, devices in {"cuda:0,2": ["cuda:0", "cuda:2"], "cuda:1": ["cuda:1"], "cpu,cpu": ["cpu", "cpu"], "cuda": ["cuda"]}.items():
        assert choose_devices(names) == devices
    with pytest.raises(ConfigError, match="predict, segment and evaluate take GPUs by their numbers"):
        choose_device("cuda:1")

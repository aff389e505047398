"""Shares of a folder, done one after the other in any order, leave byte for byte what one process leaves; what is missing is told."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.bundles.bundle import Bundle, open_bundle
from pipeline.cli.console import progress
from pipeline.cli.sharing import seconds_of
from pipeline.errors import ConfigError, StoppedRun, TooManyFailures
from pipeline.inference import found
from pipeline.inference.aside import Aside
from pipeline.inference.crew import MACHINE_VARIABLE, Crew
from pipeline.inference.folder import predict_folder
from pipeline.inference.infer import infer
from pipeline.inference.journal import Entry, Journal
from pipeline.inference.merging import merge
from pipeline.inference.model_set import ModelSet
from pipeline.inference.predict import Predictor
from pipeline.inference.shares import Shares
from pipeline.inference.visits import export
from pipeline.inference.worker import Worker
from pipeline.scans.listing import Block, Listing, read_input_list
from pipeline.scans.open import open_scan
from pipeline.scans.shard import Shard, Share
from tests.inference.conftest import make_bundle, picture, write_folder
from tests.inference.crash_driver import InThisProcess, state
from tests.inference.test_folder import KEY
from tests.inference.test_killed import tiny_bundle
from tests.patience import LONG_S
from tests.scans.make import dicom, saved
from tests.scans.test_series import write_series

Run = Callable[..., dict[str, int]]


@pytest.fixture
def run(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Predicts tmp_path/scans, decoding in this process, which is faster."""
    monkeypatch.setattr("pipeline.inference.worker.Pool", InThisProcess)

    def go(out: str, **share: object) -> dict[str, int]:
        return predict_folder(
            tmp_path / "bundle",
            tmp_path / "scans",
            tmp_path / out,
            device="cpu",
            pseudonyms=KEY,
            workers=2,
            share=Share(**share),  # type: ignore[arg-type]
        )

    return go


def test_shares_in_any_order_are_one_run_and_what_is_missing_is_named(tmp_path: Path, run: Run) -> None:
    """Copies in other folders, one UID of two pictures, one picture of both eyes, and a file that is broken."""
    paths = write_folder(tmp_path / "scans", 9)
    for path, other in zip(paths[:4], paths[4:8], strict=True):
        shutil.copy(path, other.with_name(f"{path.parts[-3]}_OS.png"))
    for name, seed in (("a", 1), ("b", 2), ("c", 2), ("d", 3)):
        folder = _made(tmp_path / "scans" / name)
        saved(dicom(picture(seed), SOPInstanceUID="1.2.3.4", PatientComments=name, PatientID="Q"), folder / "x.dcm")
    paths[8].with_name("broken.png").write_bytes(paths[8].read_bytes()[:99])
    alone = run("alone")
    assert (alone["done"], alone["duplicate"], alone["rejected"]) == (12, 5, 1)
    for order in ((3, 1, 2), (1, 2, 3)):
        out = f"shares{order[0]}"
        for number in order[:2]:
            run(out, shard=Shard(number, 3))
        told = merge(tmp_path / out, KEY)
        assert told.found == 18
        assert not told.complete
        assert list(told.shards) == [f"{order[2]}/3"]
        assert told.shards[f"{order[2]}/3"][0] == len(told.missing) > 0
        assert run(out, shard=Shard(order[2], 3)) == alone
        assert merge(tmp_path / out, KEY).complete
        assert state(tmp_path / out) == state(tmp_path / "alone")


def test_slices_of_a_series_in_several_folders_are_one_volume_however_they_were_shared(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    write_series(tmp_path / "scans" / "A")
    for name in ("B", "copies"):
        for path in sorted((tmp_path / "scans" / "A").iterdir())[:2]:
            _made(tmp_path / "scans" / name)
            (shutil.move if name == "B" and path.exists() else shutil.copy)(path, tmp_path / "scans" / name / path.name)
    alone = run("alone")
    assert (alone["done"], alone["part"], alone["duplicate"]) == (1, 3, 2)
    for number in (2, 3, 1):
        found = run("shares", shard=Shard(number, 3))
    assert found == alone
    assert state(tmp_path / "shares") == state(tmp_path / "alone")

    # The last one dies before it settles: what merging cannot make is said, and made by the command without shards.
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.folder.decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        for number in (1, 2):
            run("died", shard=Shard(number, 3))
        with pytest.raises(KeyboardInterrupt):
            run("died", shard=Shard(3, 3))
    told = merge(tmp_path / "died", KEY)
    assert (told.missing, told.unsettled > 0, told.complete) == ([], True, False)
    assert run("died") == alone
    assert merge(tmp_path / "died", KEY).complete
    assert state(tmp_path / "died") == state(tmp_path / "alone")


def test_lists_that_cut_a_series_are_settled_by_the_last_one(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with a list ends while another one is at work: only when that has ended, too, is it known what the files are together."""
    made = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    write_series(tmp_path / "scans" / "A")
    files = sorted((tmp_path / "scans" / "A").iterdir())
    alone = run("alone")
    first, second = files[::2], files[1::2]
    real, between = Worker.go, []

    def go(worker: Worker, blocks: Iterable[Block]) -> None:
        """The process with the second list has begun when the first one does all of its work, and ends."""
        if not between:
            between.append(True)
            between.append(run("lists", chosen=first))
        real(worker, blocks)

    monkeypatch.setattr(Worker, "go", go)
    assert run("lists", chosen=second) == alone
    assert between[1] != alone
    assert state(tmp_path / "lists") == state(tmp_path / "alone")


def _with_copies(scans: Path) -> None:
    paths = write_folder(scans, 6)
    for path, other in zip(paths[:3], paths[3:], strict=True):
        shutil.copy(path, other.with_name(f"{path.parts[-3]}_OS.png"))


def test_what_one_process_had_made_when_it_was_killed_while_it_settled_counts_for_the_next_one(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had published cases that hang on several files, which the next one, that waits for its turn, has not heard of."""
    _with_copies(tmp_path / "scans")
    alone = run("alone")
    take, before = Crew.take, list[str]()

    def after_another(crew: Crew, work: str) -> bool:
        if work == "settle" and not before:
            before.append("began")
            _killed_at_the_end(run, monkeypatch)
            before.extend(path.name for path in (tmp_path / "out" / ".work" / "entries").glob("settle-*"))
        return take(crew, work)

    monkeypatch.setattr(Crew, "take", after_another)
    assert run("out") == alone
    assert len(before) > 1  # else nothing had to be made
    assert state(tmp_path / "out") == state(tmp_path / "alone")


def _killed_at_the_end(run: Run, monkeypatch: pytest.MonkeyPatch, **share: object) -> None:
    def killed(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.inference.folder.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run("out", **share)


def test_files_that_came_into_a_block_which_another_process_had_done_are_done_too(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _made(tmp_path / "scans" / "P")
    paths = [
        saved(dicom(picture(k), SOPInstanceUID=f"1.2.{k}", SeriesInstanceUID=f"1.3.{k}", PatientID="Q"), folder / f"{k}.dcm")
        for k in range(1, 4)
    ]
    alone = run("alone")
    go, runs = Worker.go, list[int]()

    def later(worker: Worker, blocks: Iterable[Block]) -> None:
        runs.append(1)
        if len(runs) == 1:
            run("out", chosen=paths[:2])  # it ends before it knows all, and settles nothing
        go(worker, blocks)

    monkeypatch.setattr(Worker, "go", later)
    assert run("out") == alone
    assert state(tmp_path / "out") == state(tmp_path / "alone")


def test_what_another_process_settled_just_now_stays_as_it_is(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had done the last blocks, and put everything into the journal, before this one looked for what they became."""
    _with_copies(tmp_path / "scans")
    alone = run("alone")
    go, runs = Worker.go, list[int]()

    def passed_over(worker: Worker, blocks: Iterable[Block]) -> None:
        runs.append(1)
        if len(runs) > 1:
            go(worker, blocks)
        else:
            run("out")

    monkeypatch.setattr(Worker, "go", passed_over)
    assert run("out") == alone
    assert state(tmp_path / "out") == state(tmp_path / "alone")


def test_a_ledger_of_less_never_takes_the_place_of_the_last_one(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first share ends and shows what is known; before it has written that, the second one ends, and with it the run."""
    _with_copies(tmp_path / "scans")
    alone = run("alone")
    waits, take, second = threading.Event(), Crew.take, list[Future[dict[str, int]]]()

    def taken(crew: Crew, work: str) -> bool:
        got = take(crew, work)
        if work == "ledger" and not got:
            waits.set()
        return got

    def slow_export(journal: Journal, out: Path) -> None:
        if not second:
            second.append(threads.submit(run, "out", shard=Shard(2, 2)))
            second[0].add_done_callback(lambda _: waits.set())
            assert waits.wait(LONG_S)
        export(journal, out)

    monkeypatch.setattr(Crew, "take", taken)
    monkeypatch.setattr("pipeline.inference.folder.export", slow_export)
    with ThreadPoolExecutor(1) as threads:
        run("out", shard=Shard(1, 2))
        assert second[0].result(LONG_S) == alone
    assert state(tmp_path / "out") == state(tmp_path / "alone")


def test_an_input_list_a_stop_and_what_was_rejected(tmp_path: Path, run: Run) -> None:
    paths = write_folder(tmp_path / "scans", 3)
    table = tmp_path / "list.csv"
    table.write_text("patient,path\nP0,P0000/V1/scan_0_OD.png\nP2,P0002/V1/scan_0_OD.png\n")
    assert run("listed", chosen=read_input_list(str(table), tmp_path / "scans"))["done"] == 2
    with pytest.raises(StoppedRun, match="--stop-after is over"):
        run("out", stop_after=0.0)
    paths[0].write_bytes(paths[0].read_bytes()[:99])
    with pytest.raises(TooManyFailures, match="1 files failed or were rejected"):
        run("few", max_failures="30%")
    assert run("few", max_failures="1")["done"] == 2
    assert run("out")["rejected"] == 1
    assert run("out", again=True)["rejected"] == 1
    assert run("listed")["done"] == 3
    table.write_text("../elsewhere.png\n")
    with pytest.raises(ConfigError, match="1 of its files lie outside"):
        read_input_list(str(table), tmp_path / "scans")


def test_one_file_by_itself_is_what_a_folder_makes_of_it(tmp_path: Path, bundle: Bundle) -> None:
    (path,) = write_folder(tmp_path / "scans", 1)
    models = ModelSet([Predictor(bundle)])
    first, second = (infer(path, models, KEY, root=tmp_path / "scans") for _ in range(2))
    assert (first.mask == second.mask).all()
    assert (first.case, first.warnings, first.assessment.flags) == (second.case, second.warnings, second.assessment.flags)


def test_what_a_loss_of_power_left_of_a_block_counts_as_nothing(tmp_path: Path) -> None:
    """Published entries are not waited for on the disk: a file that is cut, or holds zeros, has its block worked on again."""
    entries = [Entry(f"t{k}", "s", "ab" * 32, "", f"p_R_v_{k}", "done", "", "Schön", 0.5) for k in range(3)]
    Shares(tmp_path, "dead").publish("block", entries)
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    for number, left in enumerate((b"", whole[:-1], whole[:40], whole[: whole.index(b"\n") + 1], bytes(len(whole)), whole), 1):
        path.write_bytes(left)
        with closing(Journal(tmp_path / f"{number}.sqlite", KEY, copy=True)) as journal:
            shares = Shares(tmp_path, "next")
            shares.take_in(journal)
            assert [*journal] == (entries if left == whole else [])
            assert not shares.is_news("block")  # else nobody would work on it again
            if left == b"":
                shares.publish("block", entries)
                assert shares.is_news("block") is False
                Shares(tmp_path, "third").take_in(journal)
                assert [*journal] == entries
                (tmp_path / "block.2.jsonl").unlink()


def test_of_a_file_that_a_stopped_process_could_not_read_the_later_result_counts(tmp_path: Path) -> None:
    """Whatever the names of the files say: of one block "-part" sorts behind the whole, and a block may have another name by then."""
    done = Entry("t", "s", "ab" * 32, "", "p_R_v_1", "done", "", "", 0.5)
    late = Entry("t", "s", "", "", "", "rejected", "timeout", "it took too long", 9.0)
    other = Entry("u", "s", "cd" * 32, "", "p_R_v_2", "done", "", "", 0.5)
    first, second = Shares(tmp_path, "stopped"), Shares(tmp_path, "next")
    first.publish("block", [late], whole=False)
    second.publish("block", [done, other])
    for number, name in enumerate(("block-part.1.jsonl", "block.1.jsonl")):  # whatever the grain of the disk's clock
        os.utime(tmp_path / name, (100 + number, 100 + number))
    with closing(Journal(tmp_path / "copy.sqlite", KEY, copy=True)) as journal:
        Shares(tmp_path, "third").take_in(journal)
        assert [*journal] == [done, other]


def test_a_list_of_files_has_reached_the_disk_before_its_name_and_stays_while_its_process_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power would leave an empty one, which no later process replaces where its length is right."""
    write_folder(tmp_path / "scans", 2)
    order: list[str] = []
    real = os.replace

    def replaced(source: Path, target: Path) -> None:
        order.append("named")
        real(source, target)

    monkeypatch.setattr("pipeline.inference.found.sync", lambda path: order.append(f"saved {path.stat().st_size > 0}"))
    monkeypatch.setattr(os, "replace", replaced)
    with closing(Listing(tmp_path / "scans", tmp_path / "scans", KEY)) as listing:
        for me in ("a1", "b2"):
            found.note(tmp_path, listing, None, me, whole=False)
        found.note(tmp_path, listing, None, "a1", whole=True)
        tokens = sorted(listing.tokens())
    assert order == ["saved True", "named"] * 3
    (tmp_path / ".found.b2").touch()
    (tmp_path / ".found.c3").touch()
    found.forget(tmp_path, {"b2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".found.b2", "found.1.b2", "scans"]
    assert sorted(found.of_others(tmp_path, {"b2"})) == tokens


def test_a_case_that_must_not_be_goes_at_once(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it removes one leaves no half of it under its name; and the next complete run none at all."""
    _with_copies(tmp_path / "scans")
    alone = run("alone")

    real = shutil.rmtree

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.is_dir() and path.parent.name in ("cases", ".work"):
            next(path.glob("mask*")).unlink()
            raise KeyboardInterrupt
        real(path, ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    assert len({len([*case.iterdir()]) for case in (tmp_path / "out" / "cases").iterdir()}) == 1
    assert run("out") == alone
    assert state(tmp_path / "out") == state(tmp_path / "alone")


def test_what_a_killed_process_had_aside_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: neither what a living one or another machine has, nor a folder of another program, nor where a link leads."""
    dead, living = Aside(tmp_path), Aside(tmp_path)
    shutil.copytree(dead.path, f"{dead.path}-left")  # as it stays behind: a lock that nobody holds
    other = tmp_path / "ocuseg-cases-1"
    other.mkdir()
    away = tmp_path / "away"
    shutil.copytree(dead.path, away)
    (link := Path(f"{dead.path}-link")).symlink_to(away)
    with monkeypatch.context() as patch:
        patch.setenv(MACHINE_VARIABLE, "another one, whose locks cannot be seen from here")
        shutil.copytree((far := Aside(tmp_path)).path, elsewhere := Path(f"{far.path}-lives"))
        far.close()
    dead.close()
    new = Aside(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living.path, new.path, other, away, link, elsewhere])
    for one in (living, new):
        one.close()
    assert not living.path.exists()


def test_a_lease_is_taken_over_from_the_dead_alone(tmp_path: Path) -> None:
    first, second = Crew(tmp_path, limit_s=0.4, machine="a"), Crew(tmp_path, limit_s=0.4, machine="b")
    try:
        assert first.take("block")
        assert not second.take("block")
        time.sleep(1.0)  # its beat goes on
        assert not second.take("block")
        first._over.set()  # as if it hung
        os.utime(tmp_path / "beats" / first.me, (1, 1))
        assert second.take("block")
        assert not first.holds("block")
        assert second.holds("block")
        first.give_back("block")
        assert second.holds("block")
    finally:
        first.close()
        second.close()


def test_who_was_taken_for_dead_and_lives_is_known_again(tmp_path: Path) -> None:
    first, second = Crew(tmp_path, machine="a"), Crew(tmp_path, machine="a")
    try:
        second._bury(first.me)  # as one does that has not heard of it for long
        first._renew()
        assert first.take("block")
        assert not second.take("block")
        begins = tmp_path / "beats" / "another.lock"  # its beat comes next
        begins.touch()
        assert second.living() == sorted([first.me, second.me])
        assert begins.exists()
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "31", "SLURM_ARRAY_TASK_STEP": "2"}, "4/16"),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, "1/4"),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETION_COUNT": "5"}, "1/5"),
        ({"RANK": "2", "WORLD_SIZE": "3"}, "3/3"),
    ],
)
def test_a_scheduler_says_which_share_it_is(environment: dict[str, str], share: str) -> None:
    assert str(Shard.parse("auto", environment)) == share


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("17/16", {}, "must lie between"),
        ("three", {}, "write it as 3/16"),
        ("auto", {}, "is set"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_COUNT"),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_COUNT": "3"},
            "have gaps",
        ),
    ],
)
def test_a_share_that_nobody_can_know_is_refused(text: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Shard.parse(text, environment)


def test_times_are_read_as_people_write_them() -> None:
    assert [seconds_of(text) for text in ("3h50m", "90m", "1d", "45", "1.5s")] == [13800, 5400, 86400, 45, 1.5]
    with pytest.raises(ConfigError, match="3h50m"):
        seconds_of("soon")


def test_in_a_batch_no_picture_changes_another_by_a_bit(tmp_path: Path) -> None:
    """Through a real network: first or last, with others or with repetitions of itself."""
    predictor = Predictor(open_bundle(tiny_bundle(tmp_path / "tiny")), batch=3)
    paths = write_folder(tmp_path / "scans", 4)
    ready = [predictor.ready(open_scan(path, pseudonyms=KEY)) for path in paths]
    alone = predictor.together(ready[:1])[0].probabilities
    for batch, place in (((1, 0, 2), 1), ((2, 3, 0), 2), ((0, 3), 0)):
        found = predictor.together([ready[k] for k in batch])[place].probabilities
        assert found is not None
        assert alone is not None
        assert (found == alone).all()


def test_progress_for_a_program_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("predicting", "json") as advance:
        for done in range(1, 4):
            advance(done, 3, "done")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[-1] == {"step": "predicting", "done": 3, "total": 3, "note": "done"}
    with pytest.raises(ConfigError, match="auto or json"), progress("predicting", "xml"):
        pass


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

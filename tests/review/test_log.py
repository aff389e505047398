"""The audit log: what was acknowledged stays, nothing overwrites anything, and a change shows."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import OcusegError
from pipeline.review.log import START, AuditLog, Event, VersionConflict, visible
from pipeline.review.state import ReviewState, state_of, states
from tests.patience import joined

FORK = multiprocessing.get_context("fork")


def accept(case: str = "A_R_1_1", reviewer: str = "Ada", **changes: Any) -> Event:
    return Event(**({"reviewer": reviewer, "role": "reader", "case": case, "action": "accept", "verdict": "accepted"} | changes))


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog.of(tmp_path)


def three(log: AuditLog) -> list[Event]:
    first = log.append(accept(), 0)
    second = log.append(accept(action="reject", verdict="rejected", reasons=("missed", "border"), comment="čárka"), 1)
    return [first, second, log.append(accept("B_L_1_1"), 0)]


def test_events_come_back_as_they_were_stored_each_chained_to_the_one_before(log: AuditLog) -> None:
    assert log.events() == []
    assert log.head() == START
    assert log.verify() is None
    stored = three(log)
    assert log.events() == stored
    assert [one.seq for one in stored] == [1, 2, 3]
    assert [one.version for one in stored] == [1, 2, 1]
    assert [one.previous for one in stored] == [START, stored[0].hash, stored[1].hash]
    assert log.head() == stored[2].hash
    assert log.events("A_R_1_1") == stored[:2]
    assert log.events(after=2) == stored[2:]
    assert log.verify() is None
    assert not list(log.path.parent.glob("*-wal"))


def test_a_second_tab_or_reviewer_overwrites_nothing_and_is_told_who_was_first(log: AuditLog) -> None:
    log.append(accept(), 0)
    with pytest.raises(VersionConflict, match=r"^Ada changed this case at \d\d:\d\d UTC on .* load it again") as told:
        log.append(accept(reviewer="Ben", action="reject", verdict="rejected"), 0)
    assert (told.value.by, told.value.version) == ("Ada", 1)
    assert [one.reviewer for one in log.events()] == ["Ada"]


@pytest.mark.parametrize("statement", ["UPDATE events SET reviewer = 'Eve' WHERE seq = 1", "DELETE FROM events WHERE seq = 3"])
def test_sqlite_itself_refuses_to_change_or_delete(log: AuditLog, statement: str) -> None:
    three(log)
    with sqlite3.connect(log.path) as base, pytest.raises(sqlite3.IntegrityError, match="only grows"):
        base.execute(statement)
    base.close()


def test_sqlite_itself_refuses_to_replace_a_row(log: AuditLog) -> None:
    three(log)
    with sqlite3.connect(log.path) as base, pytest.raises(sqlite3.IntegrityError, match="only grows"):
        base.execute("INSERT OR REPLACE INTO events SELECT * FROM events WHERE seq = 2")
    base.close()


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        (["UPDATE events SET reviewer = 'Eve' WHERE seq = 2"], 2),
        (["UPDATE events SET reasons = 'nothing' WHERE seq = 2"], 2),
        (["DELETE FROM events WHERE seq = 1"], 1),
        (["DELETE FROM events WHERE seq = 2"], 2),
        (["DELETE FROM events WHERE seq = 3"], 3),
        (["DELETE FROM events"], 1),
        (
            [
                "UPDATE events SET seq = 9 WHERE seq = 1",
                "UPDATE events SET seq = 1 WHERE seq = 2",
                "UPDATE events SET seq = 2 WHERE seq = 9",
            ],
            1,
        ),
    ],
)
def test_whoever_goes_round_the_triggers_breaks_the_chain(log: AuditLog, statements: list[str], broken: int) -> None:
    three(log)
    base = sqlite3.connect(log.path)
    for trigger in ("no_update", "no_delete", "no_replace"):
        base.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()
    assert log.verify() == broken


def _adds(path: Path, reviewer: str, answers: Any) -> None:
    """Twelve cases; of each, one of two processes comes first."""
    log, won = AuditLog(path), 0
    for number in range(12):
        try:
            log.append(accept(f"P{number}_R_1_1", reviewer), 0)
            won += 1
        except VersionConflict as conflict:
            won += conflict.by == reviewer  # which cannot be
    answers.put(won)


def test_of_two_processes_one_comes_first_in_each_case(log: AuditLog) -> None:
    answers = FORK.Queue()
    both = [FORK.Process(target=_adds, args=(log.path, name, answers)) for name in ("Ada", "Ben")]
    for process in both:
        process.start()
    won = [answers.get() for _ in both]
    assert joined(both) == [0, 0]
    assert sum(won) == len(log.events()) == 12
    assert log.verify() is None


def _killed_inside(path: Path) -> None:
    """Leaves the journal of a transaction that was written to the file and not committed."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("PRAGMA cache_size = 1")
    base.execute("PRAGMA cache_spill = 1")
    base.execute("BEGIN IMMEDIATE")
    base.execute("DROP TRIGGER no_update")
    for _ in range(200):
        base.execute("UPDATE events SET comment = comment || hex(randomblob(500))")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_while_it_writes_leaves_what_was_acknowledged(log: AuditLog) -> None:
    stored = three(log)
    process = FORK.Process(target=_killed_inside, args=(log.path,))
    process.start()
    assert joined([process]) == [-signal.SIGKILL]
    assert log.path.with_name("log.sqlite-journal").exists(), "the test needs a journal that was left"
    assert log.events() == stored
    assert log.verify() is None


def test_a_damaged_file_is_one_sentence(log: AuditLog) -> None:
    three(log)
    log.path.write_bytes(b"no database" * 500)
    with pytest.raises(OcusegError, match=r"review log .* cannot be used .* backup"):
        log.events()


def test_the_state_of_a_case_is_what_its_events_lead_to(log: AuditLog, tmp_path: Path) -> None:
    assert states(tmp_path) == {}
    three(log)
    log.append(accept("B_L_1_1", action="eye", verdict="", eye="R"), 1)
    log.append(accept("B_L_1_1", action="comment", verdict="", comment="haze"), 2)
    found = states(tmp_path)
    assert (found["A_R_1_1"].verdict, found["A_R_1_1"].reasons, found["A_R_1_1"].version) == ("rejected", ("missed", "border"), 2)
    assert (found["B_L_1_1"].verdict, found["B_L_1_1"].eye, found["B_L_1_1"].comment) == ("accepted", "R", "haze")
    assert state_of("C_R_1_1", []) == ReviewState("C_R_1_1")


def test_an_adjudicator_ends_a_disagreement(log: AuditLog) -> None:
    events = [accept(), accept(reviewer="Ben", role="second", action="edit", verdict="edited", correction="f" * 64)]
    assert state_of("A_R_1_1", events).disagreement
    assert state_of("A_R_1_1", events).verdict == "accepted"
    ended = state_of("A_R_1_1", [*events, accept(reviewer="Cleo", role="adjudicator", action="adjudicate", verdict="rejected")])
    assert not ended.disagreement
    assert (ended.verdict, ended.reviewer) == ("rejected", "Cleo")
    assert {role: one.verdict for role, one in ended.readings.items()} == {
        "reader": "accepted",
        "second": "edited",
        "adjudicator": "rejected",
    }


def test_a_blinded_reader_sees_the_others_after_their_own_verdict_alone(log: AuditLog) -> None:
    first = log.append(accept(), 0, blinded=True)
    with pytest.raises(VersionConflict):
        log.append(accept(reviewer="Ben", role="second"), 0)
    comment = accept(reviewer="Ben", role="second", action="comment", verdict="", comment="dark")
    assert visible([first], "Ben", "second", True) == []
    own = log.append(comment, 0, blinded=True)
    assert visible([first, own], "Ben", "second", True) == [own]
    assert visible([first, own], "Ada", "reader", True) == [first, own]
    verdict = log.append(accept(reviewer="Ben", role="second"), 1, blinded=True)
    assert verdict.version == 3
    assert visible([first, own, verdict], "Ben", "second", True) == [first, own, verdict]
    with pytest.raises(VersionConflict):
        log.append(accept(reviewer="Ben", role="second"), 2, blinded=True)
    assert visible([first, own], "Cleo", "adjudicator", True) == [first, own]

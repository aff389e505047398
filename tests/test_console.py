"""Progress where nobody watches a bar: a line every so often, with what has been reached and how long it will take."""

from __future__ import annotations

import pytest

from pipeline.cli import console
from pipeline.types import duration


def test_a_log_file_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("training") as advance:
        for second in range(1, 101):
            now[0] = float(second)
            advance(second, 1000, f"epoch 1, loss {1 / second:.3f}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["training: 30 of 1000", "training: 60 of 1000", "training: 90 of 1000"]
    assert lines[1] == "training: 60 of 1000, epoch 1, loss 0.017, 16 min left"


def test_a_step_that_is_soon_over_says_nothing_and_each_part_is_timed_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    advance = console.ProgressLines("training")

    def said(at: float, done: int, total: int, note: str) -> str:
        now[0] = at
        advance(done, total, note)
        return capsys.readouterr().err

    assert said(29, 3, 3, "reading cases") == ""
    assert said(40, 500, 1000, "epoch 51, loss 1") == "training: 500 of 1000, epoch 51, loss 1\n"  # resumed: no pace is known yet
    assert said(69, 503, 1000, "epoch 51, loss 1") == ""
    assert said(80, 504, 1000, "epoch 51, loss 1") == "training: 504 of 1000, epoch 51, loss 1, 83 min left\n"
    assert said(120, 7, 8, "validating") == "training: 7 of 8, validating\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (11100, "3 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""What the sender writes to its log, which stays in the run's folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.training import sender
from pipeline.training.sender import Sender
from pipeline.training.spool import Sent, Spool


def test_its_log_holds_a_sentence_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(self: Sender, sent: Sent) -> None:
        raise ConnectionError("the server does not answer\nand more")

    monkeypatch.setattr(Sender, "_connected", unreachable)
    monkeypatch.setattr(sender, "ORPHAN_SECONDS", -1.0)
    Spool(tmp_path).append("tags", {"tags": {"a": "b"}})
    carrier = Sender(tmp_path, "http://127.0.0.1:9", None, "key")
    carrier.orphaned = True
    carrier.finishing.set()
    with caplog.at_level(logging.WARNING):
        carrier.run()
    (told,) = caplog.records
    assert told.getMessage() == "not delivered: ConnectionError: the server does not answer"
    assert told.exc_info is None
    assert Sent.load(tmp_path).problem == "ConnectionError: the server does not answer"

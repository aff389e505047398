"""What the review server shows and stores."""

from __future__ import annotations

import base64
import errno
import json
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import NothingUsableError
from pipeline.reports.worklist import write_report
from pipeline.review.audit import audit, status
from pipeline.review.corrections import corrections_folder, model_sha256, read_correction
from pipeline.review.log import AuditLog
from pipeline.review.server import Wishes, started
from pipeline.review.state import eyes_of, states
from pipeline.scans.raster import png_of
from tests.patience import LONG_S, joined, wait_until
from tests.review.conftest import FELLOW, FIRST, UNKNOWN, Browser, Serve

FORK = multiprocessing.get_context("fork")


def png(mask: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(png_of(mask)).decode()


def edit(browser: Browser, case: str, version: int, mask: np.ndarray[Any, Any], **more: Any) -> tuple[int, Any]:
    planes = [{"index": 0, "mask": png(mask)}]
    return browser.post(f"/api/cases/{case}/edit", {"version": version, "planes": planes, "tools": ["brush"], "seconds": 9.5} | more)


def disc() -> np.ndarray[Any, Any]:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 1
    mask[25:35, 35:45] = 3
    return mask


def test_the_reports_own_pages_come_with_the_bar_and_keep_to_the_policy(serve: Serve, predictions: Path) -> None:
    browser = serve()
    before = (predictions / "report" / "cases" / f"{FIRST}.html").read_bytes()
    for path, case in (("/", ""), (f"/cases/{FIRST}.html", FIRST), ("/patients/pa.html", "")):
        code, content, headers = browser.ask("GET", path)
        page = content.decode()
        assert code == 200
        assert '<script type="module" src="/review/review.js"></script>' in page
        assert f'<body data-csrf="{browser.get("/api/session")["csrf"]}"' in page
        assert (f'data-case="{case}"' in page) == bool(case)
        policy = headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "http-equiv" not in page
        assert " style=" not in page
        (nonce,) = re.findall("'nonce-(.*?)'", policy)
        assert set(re.findall("<style.*?>", page)) <= {f'<style nonce="{nonce}">'}
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    for path in (
        "/assets/viewer.js",
        "/rows.js",
        f"/thumbs/{FIRST}.jpg",
        f"/cases/{FIRST}/image_000.png",
        "/ledger.csv",
        "/review/review.js",
    ):
        assert browser.ask("GET", path)[0] == 200, path
    assert (predictions / "report" / "cases" / f"{FIRST}.html").read_bytes() == before


def test_a_case_is_told_with_what_an_editor_needs(serve: Serve) -> None:
    browser = serve()
    case = browser.get(f"/api/cases/{FIRST}")
    (plane,) = case["planes"]
    assert (plane["index"], plane["width"], plane["height"], plane["image"]) == (0, 80, 60, f"/cases/{FIRST}/image_000.png")
    assert plane["mask"] == f"/cases/{FIRST}/mask_000.png?model={case['model']}"
    assert browser.ask("GET", plane["mask"])[0] == 200
    assert [(one["name"], one["kind"], one["index"], one["inside"]) for one in case["classes"]] == [
        ("disc", "mask", 1, None),
        ("cup", "mask", 2, None),
    ]
    assert (case["version"], case["verdict"], case["overlapping"], case["eye"], case["eye_source"]) == (0, "unreviewed", True, "R", "tag")
    session = browser.get("/api/session")
    assert (session["reviewer"], session["role"], session["blinded"]) == ("Ada", "reader", False)
    assert sorted(session["order"]) == sorted([FIRST, FELLOW, UNKNOWN])
    assert browser.ask("GET", "/api/cases/pz_R_v1_i1")[0] == 404


def test_verdicts_are_stored_and_the_next_case_is_one_that_waits(serve: Serve, predictions: Path) -> None:
    browser = serve()
    order = browser.get("/api/session")["order"]
    assert browser.get(f"/api/cases/{order[0]}")["next"] == order[1]
    assert browser.post(f"/api/cases/{order[1]}/verdict", {"version": 0, "action": "accept"}) == (
        200,
        {"version": 1, "verdict": "accepted", "next": order[2]},
    )
    assert browser.get(f"/api/cases/{order[0]}")["next"] == order[2]
    sent = {"version": 0, "action": "reject", "reasons": ["missed", "border"], "comment": "cup too small"}
    assert browser.post(f"/api/cases/{order[2]}/verdict", sent)[1]["next"] == order[0]
    assert browser.post(f"/api/cases/{order[0]}/comment", {"version": 0, "comment": "dark"}) == (200, {"version": 1})
    found = states(predictions)
    assert (found[order[2]].verdict, found[order[2]].reasons, found[order[2]].reviewer) == ("rejected", ("missed", "border"), "Ada")
    assert found[order[1]].mask_sha256 == model_sha256(predictions / "cases" / order[1])
    progress = browser.get("/api/progress")
    assert (progress["cases"], progress["accepted"], progress["rejected"], progress["unreviewed"]) == (3, 1, 1, 1)
    assert progress["verdicts"][order[2]] == "rejected"
    assert status(predictions, 3) | {"head": ""} == {
        "cases": 3, "accepted": 1, "rejected": 1, "edited": 0, "unreviewed": 1, "reasons": {"missed": 1, "border": 1},
        "read_twice": 0, "disagreements": 0, "reviewers": {"Ada": 2}, "events": 3, "head": "",
    }  # fmt: skip


def test_of_two_tabs_or_reviewers_the_later_is_told_and_nothing_is_overwritten(serve: Serve, predictions: Path) -> None:
    ada, ben = serve(), serve(reviewer="Ben")
    assert ada.post(f"/api/cases/{FIRST}/verdict", {"version": 0, "action": "accept"})[0] == 200
    code, told = edit(ben, FIRST, 0, disc())
    assert (code, told["version"], told["by"]) == (409, 1, "Ada")
    assert told["message"].startswith("Ada changed this case at ")
    assert states(predictions)[FIRST].verdict == "accepted"
    assert not corrections_folder(predictions).exists()
    assert edit(ben, FIRST, 1, disc())[0] == 200
    assert ada.get(f"/api/cases/{FIRST}")["history"][1]["reviewer"] == "Ben"


def test_an_edit_goes_on_from_what_it_was_begun_on_and_is_stored_once(serve: Serve, predictions: Path) -> None:
    browser = serve()
    assert edit(browser, FIRST, 0, disc(), base="")[0] == 200
    first = states(predictions)[FIRST].correction
    assert edit(browser, FIRST, 0, disc(), base="") == (200, {"version": 1, "verdict": "edited", "next": FELLOW}), "its answer was lost"
    assert edit(browser, FIRST, 0, disc(), base="", seconds=8)[0] == 409, "another tab's"
    for base in ("", first):
        version = browser.get(f"/api/cases/{FIRST}")["version"]
        assert edit(browser, FIRST, version, disc(), base=base)[0] == 200
        assert read_correction(predictions, states(predictions)[FIRST].correction).record.parent == base
    code, told = edit(browser, FIRST, 3, disc(), base="ab" * 32)
    assert (code, told["message"].split(";")[0]) == (422, "the correction that was shown is none of this case")
    for version, (base, verdict) in enumerate([("", "accepted"), (first, "edited")], 3):  # of what was shown, whatever stands now
        sent = {"version": version, "action": "accept", "base": base}
        assert browser.post(f"/api/cases/{FIRST}/verdict", sent)[1]["verdict"] == verdict
        assert states(predictions)[FIRST].correction == base


def test_an_edit_becomes_a_correction_and_the_models_mask_stays(serve: Serve, predictions: Path) -> None:
    browser, mask = serve(), predictions / "cases" / FIRST / "mask_000.png"
    before = mask.read_bytes()
    code, told = edit(browser, FIRST, 0, disc(), comment="moved")
    assert (code, told["verdict"], told["version"]) == (200, "edited", 1)
    state = states(predictions)[FIRST]
    found = read_correction(predictions, state.correction)
    assert np.array_equal(found.masks[0], disc())
    assert (found.record.case, found.record.tools, found.record.seconds) == (FIRST, ("brush",), 9.5)
    assert found.record.base == state.mask_sha256 == model_sha256(mask.parent)
    assert mask.read_bytes() == before
    case = browser.get(f"/api/cases/{FIRST}")
    code, content, headers = browser.ask("GET", case["planes"][0]["mask"])
    assert code == 200
    assert content == png_of(disc())
    assert "immutable" in headers["Cache-Control"]
    assert browser.ask("GET", case["planes"][0]["mask"].replace(FIRST, FELLOW))[0] == 404, "it is of another case"

    address = f"/api/cases/{FIRST}/numbers?correction={state.correction}"
    wait_until(lambda: "measuring" not in browser.get(address))
    numbers = browser.get(address)
    assert "Counted on the correction by Ada" in numbers["found"]
    assert f'<td class="number">{np.count_nonzero(disc() & 1)}</td>' in numbers["found"].replace("\u202f", "")
    assert (numbers["planes"], numbers["unmeasured"]) == ([], 0)
    (found,) = browser.get("/api/numbers").values()
    assert [one["name"] for one in found] == ["disc", "cup"]
    assert browser.ask("GET", f"/api/cases/{FELLOW}/numbers?correction={state.correction}")[0] == 404, "it is of another case"

    # Whoever accepts what is shown accepts the correction; the model's own mask is taken by name.
    assert browser.post(f"/api/cases/{FIRST}/verdict", {"version": 1, "action": "accept"})[1]["verdict"] == "edited"
    assert browser.post(f"/api/cases/{FIRST}/verdict", {"version": 2, "action": "accept", "take": "model"})[1]["verdict"] == "accepted"
    assert browser.get(f"/api/cases/{FIRST}")["planes"][0]["mask"] == case["planes"][0]["mask"].replace(
        f"/api/cases/{FIRST}/corrections/{state.correction}/mask_000.png", f"/cases/{FIRST}/mask_000.png?model={state.mask_sha256}"
    )
    assert audit(predictions).faults == ()


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ([{"index": 0, "mask": "no base64!"}], "a mask is not base64 of a PNG"),
        ([{"index": 0, "mask": base64.b64encode(b"GIF89a").decode()}], "a mask must be a PNG"),
        ([{"index": 0, "mask": png(np.zeros((80, 60), np.uint8))}], "a mask is 60 x 80 where the case is 80 x 60 in grey values"),
        ([{"index": 0, "mask": png(np.full((60, 80), 4, np.uint8))}], "a mask holds 4, and the classes of this case reach 3"),
        (
            [{"index": 0, "mask": png(np.zeros((60, 80, 3), np.uint8))}],
            "a mask is 80 x 60 in colour where",
        ),
        ([{"index": 1, "mask": png(np.zeros((60, 80), np.uint8))}], "there is no slice 1 in this case"),
        ([{"index": 0, "mask": png(np.zeros((900, 900), np.uint8))}], "a mask cannot be read: "),
    ],
)
def test_a_mask_that_cannot_be_this_cases_is_refused_before_anything_is_stored(
    refusing: Browser, planes: list[dict[str, Any]], message: str
) -> None:
    code, told = refusing.post(f"/api/cases/{FIRST}/edit", {"version": 0, "planes": planes})
    assert code == 422
    assert told["message"].startswith(message)


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("verdict", {"version": 0, "action": "maybe"}),
        ("verdict", {"version": 0, "action": "reject", "reasons": ["bad"]}),
        ("verdict", {"version": -1, "action": "accept"}),
        ("verdict", {"version": 0, "action": "accept", "take": "second"}),
        ("comment", {"version": 0, "comment": "x" * 4001}),
        ("eye", {"version": 0, "eye": "L"}),
        ("edit", {"version": 0, "objects": [{"class": 1, "box": [0, 0, 5, 5]}]}),
        ("edit", {"version": 0, "surfaces": [{"name": "ILM", "plane": 0, "rows": []}]}),
    ],
)
def test_what_makes_no_sense_is_one_sentence(refusing: Browser, what: str, sent: dict[str, Any]) -> None:
    code, told = refusing.post(f"/api/cases/{FIRST}/{what}", sent)
    assert code == 422
    assert told["message"]
    assert "\n" not in told["message"]


def test_one_click_sets_an_unknown_eye_and_the_record_stays(serve: Serve, predictions: Path) -> None:
    browser, record = serve(), predictions / "cases" / UNKNOWN / "case.json"
    before = record.read_bytes()
    assert browser.get(f"/api/cases/{UNKNOWN}")["eye"] is None
    assert browser.post(f"/api/cases/{UNKNOWN}/eye", {"version": 0, "eye": "L"}) == (200, {"version": 1})
    case = browser.get(f"/api/cases/{UNKNOWN}")
    assert (case["eye"], case["eye_source"], case["verdict"]) == ("L", "reviewer", "unreviewed")
    assert b"set by a reviewer" in browser.ask("GET", f"/cases/{UNKNOWN}.html")[1]
    assert browser.get("/api/progress")["eyes"] == {UNKNOWN: "L"}
    assert record.read_bytes() == before
    assert browser.ask("GET", "/")[0] == 200
    assert f",{UNKNOWN},pb,v1,i1,OS,reviewer," in (predictions / "report" / "worklist.csv").read_text()
    write_report(predictions, eyes=eyes_of(predictions))
    assert f",{UNKNOWN},pb,v1,i1,OS,reviewer," in (predictions / "report" / "worklist.csv").read_text()


def test_a_mask_that_changed_since_is_told(serve: Serve, predictions: Path) -> None:
    browser = serve()
    browser.post(f"/api/cases/{FIRST}/verdict", {"version": 0, "action": "accept"})
    mask = predictions / "cases" / FIRST / "mask_000.png"
    mask.write_bytes(png_of(np.zeros((60, 80), np.uint8)))
    case = browser.get(f"/api/cases/{FIRST}")
    assert case["verdict"] == "unreviewed"
    assert "predicted again" in case["notice"]
    again = serve()
    assert again.get("/api/progress")["verdicts"][FIRST] == "unreviewed"
    assert FIRST in (again.get(f"/api/cases/{other}")["next"] for other in (FELLOW, UNKNOWN))
    assert again.post(f"/api/cases/{FIRST}/verdict", {"version": 1, "action": "accept"})[0] == 200
    assert again.get("/api/progress")["verdicts"][FIRST] == "accepted"
    mask.write_bytes(png_of(np.ones((60, 80), np.uint8)))
    assert audit(predictions).faults == (f"{FIRST}: the model's answer is another one than the one that was reviewed",)


def test_a_verdict_is_about_the_answer_that_was_on_show(serve: Serve, predictions: Path) -> None:
    """Predicted again while somebody looks: neither the old contours nor a mask that the browser kept pass for the new answer."""
    browser = serve()
    page, case = f"/cases/{FIRST}.html", f"/api/cases/{FIRST}"
    drawn, old = browser.ask("GET", page)[1].decode(), browser.get(case)
    assert f'data-model="{old["model"]}"' in drawn
    (predictions / "cases" / FIRST / "mask_000.png").write_bytes(png_of(disc()))
    for code, told in (
        browser.post(f"{case}/verdict", {"version": 0, "action": "accept", "model": old["model"]}),
        edit(browser, FIRST, 0, disc(), model=old["model"]),
    ):
        assert (code, told["message"][:28]) == (422, "the case was predicted again")
    assert states(predictions) == {}
    assert not corrections_folder(predictions).exists()
    again, new = browser.ask("GET", page)[1].decode(), browser.get(case)
    assert f'data-model="{new["model"]}"' in again
    assert re.findall('<path[^>]* d="(.*?)"', again) != re.findall('<path[^>]* d="(.*?)"', drawn), "the contours are the new ones"
    assert new["planes"][0]["mask"] != old["planes"][0]["mask"], "a browser may keep a mask for an hour"
    assert browser.post(f"{case}/verdict", {"version": 0, "action": "accept", "model": new["model"]})[0] == 200
    assert states(predictions)[FIRST].mask_sha256 == new["model"]
    assert browser.get("/api/progress")["verdicts"][FIRST] == "accepted"


def _dies_before_the_event(predictions: Path) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    AuditLog.append = die  # type: ignore[assignment]
    with started(predictions, Wishes(port=0, reviewer="Ada")) as server:
        edit(Browser(server.port), FIRST, 0, disc())


def test_a_server_killed_between_correction_and_event_leaves_no_half_of_either(serve: Serve, predictions: Path) -> None:
    process = FORK.Process(target=_dies_before_the_event, args=(predictions,))
    process.start()
    assert joined([process]) == [-signal.SIGKILL]
    (left,) = corrections_folder(predictions).iterdir()
    assert AuditLog.of(predictions).events() == []
    assert (audit(predictions).faults, audit(predictions).unnamed) == ((), 1)
    browser = serve()
    assert browser.get(f"/api/cases/{FIRST}")["verdict"] == "unreviewed"
    assert edit(browser, FIRST, 0, disc())[0] == 200, "the page sends it again"
    assert states(predictions)[FIRST].correction == left.name
    assert audit(predictions).unnamed == 0


def test_a_full_disk_is_told_and_what_was_stored_stays(serve: Serve, predictions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/patient/mask.png")

    browser = serve()
    browser.post(f"/api/cases/{FIRST}/verdict", {"version": 0, "action": "accept"})
    with monkeypatch.context() as disk:
        disk.setattr("pipeline.review.review.write_correction", full)
        code, told = edit(browser, FIRST, 1, disc())
    assert code == 503
    assert told["message"].startswith("this could not be stored or read (No space left on device)")
    assert "secret" not in told["message"]
    assert edit(browser, FIRST, 1, disc())[0] == 200


def test_a_log_that_others_hold_is_told_as_what_may_be_tried_again(
    serve: Serve, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page drops what is refused for good (422), and keeps and repeats what is not."""
    browser, sent = serve(), {"version": 1, "action": "accept"}
    browser.post(f"/api/cases/{FIRST}/comment", {"version": 0, "comment": "first"})
    monkeypatch.setattr("pipeline.review.log._PATIENCE_S", 0.01)
    with closing(sqlite3.connect(AuditLog.of(predictions).path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, told, _ = browser.ask("GET", f"/api/cases/{FIRST}")
        assert (code, json.loads(told)["message"].partition(" (")[0]) == (503, "the review log review/log.sqlite cannot be used now")
        assert browser.post(f"/api/cases/{FIRST}/verdict", sent)[0] == 503
    assert browser.post(f"/api/cases/{FIRST}/verdict", sent)[0] == 200


def test_audit_tells_what_is_lost_or_replaced(serve: Serve, predictions: Path) -> None:
    edit(serve(), FIRST, 0, disc())
    head = AuditLog.of(predictions).head()
    assert audit(predictions, head).faults == ()
    (correction,) = corrections_folder(predictions).iterdir()
    (correction / "mask_000.png").write_bytes(b"other")
    assert "was changed after it was stored" in audit(predictions).faults[0]
    (predictions / "review" / "log.sqlite").unlink()
    assert audit(predictions, head).faults == (f"the log does not hold the event {head[:12]} that was noted: its end was replaced",)


SERVER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where it is ignored
from pipeline.review.server import Wishes, started
with started(Path(sys.argv[1]), Wishes(port=0, reviewer="Ada")) as server:
    print(server.port, flush=True)
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
time.sleep(0.5)  # an export follows, in which a server that has not ended would complain
print(sorted({"torch", "monai", "mlflow"} & set(sys.modules)))
"""


def test_a_server_of_its_own_loads_no_network_and_ends_quietly_by_ctrl_c(predictions: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(predictions)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            browser = Browser(int(server.stdout.readline()))
            assert edit(browser, FIRST, 0, disc())[0] == 200
            server.send_signal(signal.SIGINT)
            said, complaints = server.communicate(timeout=LONG_S)
        finally:
            server.kill()
    assert (said, complaints, server.returncode) == ("[]\n", "", 0)


def test_a_folder_without_predictions_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match=r"no run\.json here"):
        started(tmp_path, Wishes(port=0))

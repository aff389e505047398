"""Who gets in, what they may see, and what they may not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError
from pipeline.review import accounts as accounts_module
from pipeline.review.accounts import Accounts, Throttle
from pipeline.review.log import AuditLog
from pipeline.review.pages import file_of
from pipeline.review.server import Wishes, access_of
from pipeline.review.sessions import SESSIONS_FILE
from tests.review.conftest import FELLOW, FIRST, UNKNOWN, Browser, Serve
from tests.review.test_server import disc, edit

PASSWORD = "correct-horse"
ACCEPT = {"version": 0, "action": "accept"}


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three accounts; scrypt at a thousandth of its cost, which one test measures."""
    monkeypatch.setattr(accounts_module, "_COST", 1 << 5)
    path = tmp_path / "private" / "accounts.json"
    for name in ("Ada", "Ben", "Cleo"):
        Accounts(path).add(name, PASSWORD)
    return path


def readers(serve: Serve, accounts: Path) -> list[Browser]:
    """First and second reader, blinded, and an adjudicator, each logged in."""
    server = serve(accounts=accounts, second=["Ben"], adjudicators=["Cleo"], blinded=True)
    browsers = [Browser(server.port) for _ in range(3)]
    assert [browser.log_in(name, PASSWORD) for browser, name in zip(browsers, ("Ada", "Ben", "Cleo"), strict=True)] == [303] * 3
    return browsers


def test_off_loopback_nothing_starts_without_a_login(tmp_path: Path, accounts: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ConfigError, match=r"^--host 10\.0\.0\.7: others can reach it, so reviewers log in, and there is no account yet: make an"
    ):
        access_of(Wishes(host="10.0.0.7", accounts=tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="--reviewer is for a server without login"):
        access_of(Wishes(host="10.0.0.7", accounts=accounts, reviewer="Ada"))
    with pytest.raises(ConfigError, match="--allowed-host"):
        access_of(Wishes(host="0.0.0.0", accounts=accounts))
    with pytest.raises(ConfigError, match="cannot be second reader and adjudicator"):
        access_of(Wishes(second=["Ada"], adjudicators=["Ada"]))
    assert access_of(Wishes()).accounts is None
    assert access_of(Wishes(host="10.0.0.7", accounts=accounts)).accounts is not None
    assert "unencrypted" in caplog.text


def test_a_password_is_kept_as_a_salted_scrypt_hash_that_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    Accounts(path).add("Ada", PASSWORD)
    Accounts(path).add("Ben", PASSWORD)
    text = path.read_text()
    assert PASSWORD not in text
    kept = json.loads(text)["accounts"]
    assert kept["Ada"]["hash"] != kept["Ben"]["hash"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Accounts(path).accepts("Ada", PASSWORD)
    assert not Accounts(path).accepts("Ada", PASSWORD + "r")
    assert not Accounts(path).accepts("Eve", PASSWORD)
    with pytest.raises(ConfigError, match="at least 10 characters"):
        Accounts(path).add("Ada", "short")
    with pytest.raises(ConfigError, match="1 to 64 printable characters"):
        Accounts(path).add("A\nda", PASSWORD)


def test_an_account_is_made_on_the_command_line_with_the_password_on_standard_input(accounts: Path, tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    made = CliRunner().invoke(app, ["review", "accounts", "add", "Ada", "--accounts", str(path)], input=PASSWORD + "\n")
    assert made.exit_code == 0, made.output
    assert Accounts(path).accepts("Ada", PASSWORD)
    assert PASSWORD not in made.output


def test_without_a_session_there_is_nothing_but_the_login(serve: Serve, accounts: Path, predictions: Path) -> None:
    browser = serve(accounts=accounts)
    for path in ("/api/session", f"/api/cases/{FIRST}", f"/cases/{FIRST}/image_000.png", f"/thumbs/{FIRST}.jpg", "/rows.js", "/ledger.csv"):
        assert browser.ask("GET", path)[0] == 401, path
    assert browser.ask("POST", f"/api/cases/{FIRST}/verdict", json.dumps(ACCEPT).encode())[0] == 401
    code, _, headers = browser.ask("GET", f"/cases/{FIRST}.html", Accept="text/html")
    assert (code, headers["Location"]) == (303, f"/login?next=/cases/{FIRST}.html")
    code, page, _ = browser.ask("GET", "/login?next=//evil.example/")
    assert code == 200
    assert b'name="next" value="/"' in page
    assert browser.log_in("Ada", "wrong password") == 401
    assert browser.log_in("Ada", PASSWORD) == 303
    assert browser.get("/api/session")["reviewer"] == "Ada"
    assert browser.post(f"/api/cases/{FIRST}/verdict", ACCEPT)[0] == 200
    assert AuditLog.of(predictions).events()[0].reviewer == "Ada"


def test_a_session_outlives_the_server_and_ends_with_logout_password_and_account(serve: Serve, accounts: Path, predictions: Path) -> None:
    first = serve(accounts=accounts)
    first.log_in("Ada", PASSWORD)
    cookie, token = first.headers["Cookie"], first.get("/api/session")["csrf"]
    assert cookie.split("=")[1] not in (predictions / "review" / SESSIONS_FILE).read_text()
    again = Browser(serve(accounts=accounts).port, Cookie=cookie)
    assert again.get("/api/session")["csrf"] == token
    again.post("/logout", {})
    assert again.ask("GET", "/api/session")[0] == 401
    for end in (lambda: Accounts(accounts).add("Ada", "another-password"), lambda: Accounts(accounts).remove("Ada")):
        Accounts(accounts).add("Ada", PASSWORD)
        assert again.log_in("Ada", PASSWORD) == 303
        assert again.ask("GET", "/api/session")[0] == 200
        end()
        assert again.ask("GET", "/api/session")[0] == 401


def test_who_guesses_passwords_has_to_wait(serve: Serve, accounts: Path) -> None:
    browser = serve(accounts=accounts)
    assert [browser.log_in("Ada", "wrong password") for _ in range(6)] == [401] * 5 + [429]
    assert browser.log_in("Ada", PASSWORD) == 429, "a right guess is not told from a wrong one"
    assert browser.log_in("Ben", PASSWORD) == 303


def test_a_wait_ends_and_one_address_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle, now = Throttle(), 1000.0
    monkeypatch.setattr("pipeline.review.accounts.time.monotonic", lambda: now)
    assert [throttle.wait_s(f"name {number}", "10.0.0.1") for number in range(21)] == [0] * 20 + [300]
    assert throttle.wait_s("name", "10.0.0.2") == 0
    now += 301
    assert throttle.wait_s("name", "10.0.0.1") == 0


def test_a_proxys_header_counts_from_the_proxy_alone(serve: Serve, predictions: Path) -> None:
    proxied = serve(proxy_header="X-Remote-User")
    assert proxied.ask("GET", "/api/session")[0] == 401
    proxied.headers["X-Remote-User"] = "Dr. Ada"
    assert proxied.get("/api/session")["reviewer"] == "Dr. Ada"
    assert proxied.post(f"/api/cases/{FIRST}/verdict", ACCEPT)[0] == 200
    assert AuditLog.of(predictions).events()[0].reviewer == "Dr. Ada"
    elsewhere = serve(proxy_header="X-Remote-User", proxies=["10.0.0.9"])
    code, told, _ = elsewhere.ask("GET", "/api/session", X_Remote_User="Dr. Ada")
    assert (code, json.loads(told)["message"]) == (403, "this server answers to its reverse proxy alone")
    plain = serve()
    assert Browser(plain.port, X_Remote_User="Eve").get("/api/session")["reviewer"] == "Ada", "nobody asked for that header"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X_CSRF_Token": ""}, 403),
        ({"X_CSRF_Token": "0" * 64}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Content_Length": "999999999999"}, 413),
    ],
)
def test_what_changes_something_comes_from_the_servers_own_page(
    serve: Serve, predictions: Path, headers: dict[str, str], code: int
) -> None:
    answer, told = serve().post(f"/api/cases/{FIRST}/verdict", ACCEPT, **headers)
    assert answer == code, told
    assert len(AuditLog.of(predictions).events()) == (code == 200)


def test_another_host_name_is_refused_for_pages_too(refusing: Browser) -> None:
    for path in ("/", f"/cases/{FIRST}/image_000.png", "/api/session", "/login"):
        assert refusing.ask("GET", path, Host="rebound.example")[0] == 403
    for name in ("review.example.org", "Review.Example.Org:443", "localhost:1", "[::1]:8800"):
        assert refusing.ask("GET", "/", Host=name)[0] == 200, name


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../out/run.json",
            "run.json",
            "review/log.sqlite",
            "review/sessions.json",
            "review/../../log.py",
            "journal.sqlite",
            "report/index.html",
        ),
        *(f"cases/{FIRST}/case.json", f"cases/{FIRST}/../../run.json", f"cases/{FIRST}/mask.nii.gz", f"data/{FIRST}.json", ".lock"),
        *("assets/../../run.json", "cases/..%2f..%2frun.json", "%2e%2e/run.json", "//etc/passwd", "cases/", "api", "docs", "openapi.json"),
        f"api/cases/{FIRST}/corrections/{'0' * 64}/mask_000.png",
    ],
)
def test_nothing_but_pages_and_pictures_is_served(refusing: Browser, path: str) -> None:
    assert refusing.ask("GET", f"/{path}")[0] == 404


def test_a_symbolic_link_leads_nowhere(predictions: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    os.symlink(tmp_path / "secret.png", predictions / "cases" / FIRST / "link.png")
    os.symlink(predictions / "cases" / FIRST / "image_000.png", predictions / "cases" / FELLOW / "link.png")
    assert file_of(predictions, f"cases/{FIRST}/link.png") is None
    assert file_of(predictions, f"cases/{FELLOW}/link.png") is not None


def test_a_blinded_reader_sees_nothing_of_the_other_before_their_own_verdict(serve: Serve, accounts: Path) -> None:
    ada, ben, _ = readers(serve, accounts)
    untouched: list[Any] = [ben.get(f"/api/cases/{FIRST}"), ben.get("/api/progress")]
    page = ben.ask("GET", f"/cases/{UNKNOWN}.html")[1]
    assert edit(ada, FIRST, 0, disc(), comment="for nobody else")[0] == 200
    assert ada.post(f"/api/cases/{UNKNOWN}/eye", {"version": 0, "eye": "R"})[0] == 200
    mask = ada.get(f"/api/cases/{FIRST}")["planes"][0]["mask"]
    assert [ben.get(f"/api/cases/{FIRST}"), ben.get("/api/progress")] == untouched
    assert ben.ask("GET", mask)[0] == 404
    assert _without_nonce(ben.ask("GET", f"/cases/{UNKNOWN}.html")[1]) == _without_nonce(page)
    code, told = ben.post(f"/api/cases/{FIRST}/verdict", ACCEPT)
    assert (code, told["verdict"], told["version"]) == (200, "accepted", 2)
    seen = ben.get(f"/api/cases/{FIRST}")
    assert (seen["verdict"], seen["disagreement"]) == ("accepted", True)
    assert [one["reviewer"] for one in seen["history"]] == ["Ada", "Ben"]
    assert ben.ask("GET", mask)[0] == 200


def test_an_adjudicator_is_led_to_disagreements_and_ends_them(serve: Serve, accounts: Path, predictions: Path) -> None:
    ada, ben, cleo = readers(serve, accounts)
    for case in (FIRST, FELLOW):
        assert edit(ada, case, 0, disc())[0] == 200
    assert ben.post(f"/api/cases/{FIRST}/verdict", {"version": 0, "action": "reject", "reasons": ["quality"]})[0] == 200
    assert cleo.get(f"/api/cases/{FELLOW}")["next"] == FIRST
    case = cleo.get(f"/api/cases/{FIRST}")
    assert [(one["role"], one["verdict"]) for one in case["readings"]] == [("reader", "edited"), ("second", "rejected")]
    assert (case["verdict"], case["version"]) == ("unreviewed", 2)
    code, told = cleo.post(f"/api/cases/{FIRST}/verdict", {"version": 2, "action": "accept", "take": "reader"})
    assert (code, told["verdict"], told["next"]) == (200, "edited", None)
    last = AuditLog.of(predictions).events()[-1]
    assert (last.action, last.role, last.correction) == ("adjudicate", "adjudicator", case["readings"][0]["correction"])
    other = {"version": 3, "action": "accept", "take": "reader", "base": "ab" * 32}
    assert cleo.post(f"/api/cases/{FIRST}/verdict", other)[0] == 422, "it is not the reading that was shown"
    assert ada.post(f"/api/cases/{FIRST}/verdict", {"version": 3, "action": "reject", "reasons": ["extra"]})[0] == 200
    case = ada.get(f"/api/cases/{FIRST}")
    assert [case[key] for key in ("verdict", "reviewer", "author")] == ["edited", "Cleo", "Ada"], (
        "whose verdict counts, and not who spoke last"
    )


def _without_nonce(page: bytes) -> bytes:
    """What differs from one answer to the next."""
    start, _, rest = page.partition(b'<style nonce="')
    return start + rest.partition(b'"')[2]

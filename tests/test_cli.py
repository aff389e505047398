"""The command line: one line an error, documented exit codes, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app

RUN = CliRunner()


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "phantom_little"], "--root is missing"),
        (["train"], "give exactly one of CONFIG, --resume RUN, --from-run ID, --send RUN"),
        (["train", "absent.yaml", "--root", "."], "cannot be read"),
        (["train", "phantom_little", "--root", "absent"], "--root 'absent' is not a folder"),
        (["train", "phantom_little", "--root", ".", "--set", "model.name=unett"], "did you mean 'unet'?"),
        (["train", "phantom_little", "--root", ".", "--plugin", "absent.py"], "is not a Python file"),
        (["evaluate", "absent", "--card", "phantom", "--root", "."], "bundle"),
        (["predict", "absent", ".", "--out", "out"], "bundle"),
        (["report", "absent"], "is not a folder"),
        (["index", "absent"], "is not a folder"),
        (["card", "check", "phantmo", "--root", "."], "did you mean 'phantom'?"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert len(lines(result.stderr)) == 1
    assert result.stderr.startswith("error: ")


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in (["trian"], ["phantom"], ["phantom", "x", "--patients", "0"]):
        assert RUN.invoke(app, arguments).exit_code == 2


def test_every_command_has_help() -> None:
    result = RUN.invoke(app, ["--help"])
    for name in ("phantom", "index", "card", "train", "evaluate", "predict", "report", "models", "info", "schema", "demo"):
        assert f"  {name}" in result.output
        page = RUN.invoke(app, [name, "--help"])
        assert page.exit_code == 0
        assert page.output.startswith("Usage:")


def test_nothing_is_overwritten_by_phantoms(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = RUN.invoke(app, ["phantom", str(tmp_path), "--patients", "1"])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_models_and_info_and_schema_are_read_by_programs() -> None:
    models = json.loads(RUN.invoke(app, ["models", "--json"]).stdout)
    assert any(row["name"] == "unet" and row["settings"]["residual_units"] == 2 for row in models)
    assert "site_key" in json.loads(RUN.invoke(app, ["info", "--json"]).stdout)
    assert json.loads(RUN.invoke(app, ["schema"]).stdout)["title"] == "RunConfig"


def test_a_plugin_registers_a_network(tmp_path: Path) -> None:
    from pipeline.cli.runs import load_plugin
    from pipeline.models.base import MODELS

    plugin = tmp_path / "mine.py"
    plugin.write_text("import pipeline.models.base as base\nbase.MODELS.add('plugin-test')(lambda *a: None)\n")
    load_plugin(plugin)
    try:
        assert MODELS["plugin-test"].config is None
    finally:
        del MODELS._entries["plugin-test"]


def test_index_accounts_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.datasets.phantom_hospital import write_hospital

    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    write_hospital(tmp_path / "h", 1, 0, broken=True, fundus_shape=(100, 112), oct_shape=(2, 64, 80))
    files = sum(1 for path in (tmp_path / "h" / "scans").rglob("*") if path.is_file())
    arguments = ["index", str(tmp_path / "h" / "scans"), "--out", str(tmp_path / "c.sqlite")]
    result = RUN.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 3, result.output
    counts = json.loads(result.stdout)
    assert counts["files"] == files
    assert sum(counts[status] for status in ("read", "duplicate", "not_an_image", "rejected")) == files
    shown = RUN.invoke(app, [*arguments, "--show-paths"])
    assert "truncated.jpg: rejected (truncated)" in shown.stdout
    assert f"unchanged: {files}" in shown.stdout


def test_a_folder_without_any_scan_is_exit_code_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "line\nfeed.txt").write_text("no scan")
    result = RUN.invoke(app, ["index", str(tmp_path / "h"), "--out", str(tmp_path / "c.sqlite"), "--show-paths"])
    assert result.exit_code == 4
    assert "line\\nfeed.txt: not_an_image" in result.stdout

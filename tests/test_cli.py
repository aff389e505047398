"""The command line: one line an error, documented exit codes, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError
from pipeline.types import LabelClass, LabelMap

RUN = CliRunner()


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "phantom_little"], "--root is missing"),
        (["train"], "give exactly one of CONFIG, --card CARD, --resume RUN, --from-run ID, --send RUN"),
        (["train", "absent.yaml", "--root", "."], "absent.yaml: there is no such run file"),
        (["train", "phantom_little", "--root", "absent"], "--root 'absent' is not a folder"),
        (["train", "phantom_little", "--root", ".", "--set", "model.name=unett"], "did you mean 'unet'?"),
        (["train", "phantom_little", "--root", ".", "--plugin", "absent.py"], "is not a Python file"),
        (["evaluate", "absent", "--card", "phantom", "--root", "."], "bundle"),
        (["predict", "absent", ".", "--out", "out"], "bundle"),
        (["report", "absent"], "is not a folder"),
        (["index", "absent"], "is not a folder"),
        (["card", "check", "phantmo", "--root", "."], "did you mean 'phantom'?"),
        (["phantom", "file"], "'file': Not a directory"),
        (["phantom", "fresh", "--oct-only", "--broken"], "--broken and --oct-only cannot be combined"),
        (["demo", "file"], "Not a directory"),
        (["schema", "--out", "absent/x"], "'absent/x': No such file or directory"),
        (["index", "empty", "--out", "file/x"], "cannot be written"),
        (
            ["plan", "--card", "phantom", "--root", ".", "--out", "absent/x.yaml"],
            "its folder 'absent' is not a folder; give one that exists",
        ),
        (["train", "--resume", "empty", "--root", "."], "--resume 'empty' is not a run folder (it has no config.yaml)"),
        (["train", "phantom_little", "--root", ".", "--out", "file"], "'file': no run folder can be made in it (File exists)"),
        (["train", "phantom_little", "--root", ".", "--out", "file/x"], "'file/x': no run folder can be made in it (Not a directory)"),
        (["train", "phantom_little", "--root", ".", "--out", "dangling"], "'dangling': no run folder can be made in it (File exists)"),
        (
            ["train", "phantom_little", "--root", ".", "--plugin", "syntax.py"],
            "--plugin 'syntax.py', line 2: SyntaxError: '(' was never closed",
        ),
        (
            ["train", "phantom_little", "--root", ".", "--plugin", "import.py"],
            "--plugin 'import.py', line 3: ModuleNotFoundError: No module",
        ),
        (["train", "phantom_little", "--root", ".", "--plugin", "nested.py"], "--plugin 'nested.py', line 2: JSONDecodeError: Expecting"),
        (["train", "phantom_little", "--root", ".", "--plugin", "raise.py"], "--plugin 'raise.py', line 1: ValueError: first line; fix"),
        (["predict", "bundle", "empty", "--out", "file"], "the output folder cannot be written (File exists)"),
        (["report", "predictions"], "below 'predictions': Not a directory"),
        (["compare", "idrid_detectors", "--root", "absent"], "--root 'absent' is not a folder"),
        (["compare", "idrid_detectros", "--root", "."], "idrid_detectros: there is no such run file"),
        (["compare", "empty", "--root", "."], "empty: there is no run file (*.yaml) in this folder"),
        (["compare", "phantom_little", "phantom_little", "--root", "."], "'phantom_little' occurs twice"),
        (["crossvalidate", "phantom_little", "--root", "absent"], "--root 'absent' is not a folder"),
        (
            ["crossvalidate", "idrid_detectors", "--root", "."],
            "name one of them as idrid_detectors/RUN, RUN being one of detr,",
        ),
        (["train", "chase_networks/unte", "--root", "."], "chase_networks.yaml: runs: unknown 'unte'; did you mean 'unet'?"),
        (["train", "chase_netwroks/unet", "--root", "."], "chase_netwroks/unet: there is no such run file"),
        (["compare", "cross_camera", "--root", ".", "--split", "test"], "--split: cross_camera says what it is tested on"),
        (["compare", "cross_camera", "phantom_little", "--root", "."], "cross_camera: has tested_on: of its own; compare it alone"),
        (["compare", "cross_camera", "--root", "hrf=."], "--root: the folder of data set 'chase_db1' is missing; add --root chase_db1=DIR"),
        (["compare", "cross_camera", "--root", "hrf=absent"], "--root hrf: 'absent' is not a folder"),
        (["compare", "cross_camera", "--root", "hrf=.", "--root", "hrf=empty"], "--root: several folders for 'hrf'; write --root CARD=DIR"),
        (["train", "--resume", "empty", "--run-dir", "new", "--root", "."], "--run-dir belongs to a CONFIG"),
        (["workflow", "pbs", "--out", "job"], "workflow 'pbs': must be one of slurm, kubernetes, nextflow, snakemake"),
        (["workflow", "slurm", "--out", "job", "--memory", "16 GB"], "--memory '16 GB': write it as 16G"),
        (["workflow", "kubernetes", "--train", "--out", "job"], "--train: there is a script for slurm, and none for kubernetes"),
        (["schema", "--card", "--study"], "--card and --study cannot be combined"),
        (["train", "phantom_little", "--root", ".", "--weights-dir", "absent"], "--weights-dir 'absent' is not a folder"),
        (["live", "absent", "--source", "0"], "absent: is not a bundle"),
        (["live", "disc", "--source", "absent.mp4"], "--source 'absent.mp4' does not exist; give a camera's number (0), a video file"),
        (["live", "disc", "--source", "file"], "--source 'file' is no video that can be decoded"),
        (["live", "disc", "--source", "rtsp://me:secret@127.0.0.1:1/x"], "error: the stream rtsp://127.0.0.1:1/x does not answer"),
        (["live", "disc", "--source", "98"], "camera 98 cannot be opened; is it connected, and used by no other program?"),
        (["live", "disc", "--source", "0", "--every-frame"], "--every-frame: a camera does not wait"),
        (["live", "disc", "--source", "0", "--patient", "a/b"], "--patient 'a/b' must be a name that a folder can have"),
        (["live", "disc", "--source", "0", "--video", "film.gif"], "--video 'film.gif' must end in .mp4 or .avi"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    furnish(tmp_path, arguments)
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert len(lines(result.stderr)) == 1
    assert result.stderr.startswith("error: ")


def furnish(folder: Path, arguments: list[str]) -> None:
    """What the mistakes are made with."""
    (folder / "file").write_text("no folder")
    (folder / "empty").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "syntax.py").write_text("x = 1\nf(\n")
    (folder / "import.py").write_text("import json\n\nimport absent_package\n")
    (folder / "nested.py").write_text("import json\njson.loads('{')\n")
    (folder / "raise.py").write_text("raise ValueError('first line\\nsecond')\n")
    if "bundle" in arguments:
        from tests.inference.test_killed import tiny_bundle

        tiny_bundle(folder / "bundle")
    if "predictions" in arguments:
        (folder / "predictions" / "cases" / "a_R_b_c").mkdir(parents=True)
        classes = LabelMap((LabelClass(1, "vessel", (0, 114, 178)),)).to_json()
        (folder / "predictions" / "run.json").write_text(json.dumps({"classes": classes}))
        (folder / "predictions" / "report").write_text("no folder")


def test_a_refusal_of_the_system_names_what_was_given_and_nothing_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli.console import refusal

    monkeypatch.chdir(tmp_path)
    scans, out = Path("scans"), Path("out")

    def said(filename: object) -> str:
        return refusal(OSError(13, "Permission denied", filename), [scans, out, 3, None]).partition(";")[0]

    for below in ("scans/MEIER^ANNA/a.dcm", str(tmp_path / "scans" / "MEIER^ANNA"), b"scans/MEIER^ANNA"):
        assert said(below) == "below 'scans': Permission denied"
    assert said("out") == "'out': Permission denied"
    assert said("else\nwhere") == "'else\\nwhere': Permission denied"
    assert said(None) == said(7) == "Permission denied"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import config

    def broken() -> str:
        raise OSError("no word from the system")

    monkeypatch.setattr(config, "schema", broken)
    assert isinstance(RUN.invoke(app, ["schema"]).exception, OSError)


def test_a_workflows_mistakes_are_told_like_a_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli.console import script

    def mistaken() -> None:
        raise ConfigError("minutes: must be above 0")

    with pytest.raises(SystemExit) as end:
        script(mistaken)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: minutes: must be above 0\n"


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in (
        ["trian"],
        ["phantom"],
        ["phantom", "x", "--patients", "0"],
        ["compare", "phantom_little", "--root", ".", "--split", "tset"],
        ["crossvalidate", "phantom_little", "--root", ".", "--folds", "2"],
    ):
        assert RUN.invoke(app, arguments).exit_code == 2


def test_every_command_has_help() -> None:
    result = RUN.invoke(app, ["--help"])
    for name in (
        "phantom",
        "index",
        "card",
        "segment",
        "train",
        "evaluate",
        "compare",
        "crossvalidate",
        "predict",
        "report",
        "models",
        "networks",
        "info",
        "schema",
        "demo",
    ):
        assert f"  {name}" in result.output
        page = RUN.invoke(app, [name, "--help"])
        assert page.exit_code == 0
        assert page.output.startswith("Usage:")


def test_nothing_is_overwritten_by_phantoms(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    result = RUN.invoke(app, ["phantom", str(tmp_path), "--patients", "1"])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_networks_and_info_and_schema_are_read_by_programs() -> None:
    models = json.loads(RUN.invoke(app, ["networks", "--json"]).stdout)
    assert any(row["name"] == "unet" and row["settings"]["residual_units"] == 2 for row in models)
    assert "site_key" in json.loads(RUN.invoke(app, ["info", "--json"]).stdout)
    assert json.loads(RUN.invoke(app, ["schema"]).stdout)["title"] == "RunConfig"


def test_a_plugin_registers_a_network(tmp_path: Path) -> None:
    from pipeline.models.base import MODELS
    from pipeline.plugins import load_plugin, loaded_plugins

    plugin = tmp_path / "mine.py"
    plugin.write_text("import pipeline.models.base as base\nbase.MODELS.add('plugin-test')(lambda *a: None)\n")
    load_plugin(plugin)
    try:
        assert MODELS["plugin-test"].config is None
        assert plugin in loaded_plugins()
    finally:
        del MODELS._entries["plugin-test"]


def test_index_accounts_for_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.phantoms.hospital import write_hospital

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

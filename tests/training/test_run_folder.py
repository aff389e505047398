"""A run's folder: none is left of what never began, and what a killed or damaged one holds is told in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import CardError, ConfigError, OcusegError, TrainingError
from pipeline.tracking.spool import Sent, Spool
from pipeline.tracking.tracker import open_tracker, send_unsent
from pipeline.training.checkpoint import newest
from pipeline.training.run_folder import open_run_dir
from tests.training.recorded import run_config
from tests.training.tiny import tiny_config, train_tiny, write_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def test_of_a_run_that_was_refused_no_folder_stays(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root)
    with pytest.raises(CardError):
        train_tiny(config, tmp_path, tmp_path / "run")  # no image lies there
    assert not (tmp_path / "run").exists()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        train_tiny(config, root, tmp_path / "own")
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["notes.txt"]


def test_a_run_that_was_killed_while_its_config_was_written_can_be_started_again(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, train__epochs=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".config.yaml.part").write_text("name: ti")
    train_tiny(config, root, tmp_path / "run")
    assert (tmp_path / "run" / "bundle").is_dir()
    assert not (tmp_path / "run" / ".config.yaml.part").exists()


def test_an_error_after_the_run_has_begun_leaves_everything(root: Path, tmp_path: Path) -> None:
    def begun() -> None:
        with open_run_dir(tmp_path / "run", tiny_config(root), resume=False):
            (tmp_path / "run" / "split.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begun()
    assert (tmp_path / "run" / "config.yaml").is_file()


DAMAGE = [b"", b"\xff\xfe\x00\x01", b"{", b"[1, 2]", b'{"a": ' * 3000, b"null"]


@pytest.mark.parametrize(
    "name", ["config.yaml", "split.json", "manifest.json", "card.md", "state.json", "network.safetensors", "optimizer.safetensors"]
)
def test_each_damaged_file_of_a_run_is_told_on_resuming(root: Path, tmp_path: Path, name: str) -> None:
    config = tiny_config(root, train__epochs=1)
    train_tiny(config, root, tmp_path / "run")
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    path = found / name if (found / name).exists() else tmp_path / "run" / name
    for content in DAMAGE if path.suffix != ".yaml" else DAMAGE[:4]:  # tests/test_config.py has YAML's own oddities
        path.write_bytes(content)
        with pytest.raises(OcusegError) as caught:
            train_tiny(config, root, tmp_path / "run", resume=True)
        assert name in str(caught.value) or (isinstance(caught.value, TrainingError) and found.name in str(caught.value))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tracking/target.json", "tracking/sent.json", "unsent/journal.jsonl"])
def test_each_damaged_file_of_a_record_is_told(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "run"
    Spool(run_dir).append("tags", {"tags": {"a": "b"}})
    (run_dir / "tracking").mkdir()
    (run_dir / "tracking" / "target.json").write_text('{"uri": null, "key": "k"}')
    Sent.load(run_dir).save()
    for content in (b"\xff\xfe\n", b"{\n", b"[1, 2]\n", b"null\n", b'{"a": ' * 3000 + b"\n"):
        (run_dir / name).write_bytes(content)
        for work in (lambda: send_unsent(run_dir), lambda: open_tracker(run_config(), run_dir, resume=True)):
            with pytest.raises(ConfigError) as caught:
                work()
            assert name in str(caught.value)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_is_not_utf8_ends_in_no_traceback(tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"}
    code = "from pipeline.cli.console import command; command(lambda: print('0.3 \u03bcm \u2192'))(); "
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.strip() == rb"0.3 \u03bcm \u2192"
    command = [sys.executable, "-m", "pipeline", "train", "\u03bc.yaml", "--root", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b".yaml: there is no such run file" in done.stderr

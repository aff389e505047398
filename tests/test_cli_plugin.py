"""--plugin where a bundle is used: what a network was built from is loaded before the bundle is."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app


@pytest.mark.parametrize(
    "arguments", [["evaluate", "bundle", "--card", "phantom", "--root", "."], ["predict", "bundle", "scans", "--out", "out"]]
)
def test_it_is_loaded_before_the_bundle(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    for name in ("scans", "bundle"):
        (tmp_path / name).mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('loaded').touch()\n")
    result = CliRunner().invoke(app, [*arguments, "--plugin", "mine.py"])
    assert "bundle bundle: its format is not" in result.stderr
    assert (tmp_path / "loaded").exists()

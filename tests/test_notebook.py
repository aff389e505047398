"""docs/from_python.py: a notebook whose cells run, one after the other, as a reader runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "from_python.py"


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = jupytext.read(NOTEBOOK)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 9
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, source in enumerate(code, 1):
        exec(compile(source, f"cell {number} of {NOTEBOOK.name}", "exec"), names)
    told = capsys.readouterr().out
    assert names["found"].label_map.names == ("vessel", "optic_disc")
    assert (names["overlay"] != names["picture"]).any()
    assert 0.08 < names["density"] < 0.15
    assert 180 < names["disc_diameter"] < 230
    assert names["counts"].dice > 0.8
    assert names["dice"]["value"] > 0.78
    assert "card.md is left out: this is not an image format that ocuseg knows" in told

"""What an installation that is no checkout finds: run files, data cards and page templates lie in the package, wherever pip puts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import run_files

ROOT = Path(__file__).resolve().parents[1]
SAY = """
import json
from pathlib import Path
import pipeline
from pipeline.config import load_config, run_files
from pipeline.cards.card import list_cards
from pipeline.bundles.shipped_models import SHIPPED
from pipeline.reports.pages import environment
from pipeline.deidentify.profile import table
from pipeline.deidentify.burned_in import find_text
from pipeline.resources import EXAMPLES
import numpy
print(json.dumps({
    "package": str(Path(pipeline.__file__).parent),
    "cards": [card.name for card in list_cards()],
    "config": load_config(Path("phantom_little")).name,
    "study": [path.name for path in run_files(Path("idrid_detectors"))],
    "models": sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file()),
    "examples": sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()),
    "confidentiality": len(table()),
    "text": find_text(numpy.zeros((40, 40))),
    "template": environment().get_template("worklist.html").name,
}))
"""


@pytest.mark.slow
def test_an_installed_package_brings_its_cards_and_run_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("pipeline", "configs", "data_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(tmp_path / "site"), str(source)], check=True, capture_output=True)
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-W", "ignore", "-c", SAY]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert Path(found["package"]).parent == tmp_path / "site"
    assert found["cards"] == sorted(path.stem for path in (ROOT / "data_cards").glob("*.md") if path.stem != "README")
    shipped = ROOT / "pipeline" / "bundles" / "shipped"
    assert found["models"] == sorted(str(path.relative_to(shipped)) for path in shipped.rglob("*") if path.is_file())
    examples = ROOT / "pipeline" / "examples"
    assert found["text"] == []
    assert found["examples"] == sorted(str(path.relative_to(examples)) for path in examples.rglob("*") if path.is_file())
    assert found["study"] == [path.name for path in run_files(ROOT / "configs" / "idrid_detectors.yaml")]
    assert (found["config"], found["template"], found["confidentiality"]) == ("phantom_little", "worklist.html", 655)

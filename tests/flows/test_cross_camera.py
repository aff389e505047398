"""The cross-camera matrix: a network a set, every set tested, nothing done twice, one parent in MLflow."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline.config import dump_config
from pipeline.tracking.mlflow_store import connect
from pipeline.types import no_progress
from tests.training.tiny import tiny_config, write_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workflow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cross_camera", ROOT / "workflows" / "cross_camera.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_only_the_data_set_tells_the_three_runs_apart(workflow: ModuleType) -> None:
    configs = workflow.experiments(ROOT / "configs" / "chase_vessels_little.yaml", 3.0, ["seed=4"])
    assert {key: config.data.card for key, config in configs.items()} == {"chase": "chase_db1", "hrf": "hrf", "rossa": "rossa_octa"}
    assert len({config.name for config in configs.values()}) == 3
    rest = []
    for config in configs.values():
        assert (config.train.minutes, config.seed, config.data.normalise.channels, config.data.augment.scale) == (
            3.0,
            4,
            "green",
            (0.7, 1.4),
        )
        data = config.data.model_copy(update={"card": "", "crops_per_image": 1})
        rest.append(config.model_copy(update={"name": "", "data": data}))
    assert rest[0] == rest[1] == rest[2]


@pytest.mark.slow
def test_each_network_is_tested_on_each_set_once(workflow: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots, configs = {}, {}
    for key, patients in (("one", 6), ("two", 8)):
        roots[key] = write_data(tmp_path / key, patients)
        text = (roots[key] / "card.md").read_text(encoding="utf-8").replace("name: tiny", f"name: {key}").replace("blob", "vessel")
        parts = [f"P{number}" for number in range(patients)]
        text = text.replace("labels:", f"parts: {{patients: {{train: {parts[:-2]}, test: {parts[-2:]}}}}}\nlabels:")
        (roots[key] / "card.md").write_text(text, encoding="utf-8")
        if key == "two":  # other pictures: the guard knows copies
            rng = np.random.default_rng(1)
            _repaint(roots[key] / "images", rng)
        name, source = f"trained_on_{key}", "official"
        configs[key] = tiny_config(roots[key], train__epochs=1, data__split__source=source, name=name)
    sets = {key: workflow.DataSet(key.upper(), str(root / "card.md"), key, 1) for key, root in roots.items()}
    monkeypatch.setattr(workflow, "SETS", sets)
    out = tmp_path / "matrix"
    cells, home = workflow.run(configs, roots, out, "cpu", no_progress)
    assert [(cell.trained_on, cell.tested_on) for cell in cells] == [("ONE", "ONE"), ("ONE", "TWO"), ("TWO", "ONE"), ("TWO", "TWO")]
    for cell, (key, on) in zip(cells, [(key, on) for key in roots for on in roots], strict=True):
        summary = json.loads((out / f"trained_on_{key}" / f"tested_on_{on}" / "summary.json").read_text())
        assert cell.dice == summary["classes"]["vessel"]["mean_per_image"]["dice"]["value"]
        assert (cell.images, cell.patients, summary["card"]["name"]) == (4, 2, on)
    lines = list(csv.DictReader(io.StringIO((home / "matrix.csv").read_text(encoding="utf-8"))))
    assert [float(line["dice"]) for line in lines] == [cell.dice for cell in cells]
    assert (home / "matrix.png").is_file()

    client = connect(f"sqlite:///{out / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("ocuseg.study") == "matrix"]
    children = {run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {"trained_on_one", "trained_on_two"}
    assert parent.data.metrics["dice/one/two"] == pytest.approx(cells[1].dice)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("what is finished was done again")

    monkeypatch.setattr(workflow, "train", never)
    monkeypatch.setattr(workflow, "evaluate", never)
    assert workflow.run(configs, roots, out, "cpu", no_progress)[0] == cells
    other = {key: config.model_copy(update={"seed": 9}) for key, config in configs.items()}
    with pytest.raises(workflow.ConfigError, match="trained_on_one: holds the run of another config"):
        workflow.run(other, roots, out, "cpu", no_progress)


def test_what_an_earlier_version_has_trained_is_not_trained_again(workflow: ModuleType, tmp_path: Path) -> None:
    """A setting that was not known then has its default."""
    config = tiny_config(tmp_path)
    text = dump_config(config)
    earlier = text.replace("  slices: null\n", "")
    assert earlier != text
    (tmp_path / "trained.json").write_text(json.dumps({"config": earlier, "bundle": "bundle"}), encoding="utf-8")
    assert workflow.trained(config, tmp_path, tmp_path, "cpu", None, no_progress) == tmp_path / "bundle"


def test_the_matrix_says_what_is_not_known(workflow: ModuleType) -> None:
    cells = [
        workflow.Cell("A", "A", 8, 4, 0.75, 0.7, 0.8),
        workflow.Cell("A", "B", 3, 1, 0.25, None, None),
        workflow.Cell("B", "A", 8, 4, None, None, None),
        workflow.Cell("B", "B", 3, 1, 0.5, None, None),
    ]
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in workflow.matrix(cells)]
    assert lines[0] == ["trained on, tested on", "A (8)", "B (3)"]
    assert lines[2:] == [["A", "0.750 [0.700, 0.800]", "0.250"], ["B", "-", "0.500"]]
    assert list(csv.DictReader(io.StringIO(workflow.table(cells))))[2] == {
        "trained_on": "B", "tested_on": "A", "images": "8", "patients": "4", "dice": "", "low": "", "high": ""
    }  # fmt: skip
    picture = workflow.draw(cells)
    assert picture.shape == (480, 640, 3)
    # The colour of a cell's corner is its value's: bright for 0.75, dark for nothing.
    lightness = picture.mean(axis=2)
    assert lightness[90, 130] > lightness[300, 130] + 50


def _repaint(folder: Path, rng: np.random.Generator) -> None:
    """Pictures of their own: each is turned upside down, its mask too, and grained."""
    from PIL import Image

    for path in sorted(folder.glob("*.png")):
        for file in (path, folder.parent / "masks" / path.name):
            pixels = np.asarray(Image.open(file))[::-1]
            grain = rng.normal(0, 8, pixels.shape) if file == path else 0
            Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file)

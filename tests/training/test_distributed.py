"""Two processes with half the batch each train like one with the whole of it; torchrun needs no other code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import RunConfig, dump_config
from pipeline.training.checkpoint import newest
from tests.patience import LONG_S, ended, joined, wait_until
from tests.training import tiny_volumes
from tests.training.tiny import COLUMNS, ROWS, last_state, start_together, tiny_config, train_in_process, train_tiny, weights, write_data

NORMS = {norm: f"{{name: unet, widths: [4, 8], residual_units: 1, norm: {norm}}}" for norm in ("instance", "batch")}
DETECTOR = (
    "{name: mask_rcnn, backbone: resnet18, fpn_channels: 8, representation: 16, mask_width: 8, mask_layers: 1, roi_samples: 16, "
    "rpn_samples: 32, rpn_before_nms: [60, 40], rpn_after_nms: [30, 20]}"
)
# SGD, whose steps are proportional to the gradients: Adam would turn rounding noise of tiny gradients into whole steps.
SETTINGS = {"train__optimizer": "sgd", "train__learning_rate": 0.05, "train__epochs": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def in_two_processes(norm: str, root: Path, run_dir: Path, **changes: object) -> None:
    trained_by_two(tiny_config(root, NORMS[norm], **{**SETTINGS, "train__batch_size": 2, **changes}), root, run_dir)


def trained_by_two(config: RunConfig, root: Path, run_dir: Path) -> None:
    """Train in two processes, of which each decodes its half of the cases and no case twice."""
    processes = start_together(2, config, root, run_dir, target=noting_what_is_decoded)
    assert joined(processes) == [0, 0]
    decoded = [json.loads(path.read_text()) for path in sorted(run_dir.parent.glob(f"{run_dir.name}.decoded-*"))]
    assert len(decoded) == 2
    first, second = map(set, decoded)
    assert len(first) == len(decoded[0])
    assert len(second) == len(decoded[1])
    assert not first & second
    assert len(first | second) == len(list((root / ("images" if (root / "images").exists() else "oct")).iterdir()))
    assert abs(len(first) - len(second)) <= 1


def noting_what_is_decoded(
    config: RunConfig, root: Path, run_dir: Path, arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    from pipeline.datasets import reading

    decoded, preprocess = [], reading.preprocess_case

    def noted(card: Any, case: Any, *others: Any) -> Any:
        decoded.append(str(case.key))
        return preprocess(card, case, *others)

    reading.preprocess_case = noted
    try:
        train_in_process(config, root, run_dir, arguments, environment)
    finally:
        run_dir.with_suffix(f".decoded-{environment['RANK']}").write_text(json.dumps(decoded))


def test_with_instance_norm_two_processes_train_like_one(root: Path, tmp_path: Path) -> None:
    losses = "{dice: 1, cross_entropy: 1, focal: 1, tversky: 1, cldice: 1}"
    train_tiny(tiny_config(root, NORMS["instance"], **SETTINGS, task__losses=losses), root, tmp_path / "one")
    in_two_processes("instance", root, tmp_path / "two", task__losses=losses)
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    rows = [[json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()] for run in ("one", "two")]
    for first, second in zip(*rows, strict=True):
        for name in ("train/loss", "train/loss/cldice", "train/gradient_norm", "validation/dice", "validation/iou_pooled/blob"):
            assert second[name] == pytest.approx(first[name], rel=1e-3)


def test_volumes_in_two_processes_train_like_in_one(tmp_path: Path) -> None:
    root = tiny_volumes.write_data(tmp_path / "data")
    settings = {**SETTINGS, "train__validation_loss": "false", "train__precision": "float32", "train__epochs": 1}
    train_tiny(tiny_volumes.a_config(root / "card.md", **settings, train__batch_size=2), root, tmp_path / "one")
    trained_by_two(tiny_volumes.a_config(root / "card.md", **settings, train__batch_size=1), root, tmp_path / "two")
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_batch_norm_statistics_are_those_of_all_processes(root: Path, tmp_path: Path) -> None:
    """Each process normalises by its own half batch, so weights differ a little; the statistics must be of both halves."""
    train_tiny(tiny_config(root, NORMS["batch"], **{**SETTINGS, "train__learning_rate": 1e-8}), root, tmp_path / "one")
    in_two_processes("batch", root, tmp_path / "two", train__learning_rate=1e-8)
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    means = [name for name in one if name.endswith("running_mean")]
    # Of the first norm, which no other norm precedes: the mean of two half batches' means is the mean of the whole batch.
    torch.testing.assert_close(two[means[0]], one[means[0]], rtol=1e-4, atol=1e-6)
    assert all((two[name] - one[name]).abs().max() < 0.01 for name in means)


def test_a_signal_to_one_process_stops_both_at_one_step_and_the_run_can_be_resumed(root: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "train__batch_size": 2, "train__epochs": 5000}
    processes = start_together(2, tiny_config(root, NORMS["instance"], **settings), root, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    with ended(processes):
        wait_until(lambda: newest(checkpoints) is not None or not all(p.is_alive() for p in processes))
        ends = [process.exitcode for process in processes]
        assert newest(checkpoints) is not None, f"no checkpoint, so nothing to interrupt; the processes ended with {ends}"
        processes[1].terminate()
        assert joined(processes) == [130, 130]
    assert "resume" in (tmp_path / "run.error").read_text()
    found = newest(checkpoints)
    assert found is not None
    done = int(found.name[:6])
    # With one process in place of two, too: the stream of samples is the same.
    train_tiny(tiny_config(root, NORMS["instance"], **{**settings, "train__epochs": done + 2}), root, tmp_path / "run", resume=True)
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == done + 2


def test_torchrun_needs_no_other_code(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, **{**SETTINGS, "train__batch_size": 2})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    code = (
        "import sys; from pathlib import Path; from pipeline.config import load_config; from tests.training.tiny import train_tiny; "
        "from pipeline.training.run import new_run_dir; "
        "train_tiny(load_config(Path(sys.argv[1])), Path(sys.argv[2]), new_run_dir(Path(sys.argv[3]), 'run'))"
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "script.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [*command, str(tmp_path / "config.yaml"), str(root), str(tmp_path / "runs")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    train_tiny(tiny_config(root, **SETTINGS), root, tmp_path / "one")
    (run_dir,) = (tmp_path / "runs").iterdir()
    one, two = weights(tmp_path / "one"), weights(run_dir)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_two_processes_train_a_detector_though_one_sees_no_object(tmp_path: Path) -> None:
    """What looks at objects alone has then no gradient in that process; both score their share of the validation images."""
    from PIL import Image

    root = write_data(tmp_path / "data")
    for path in sorted((root / "masks").glob("*_L.png")):
        Image.new("L", (COLUMNS, ROWS)).save(path)
    settings = {
        "task": "{name: detection, detections: 8}",
        "train__epochs": 1,
        "train__batch_size": 1,
        "data__crop": "[40, 48]",
        "data__crops_per_image": 1,
        "data__cache": "disk",
    }
    config = tiny_config(root, DETECTOR, **settings)
    trained_by_two(config, root, tmp_path / "run")
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert 0 <= row["validation/ap50"] <= 1
    assert row["train/loss/mask"] > 0

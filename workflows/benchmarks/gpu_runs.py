"""The sections of gpu.py about whole runs: stopped and resumed, predicting, transfer learning, detection, too little memory."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from photographs import write_photographs

if TYPE_CHECKING:
    from gpu import Run

REPOSITORY = Path(__file__).resolve().parents[2]


def stop_resume(run: Run) -> None:
    """SIGTERM in the middle of a run; resumed, it ends like one that was never stopped. Leaves a bundle for :func:`predict`."""
    from gpu_training import little_config

    from pipeline.errors import InterruptedRun
    from pipeline.training.run import train

    config = little_config(run, run.sizes.batches[0], f"train.epochs={run.sizes.epochs}")
    root, seen = run.data / "chase_db1", {"done": 0, "total": 0, "stopped": 0}

    def advance(done: int, total: int | None = None, note: str = "") -> None:
        if not note.startswith("epoch") or total is None:
            return
        seen.update(done=done, total=total)
        if not seen["stopped"] and done > total / 2:
            seen["stopped"] = done
            os.kill(os.getpid(), signal.SIGTERM)

    whole = train(config, root, run.work / "whole", device=run.device)
    run.bundle = whole.bundle
    sentence = ""
    try:
        train(config, root, run.work / "stopped", device=run.device, progress=advance)
    except InterruptedRun as error:
        sentence = str(error).replace(str(run.work), "RUNS")
    if not sentence:
        raise AssertionError("SIGTERM did not end the run")
    resumed = train(config, root, run.work / "stopped", device=run.device, progress=advance, resume=True)
    both = [result.metrics["validation/dice"] for result in (whole, resumed)]
    run.add("stopped and resumed: steps", f"{seen['stopped']} and on to {seen['done']} of {seen['total']}", "", sentence)
    run.add("stopped and resumed: validation Dice", both[1], "", f"{both[0]:.4f} where it was never stopped")


def predict(run: Run) -> None:
    """A process of its own: from the command to the last case, and between the first and the last case."""
    if run.bundle is None:
        raise AssertionError("needs the bundle of stop_resume")
    count = run.sizes.photographs
    scans = write_photographs(run.work / "scans", count, run.data / "chase_db1")
    out = run.work / "predicted"
    arguments = ["predict", str(run.bundle), str(scans), "--out", str(out), "--device", run.device, "--site-key", str(run.work / "key")]
    began, started = time.perf_counter(), time.time()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *arguments], cwd=run.work, stdout=subprocess.PIPE, text=True)
    try:
        said = process.communicate()[0]
    finally:  # cut off, too, it says how far it came
        process.send_signal(signal.SIGINT)
        process.wait()
        seconds = time.perf_counter() - began
        written = sorted(path.stat().st_mtime for path in out.glob("cases/*/case.json"))
        if len(written) > 1:
            note = f"{len(written)} in {written[-1] - written[0]:.1f} s, the first one after {written[0] - started:.1f} s"
            run.add("predict: photographs of 999 x 960", (len(written) - 1) / (written[-1] - written[0]), "a second", note)
            run.add("predict: the same, start-up included", len(written) / seconds, "a second", f"{seconds:.1f} s in all")
    if process.returncode or len(written) != count:
        raise AssertionError(f"exit code {process.returncode}, {len(written)} of {count} cases: {said}")
    run.add("predict: pixels that are as on a CPU", 100 * as_on_cpu(run, scans, out), "%", "the worst of four photographs")


def as_on_cpu(run: Run, scans: Path, out: Path) -> float:
    """The least fraction of equal pixels in the masks of the first photographs."""
    import numpy as np
    from PIL import Image

    from pipeline.inference.folder import predict_folder
    from pipeline.scans.identity import Pseudonyms

    assert run.bundle is not None
    few, again = run.work / "few", run.work / "again"
    for patient in sorted(scans.iterdir())[:4]:
        shutil.copytree(patient, few / patient.name)
    predict_folder(run.bundle, few, again, device="cpu", pseudonyms=Pseudonyms.load_or_create(run.work / "key"))
    masks = [path.relative_to(again) for path in sorted(again.glob("cases/*/mask*.png"))]
    return min(float((np.asarray(Image.open(again / mask)) == np.asarray(Image.open(out / mask))).mean()) for mask in masks)


def transfer(run: Run) -> None:
    """A disc network from ImageNet weights on weak masks, for 20 seconds, on another camera's photographs."""
    from pipeline.config import load_config
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.training.run import train

    # In so short a run there is nothing to choose among: it is validated once, at its end.
    changes = [f"train.minutes={run.sizes.transfer_seconds / 60}", "train.validate_every=1000"]
    config = load_config(REPOSITORY / "configs" / "idrid_disc_transfer.yaml", changes)
    began = time.perf_counter()
    result = train(config, some(run, "idrid_codras_boxes"), run.work / "transfer", device=run.device)
    seconds = time.perf_counter() - began
    rows = [json.loads(line) for line in (result.run_dir / "history.jsonl").read_text().splitlines()]
    rate = statistics.median(row["images_per_second"] for row in rows)
    run.add("disc transfer: epochs", len(rows), "", f"{run.sizes.transfer_seconds:g} s of {seconds:.0f}; {result.time}")
    run.add("disc transfer: training", rate, "photographs/s", "median of the epochs, validation not counted")
    run.add("disc transfer: validation Dice", result.metrics["validation/dice"])
    root, out = some(run, "drishti_gs_half_train"), run.work / "drishti"
    summary = evaluate(result.bundle, "drishti_gs", root, part="all", out=out, device=run.device, classes={"optic_disc": "disc"})
    run.add(
        "disc transfer: Drishti Dice",
        summary["classes"]["optic_disc"]["mean_per_image"]["dice"]["value"],
        "",
        f"{summary['images']} images",
    )


def some(run: Run, name: str) -> Path:
    """The data set ``name``; on a CPU a copy with every 20th of its photographs."""
    if run.device == "cuda":
        return run.data / name
    files = sorted((run.data / name).rglob("*.*"))
    stems = sorted({path.stem for path in files if path.suffix == ".jpg"})[::20]
    for path in files:
        if path.stem in stems or path.suffix not in (".jpg", ".txt", ".png"):
            copy = run.work / name / path.relative_to(run.data / name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return run.work / name


def mask_rcnn(run: Run) -> None:
    """Ours beside torchvision's recipe, in turns (detectors.py)."""
    import detectors
    import torch

    size = run.sizes.detector_size
    options = argparse.Namespace(
        root=run.data / "idrid_codras_boxes",
        weights=Path("none"),
        backbone=run.sizes.detector,
        images=run.sizes.detector_images,
        size=(size, size),
        batch=4,
        objects=100,
        workers=0 if run.device == "cpu" else 4,
    )
    torch.manual_seed(0)
    ours = detectors.Ours(options, run.device)
    sides: dict[str, Any] = {"ocuseg": ours, "torchvision": detectors.Peer(options, run.device, [case.image for case in ours.cases])}
    steps = run.sizes.detector_steps
    name = f"Mask R-CNN {run.sizes.detector}, {size} x {size}, batch 4"

    def tell(what: str, seconds: dict[str, Any], images: int) -> None:
        medians = {side: statistics.median(found["seconds"]) for side, found in seconds.items()}
        for side, median in medians.items():
            run.add(f"{name}: {what}, {side}", images / median, "images/s", f"{1000 * median:.0f} ms")
        run.add(f"Mask R-CNN: {what}, ocuseg against torchvision", detectors.ratio(seconds, "seconds"), "x", "median of neighbours")

    tell("training", detectors.alternate({side: one.train for side, one in sides.items()}, warm_up=min(steps, 5), rounds=steps), 4)
    for one in sides.values():
        one.start_predicting()
    tell("inference", detectors.alternate({side: one.predict for side, one in sides.items()}, warm_up=1, rounds=steps), 1)


def out_of_memory(run: Run) -> None:
    """A batch that no GPU holds must end in one sentence and the documented exit code."""
    if run.device != "cuda":
        run.add("out of memory: skipped", None, note="needs a GPU")
        return
    huge = ["model.widths=[512, 1024]", "model.first_stride=1", "data.crop=[960, 960]", "train.batch_size=256", "train.epochs=1"]
    changes = [part for change in huge for part in ("--set", change)]
    arguments = ["train", "chase_vessels_little", "--root", str(run.data / "chase_db1"), "--out", str(run.work / "huge"), *changes]
    code, said = ocuseg(*arguments, "--device", "cuda")
    lines = [line for line in said.splitlines() if line.startswith("error") or "Traceback" in line]
    run.add("out of memory: exit code", code, "", " ".join(lines)[:300])
    if code != 4 or len(lines) != 1:
        raise AssertionError(f"exit code {code}: {said[-500:]}")


def ocuseg(*arguments: str) -> tuple[int, str]:
    """Exit code of a command and what it wrote to standard error, without another start of Python."""
    from pipeline.cli import app

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = app(list(arguments), standalone_mode=False) or 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue()

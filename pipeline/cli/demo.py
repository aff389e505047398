"""``ocuseg demo``: the main path from end to end, on phantoms, in a few minutes and without a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import command, program, progress
from pipeline.errors import ConfigError, TrainingError

RUN_FILES = {"phantom_little": "a small U-Net", "phantom_disc_cup_mask_rcnn": "a small Mask R-CNN"}
LEAST_DICE = {"vessel": 0.80, "disc": 0.85, "cup": 0.60}
"""What the trainings, which take as many steps on any machine, are known to exceed on patients they never saw."""


def add_to(app: typer.Typer) -> None:
    app.command("demo")(command(demo))


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything the demo makes; each run gets a new folder inside it.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=4, help="Phantom patients to train on.")] = 10,
) -> None:
    """Phantom hospital -> index -> U-Net and Mask R-CNN: train -> MLflow -> evaluate -> predict a second hospital -> report."""
    started = time.perf_counter()
    home = new_folder(out)

    def step(title: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        print(f"* {title} ...", flush=True)
        with progress(title) as advance:
            result = work(*args, progress=advance, **kwargs)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        return result

    from pipeline.config import load_config
    from pipeline.evaluation.evaluate import evaluate, summary_lines
    from pipeline.evaluation.recording import record_evaluation
    from pipeline.inference.folder import predict_folder
    from pipeline.phantoms.hospital import write_hospital
    from pipeline.reports.worklist import write_report
    from pipeline.scans.folder import index_folder
    from pipeline.scans.identity import Pseudonyms
    from pipeline.training.run import train

    first, second = home / "hospital_a", home / "hospital_b"
    step(f"a phantom hospital: {patients} patients, both eyes, several visits", write_hospital, first, patients, 0)
    step("a second one it never trains on, with broken and duplicate files", write_hospital, second, 3, 1, broken=True, first_patient=101)
    pseudonyms = Pseudonyms.load_or_create(home / "site.key")
    counts = step("index the second hospital's folder", index_folder, second / "scans", home / "catalogue.sqlite", pseudonyms=pseudonyms)
    print("  " + ", ".join(f"{name} {count}" for name, count in counts.summary().items()))
    reports = []
    for run_file, what in RUN_FILES.items():
        config = load_config(Path(run_file))
        part = home / config.name
        result = step(f"train {what}", train, config, first / "card", home / "runs" / config.name, key_path=home / "site.key")
        summary = step(
            "evaluate on patients it never saw",
            evaluate,
            result.bundle,
            config.data.card,
            first / "card",
            part="test",
            out=part / "evaluation",
            key_path=home / "site.key",
        )
        print(f"  {record_evaluation(result.bundle, part / 'evaluation', summary).sentence}")
        predictions = part / "predictions"
        step(
            "predict the second hospital's raw folder", predict_folder, result.bundle, second / "scans", predictions, pseudonyms=pseudonyms
        )
        reports.append((what, summary, predictions, step("write the report", write_report, predictions)))

    for what, summary, _, _ in reports:
        print(f"\n{what}:\n" + "\n".join(summary_lines(summary)))
    print("\nNot segmented, and why:")
    for line in rejected_lines(reports[0][2] / "ledger.csv"):
        print(f"  {line}")
    print()
    for what, _, _, page in reports:
        print(f"report, {what + ':':<22} {page}")
    store = f"sqlite:///{home / 'runs' / 'mlflow.db'}"
    print(f"MLflow UI: {program('mlflow')} server --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri {store}")
    print("           and open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning")
    failed = [text for what, summary, _, _ in reports for text in too_low(what, summary)]
    print(f"everything is in {home}; {time.perf_counter() - started:.0f} s. Research use, not for diagnosis.")
    if failed:
        raise TrainingError("the demo failed: " + "; ".join(failed))


def too_low(what: str, summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each class whose Dice is far below what is expected of this training."""
    found = {name: own["mean_per_image"]["dice"]["value"] for name, own in summary["classes"].items()}
    return [
        f"{what} reached a Dice of {found[name] or 0:.3f} for {name}, where at least {least:.2f} is expected"
        for name, least in LEAST_DICE.items()
        if name in found and (found[name] or 0) < least
    ]


def new_folder(out: Path) -> Path:
    """``out``/1, /2, ...: the next that does not exist, so that no earlier result is lost."""
    number = 1
    while (out / str(number)).exists():
        number += 1
    home = out / str(number)
    try:
        home.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{str(home)!r} cannot be made ({error.strerror}); give another folder") from error
    return home


def rejected_lines(ledger: Path) -> list[str]:
    """One line a reason, most frequent first, from a prediction's ledger."""
    import csv
    from collections import Counter

    with ledger.open(newline="", encoding="utf-8") as file:
        reasons = Counter((row["status"], row["code"], row["reason"]) for row in csv.DictReader(file) if row["status"] != "done")
    return [f"{count} x {status} ({code}): {reason}" for (status, code, reason), count in reasons.most_common()] or [
        "nothing: every file was segmented"
    ]

"""What a vessel network is worth on another camera's pictures: each of three data sets trains one network, each tests all three.

    .venv/bin/python workflows/cross_camera.py --minutes 24 [--chase DIR --hrf DIR --rossa DIR] [--out studies/cross_camera]

CHASE_DB1 (fundus, hand-held, 30 degrees), HRF at half resolution (fundus, 45 degrees) and ROSSA (en-face OCT angiography): one network
(configs/chase_vessels_little.yaml) of equal budget on the training part of each, tested on the test part of each. What must be equal
for that is so for all three: one channel (green of a photograph, the only one of an angiogram), the same augmentation, about as many
crops in an epoch. A network's own thresholds, chosen on its own validation images, are used everywhere.

Pictures keep their own scale. Between the two cameras it nearly agrees (31 and 36 pixels a degree), while fields of view of equal width
would set them apart (31 and 20), and how many micrometres a pixel of ROSSA is, nobody says; instead, all train on scales from 0.7 to 1.4.
Vessels are dark in a photograph and bright in an angiogram, which no augmentation here hides: that is how far away the third set is.

OUT/NAME_study holds the matrix (CSV, Markdown, PNG), as does one MLflow run with a child each training. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.bundles.bundle import load_bundle
from pipeline.cli.console import progress, script
from pipeline.config import RunConfig, dump_config, load_config, parse_config
from pipeline.drawing.curves import figure_of, picture_of
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import evaluate
from pipeline.inference.case_files import write_json
from pipeline.scans.raster import write_png
from pipeline.studies.plots import Picture
from pipeline.studies.study import with_budget
from pipeline.studies.table import markdown
from pipeline.tracking.tracker import open_tracker
from pipeline.training.platform import prepare_machine
from pipeline.training.run import train
from pipeline.types import ProgressCallback

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OCUSEG_SHARED", REPOSITORY.parent / "shared"))
CLASS = "vessel"
EQUAL = ("data.normalise.channels=green", "data.augment.scale=[0.7, 1.4]", "data.split.near_duplicates=drop_from_train")


@dataclass(frozen=True)
class DataSet:
    """``folder`` below the shared data; ``crops`` drawn of each training image in an epoch, so that all epochs are about as long."""

    name: str
    card: str
    folder: str
    crops: int


SETS = {
    "chase": DataSet("CHASE_DB1", "chase_db1", "chase_db1", 4),  # of 18 training images
    "hrf": DataSet("HRF", "hrf", "hrf_half", 7),  # of 11
    "rossa": DataSet("ROSSA", "rossa_octa", "rossa_octa", 1),  # of 98
}


@dataclass(frozen=True)
class Cell:
    """Mean Dice over the test images of one set by a network of another, with the ends of its 95 % interval over patients."""

    trained_on: str
    tested_on: str
    images: int
    patients: int
    dice: float | None
    low: float | None
    high: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for key, data_set in SETS.items():
        parser.add_argument(f"--{key}", type=Path, default=SHARED / "data" / data_set.folder, help=f"folder of {data_set.name}")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "chase_vessels_little.yaml")
    parser.add_argument("--minutes", type=float, default=24, help="training time of each network, validations included")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting of all three")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("studies") / "cross_camera")
    options = parser.parse_args()
    roots = {key: getattr(options, key) for key in SETS}
    for key, root in roots.items():
        if not root.is_dir():
            sys.exit(f"{root} is not there; give --{key} with the folder of {SETS[key].name}")
    with progress("cross-camera") as advance:
        cells, home = run(experiments(options.config, options.minutes, options.set), roots, options.out, options.device, advance)
    print("\n".join([*matrix(cells), "", f"written: {home}"]))


def experiments(config: Path, minutes: float, overrides: Sequence[str] = ()) -> dict[str, RunConfig]:
    """The run of each data set, by its key."""
    return {
        key: with_budget(
            load_config(config, [*EQUAL, f"data.card={own.card}", f"data.crops_per_image={own.crops}", *overrides]),
            minutes,
            f"trained_on_{key}",
        )
        for key, own in SETS.items()
    }


def run(
    configs: Mapping[str, RunConfig], roots: Mapping[str, Path], out: Path, device: str, advance: ProgressCallback
) -> tuple[list[Cell], Path]:
    """Train each network on its own set and test it on all: the matrix, row by row, and the folder where it lies."""
    name, home = out.name, out / f"{out.name}_study"
    home.mkdir(parents=True, exist_ok=True)
    chosen = prepare_machine(device)
    cells: list[Cell] = []
    with open_tracker(next(iter(configs.values())), home, resume=(home / "tracking").exists()) as tracker:
        texts = {f"{config.name}.yaml": dump_config(config) for config in configs.values()}
        tracker.start_study(name, {"runs": len(configs), "names": ", ".join(config.name for config in configs.values())}, texts)
        parent = tracker.wait_for_run()
        for key, config in configs.items():
            bundle = trained(config, roots[key], out / config.name, chosen, parent, advance)
            row = [tested(bundle, key, on, roots[on], out / config.name / f"tested_on_{on}", chosen, advance) for on in configs]
            tracker.numbers({f"dice/{key}/{on}": cell.dice for on, cell in zip(configs, row, strict=True)})
            cells += row
        write_json(home / f"{name}.json", [vars(cell) for cell in cells])
        write_text(home / f"{name}.csv", table(cells))
        write_text(home / f"{name}.md", "\n".join(matrix(cells)) + "\n")
        write_png(home / f"{name}.png", draw(cells))
        tracker.table(name, [vars(cell) for cell in cells])
        tracker.picture(name, draw(cells))
    return cells, home


def trained(config: RunConfig, root: Path, run_dir: Path, device: str, parent: str | None, advance: ProgressCallback) -> Path:
    """The bundle of the run in ``run_dir``, which is begun, goes on, or is finished already."""
    finished = run_dir / "trained.json"
    if finished.is_file():
        known = json.loads(finished.read_text(encoding="utf-8"))
        if parse_config(known["config"], where=finished.name) != config:  # not its text: a newer ocuseg writes more settings
            raise ConfigError(f"{run_dir.name}: holds the run of another config; give another --out, so that it stays")
        return run_dir / str(known["bundle"])
    tags = {} if parent is None else {"mlflow.parentRunId": parent}
    resume = (run_dir / "config.yaml").exists()
    result = train(config, root, run_dir, device=device, resume=resume, progress=_prefixed(advance, config.name), tags=tags)
    write_json(finished, {"config": dump_config(config), "bundle": result.bundle.relative_to(run_dir).as_posix()})
    return result.bundle


def tested(bundle: Path, key: str, on: str, root: Path, out: Path, device: str, advance: ProgressCallback) -> Cell:
    """One cell, measured now or before."""
    summary: dict[str, Any] | None = None
    if (out / "summary.json").is_file():
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        if summary is not None and summary["bundle"]["id"] != load_bundle(bundle, device="cpu").id:
            summary = None
    if summary is None:
        told = _prefixed(advance, f"trained on {SETS[key].name}, tested on {SETS[on].name}")
        summary = evaluate(bundle, SETS[on].card, root, part="test", out=out, device=device, progress=told)
    dice = summary["classes"][CLASS]["mean_per_image"]["dice"]
    ends = dice["value"], dice.get("low"), dice.get("high")
    return Cell(SETS[key].name, SETS[on].name, summary["images"], summary["patients"], *ends)


def table(cells: Sequence[Cell]) -> str:
    """The matrix as CSV, a row a cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(vars(cells[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in vars(cell).items()} for cell in cells)
    return text.getvalue()


def matrix(cells: Sequence[Cell]) -> list[str]:
    """The matrix as Markdown: a row a training set, a column a test set."""
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        row = rows.setdefault(cell.trained_on, {"trained on, tested on": cell.trained_on})
        row[f"{cell.tested_on} ({cell.images})"] = " ".join(_told(cell))
    return markdown(list(rows.values()))


def draw(cells: Sequence[Cell]) -> Picture:
    """The matrix as a heat map with its numbers; the diagonal, a network on its own set, is framed."""
    from matplotlib.patches import Rectangle

    trains, tests = (list(dict.fromkeys(getattr(cell, side) for cell in cells)) for side in ("trained_on", "tested_on"))
    figure, axes = figure_of(title="mean Dice of vessels, with 95 % intervals over patients", xlabel="tested on", ylabel="trained on")
    axes.grid(visible=False)
    known = {(cell.trained_on, cell.tested_on): cell for cell in cells}
    values = [[known[row, column].dice or 0.0 for column in tests] for row in trains]
    shown = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for (row, column), cell in known.items():
        x, y = tests.index(column), trains.index(row)
        colour = "black" if (cell.dice or 0.0) > 0.5 else "white"
        value, *interval = _told(cell)
        axes.text(x, y, value, ha="center", va="bottom", color=colour, fontsize=18)
        axes.text(x, y + 0.08, " ".join(interval), ha="center", va="top", color=colour, fontsize=10)
        if row == column:
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor=colour, linewidth=2))
    images = {cell.tested_on: cell.images for cell in cells}
    axes.set_xticks(range(len(tests)), [f"{test}\n{images[test]} images" for test in tests])
    axes.set_yticks(range(len(trains)), trains)
    figure.colorbar(shown, ax=axes, label="Dice")
    return picture_of(figure)


def _told(cell: Cell) -> list[str]:
    """Value and interval as words."""
    if cell.dice is None:
        return ["-"]
    return [f"{cell.dice:.3f}", *([] if cell.low is None or cell.high is None else [f"[{cell.low:.3f}, {cell.high:.3f}]"])]


def _prefixed(advance: ProgressCallback, text: str) -> ProgressCallback:
    def told(done: int, total: int | None = None, note: str = "") -> None:
        advance(done, total, f"{text}: {note}")

    return told


if __name__ == "__main__":
    script(main)

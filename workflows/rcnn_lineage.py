"""How detection got fast: each step from the sliding window to DETR, on the same photographs and backbone, in one table.

    OCUSEG_WEIGHTS=WEIGHTS .venv/bin/python workflows/rcnn_lineage.py --root IDRID [--out studies/rcnn_lineage] [--write docs/results]

Trains and tests configs/rcnn_lineage.yaml as `ocuseg compare` does (what is finished is not trained again), and then times each network's
parts on the same test photographs: proposals (selective search, or the proposal network), network (the encoder) and heads (all that is
left: pyramid, heads, support vector machines, non-maximum suppression). Networks take turns, photograph by photograph, so that what comes
and goes on the machine meets all of them alike; medians are told. R-CNN is also tested without its box regression, and the sliding window
also timed with every window cut out. Table and chart are written below --out and, with --write, into that folder too; MLflow gets them
as a run of the study's experiment. A run that was validated five times or more gets a chart of AP@.50 by epoch, rcnn_lineage_RUN.png.

A quick look: --set train.epochs=1 --set train.validate_every=1 --images 2 --runs fast_rcnn,ssd
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cli.console import script
from pipeline.config import load_config, run_files
from pipeline.drawing.curves import figure_of, picture_of
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.row import Row
from pipeline.inference.predict import Predictor
from pipeline.models.detector import ProposingDetector
from pipeline.models.rcnn import RCNN
from pipeline.models.sliding_window import SlidingWindow
from pipeline.scans.raster import write_png
from pipeline.studies.study import run_study
from pipeline.tracking.tracker import open_tracker
from pipeline.training.platform import prepare_machine

STUDY = Path(__file__).resolve().parents[1] / "configs" / "rcnn_lineage.yaml"
PARTS = ("proposals", "network", "heads")
LEAST_VALIDATIONS = 5
PUBLISHED = {
    "rcnn": "47 s + proposals (1)",
    "fast_rcnn": "0.32 s + proposals (1), 1.83 s with them (2)",
    "faster_rcnn": "0.198 s (2)",
}
SOURCES = (
    "Published: seconds a picture with VGG-16 on a GPU. (1) Girshick, Fast R-CNN, 2015, table 4: without proposals Fast R-CNN is 146 times "
    "as fast as R-CNN, 213 times with truncated SVD. (2) Ren et al., Faster R-CNN, 2015, table 5: 1.51 of the 1.83 s are selective search."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that data_cards/idrid_codras.md describes")
    parser.add_argument("--out", type=Path, default=Path("studies") / "rcnn_lineage")
    parser.add_argument("--images", type=int, default=12, help="test photographs on which parts are timed; one more warms up")
    parser.add_argument("--runs", default="", help="only these runs of the study, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change every run, such as train.epochs=1")
    parser.add_argument("--write", type=Path, help="folder for rcnn_lineage.png and rcnn_lineage.md, such as docs/results")
    options = parser.parse_args()
    wanted = [name for name in options.runs.split(",") if name]
    configs = [load_config(file, options.set) for file in run_files(STUDY) if not wanted or file.name in wanted]
    study = run_study(options.out.name, configs, options.root, options.out, keep_going=True)
    sides = timed([side for row in study.rows for side in sides_of(row)], options.root, options.images)
    more = without_regression(study.rows, options.root)
    lines = [*table(sides, more), "", SOURCES, "", *study.lines()]
    pictures = {"rcnn_lineage": chart(sides)} | dict(learning_curves(study.rows))
    home = options.out / "parts"
    for folder in filter(None, (home, options.write)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rcnn_lineage.md").write_text("\n".join(table(sides, more)) + f"\n\n{SOURCES}\n", encoding="utf-8")
        for name, picture in pictures.items():
            write_png(folder / f"{name}.png", picture)
    with open_tracker(configs[0], home, resume=(home / "tracking").exists()) as tracker:
        tracker.start_study(f"{options.out.name}_parts", {"images": options.images, "runs": len(sides)}, {})
        tracker.table("rcnn_lineage", [side.facts() for side in sides])
        for name, picture in pictures.items():
            tracker.picture(name, picture)
        tracker.finish("FINISHED")
    print("\n".join(lines))


@dataclass
class Side:
    """One network as it is timed. ``seconds`` of each photograph by part; ``boxes`` that it looked at, where it says."""

    name: str
    row: Row
    predictor: Predictor
    photographs: int | None = None
    boxes: str = ""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})

    @property
    def network(self) -> Any:
        return self.predictor.task.network

    def median(self, part: str) -> float:
        return statistics.median(self.seconds[part])

    @property
    def total(self) -> float:
        return statistics.median(map(sum, zip(*self.seconds.values(), strict=True)))

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, **{f"{part} s": self.median(part) for part in PARTS}, "s": self.total, **ap50(self.row.summary)}


def sides_of(row: Row) -> Iterator[Side]:
    """The network of a row; the sliding window also with every window cut out, on one photograph, for that takes minutes."""
    model: str = load_bundle(row.run_dir / "bundle").config.model.name  # type: ignore[attr-defined]
    name = row.name.removeprefix("lineage_")
    yield Side(name, row, predictor_of(row))
    if model == "sliding_window":
        side = Side(f"{name}, each cut out", row, predictor_of(row), photographs=1)
        side.network.convolutional = False
        yield side


def predictor_of(row: Row) -> Predictor:
    return Predictor(load_bundle(row.run_dir / "bundle"), prepare_machine("cpu"))


def timed(sides: list[Side], root: Path, images: int) -> list[Side]:
    """Each network on the same photographs in turn; the first one warms up and does not count."""
    card = load_card("idrid_codras")
    cases = [case for case in find_cases(card, root) if case.part == "test"][: images + 1]
    for number, case in enumerate(cases):
        scan = read_scan(card, case)
        for side in sides:
            if side.photographs is not None and not 0 < number <= side.photographs:
                continue
            ready = side.predictor.ready(scan)
            began = time.perf_counter()
            with parts(side.network) as spent:
                list(side.predictor.slices(ready))
            whole = time.perf_counter() - began
            if number > 0:
                for part in PARTS[:2]:
                    side.seconds[part].append(spent[part])
                side.seconds["heads"].append(whole - sum(spent.values()))
            side.boxes = looked_at(side.network, ready.reduced.placement.net if ready.reduced else (0, 0)) or side.boxes
    return sides


def looked_at(network: Any, size: tuple[int, int]) -> str:
    """How many windows a picture of ``size`` has."""
    return f"{len(network.windows(*size)):,} windows" if isinstance(network, SlidingWindow) else ""


@contextmanager
def parts(network: Any) -> Iterator[dict[str, float]]:
    """Seconds spent in the part that proposes and in the encoder's layers."""
    spent = dict.fromkeys(PARTS[:2], 0.0)
    began: list[float] = []
    handles = []

    def watch(part: str, module: torch.nn.Module) -> None:
        def ends(*_: Any) -> None:
            spent[part] += time.perf_counter() - began.pop()

        handles.append(module.register_forward_pre_hook(lambda *_: began.append(time.perf_counter())))
        handles.append(module.register_forward_hook(ends))

    if isinstance(network, ProposingDetector):
        watch("proposals", network.proposer)
    for stage in network.encoder_stages():
        for module in stage:
            for leaf in (leaf for leaf in module.modules() if not list(leaf.children())):
                watch("network", leaf)
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def without_regression(rows: Sequence[Row], root: Path) -> dict[str, dict[str, float | None]]:
    """AP@.50 by class of each R-CNN whose boxes stay as they were proposed; kept beside the run, so that it is measured once."""
    out = {}
    for row in rows:
        bundle: Bundle = load_bundle(row.run_dir / "bundle")
        network = bundle.task.network
        if isinstance(network, RCNN):
            network.regression = False
            done = row.run_dir / "without_regression" / "summary.json"
            if not done.is_file() or json.loads(done.read_text(encoding="utf-8"))["bundle"]["id"] != bundle.id:
                evaluate(bundle, "idrid_codras", root, out=done.parent)
            out[f"{row.name.removeprefix('lineage_')}, without regression"] = ap50(json.loads(done.read_text(encoding="utf-8")))
    return out


def ap50(summary: Any) -> dict[str, float | None]:
    """By class."""
    return {name: own["ap50"] for name, own in summary["detection"]["box"]["classes"].items()}


def centre_error(summary: Any) -> float | None:
    """Median over the photographs; None of an evaluation by a version that did not measure it."""
    found = summary["detection"].get("located", {}).get("optic_disc")
    return None if found is None else found["centre_error"]["value"]


def table(sides: Sequence[Side], more: dict[str, dict[str, float | None]]) -> list[str]:
    """Markdown: a row a network, its seconds by part, how many times as long R-CNN takes, scores and costs."""
    classes = list(dict.fromkeys(name for side in sides for name in ap50(side.row.summary)))
    reference = next((side.total for side in sides if side.name == "rcnn"), None)
    facts = ["GB in training", "parameters"]
    scored = [*(f"AP@.50 {name}" for name in classes), "disc's centre off by (diameters)"]
    head = ["network", "s / picture", *PARTS, "R-CNN takes", *scored, *facts, "published"]
    rows = [head, ["---"] * len(head)]
    for side in sides:
        ratio = "" if reference is None else f"{reference / side.total:.3g} x"
        scores = ap50(side.row.summary)
        memory, parameters = (side.row.facts.get(name) for name in ("peak memory GB", "parameters"))
        rows.append(
            [
                f"{side.name} ({side.boxes})" if side.boxes else side.name,
                f"{side.total:.2f}",
                *(f"{side.median(part):.2f}" for part in PARTS),
                ratio,
                *(_shown(scores.get(name)) for name in classes),
                _shown(centre_error(side.row.summary)),
                _shown(memory, 2),
                "" if parameters is None else f"{parameters / 1e6:.2f} M",
                PUBLISHED.get(side.name, ""),
            ]
        )
    for name, scores in more.items():
        rows.append([name, *[""] * 5, *(_shown(scores[own]) for own in classes), "", "", "", ""])
    return ["| " + " | ".join(cells) + " |" for cells in rows]


def _shown(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def chart(sides: Sequence[Side]) -> Any:
    """Seconds a picture, a bar a network, the first at the top; uint8 (H, W, 3)."""
    totals = [side.total for side in reversed(sides)]
    figure, axes = figure_of(wide=True, title="seconds a photograph: proposals + network + heads", xlabel="s", xscale="log")
    axes.barh(range(len(sides)), totals, color="#0072B2")
    for place, (side, total) in enumerate(zip(reversed(sides), totals, strict=True)):
        scores = [score for score in ap50(side.row.summary).values() if score is not None]
        split = " + ".join(f"{side.median(part):.2f}" for part in PARTS)
        axes.text(total * 1.1, place, f"{split} s, mean AP@.50 {statistics.mean(scores):.2f}", va="center", fontsize="small")
    axes.set_yticks(range(len(sides)), [side.name for side in reversed(sides)])
    axes.set_xlim(min(totals) / 3, max(totals) * 60)
    return picture_of(figure)


def learning_curves(rows: Sequence[Row]) -> Iterator[tuple[str, Any]]:
    """(name, uint8 (H, W, 3)) of each run that was validated often enough to show how far it is: AP@.50 of the classes by epoch."""
    key = "validation/ap50/"
    for row in rows:
        history = [json.loads(line) for line in (row.run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        validated = [one for one in history if any(score.startswith(key) for score in one)]
        if len(validated) < LEAST_VALIDATIONS:
            continue
        name = row.name.removeprefix("lineage_")
        figure, axes = figure_of(title=f"{name}: AP@.50 of the validation photographs", xlabel="epoch", ylabel="AP@.50", ylim=(-0.02, 1.02))
        epochs = [one["epoch"] for one in validated]
        for score in filter(lambda own: own.startswith(key), validated[0]):
            axes.plot(epochs, [one[score] for one in validated], marker="o", label=score.removeprefix(key))
        axes.legend(loc="best", fontsize="small")
        yield f"rcnn_lineage_{name}", picture_of(figure)


if __name__ == "__main__":
    script(main)

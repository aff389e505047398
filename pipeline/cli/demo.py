"""``ocuseg demo``: the main path from end to end, by steps and not by the clock, in a few minutes and without a network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import command, program, progress
from pipeline.cli.runs import Device
from pipeline.errors import ConfigError, TrainingError
from pipeline.resources import EXAMPLES

UNET, MASK_RCNN = "vessels", "phantom_disc_cup_mask_rcnn"
"""The shipped model that is taught further, and the run file of the detector."""
STEPS, PATIENTS = 36, 6
SETTINGS = ("train.precision=float32", "train.validate_every=1000")
"""The same numbers on every processor, and one validation, after the last epoch."""


@dataclass(frozen=True)
class Least:
    """The Dice below which something is wrong, and why it is that."""

    dice: float
    why: str


LEAST = {
    ("photographs", "vessel"): Least(0.79, "the shipped model has 0.809; on HRF's test part its interval begins at 0.789"),
    ("U-Net", "vessel"): Least(0.90, "0.871 before and 0.917 after so many steps"),
    ("Mask R-CNN", "disc"): Least(0.90, "0.945 to 0.954 after so many steps"),
    ("Mask R-CNN", "cup"): Least(0.75, "0.860 to 0.892 after so many steps"),
}
"""Trainings take as many steps on any machine. With one thread or two the U-Net's Dice is the same to four digits; the Mask R-CNN's
differs by 0.005, and by 0.03 (cup) between processors with and without avx512, because it learns from a sample of its proposals, and
rounding changes which. The rest of the margin is for other versions of the libraries, and for a GPU, which draws other samples."""


@dataclass(frozen=True)
class Score:
    """Mean Dice of a class over labelled images, None where undefined; ``before`` the training, if it was anything; ``look``: what to
    look at where it is too low."""

    what: str
    cls: str
    dice: float | None
    look: Path
    before: float | None = None

    def line(self) -> str:
        before = "" if self.before is None else f" ({self.before:.3f} before)"
        return f"{self.what}, {self.cls}: Dice {self.dice or 0:.3f}{before}, at least {LEAST[self.what, self.cls].dice:.2f} expected"

    def fault(self) -> str | None:
        """What is wrong, or None."""
        least = LEAST[self.what, self.cls]
        if self.dice is not None and self.dice >= least.dice:
            return None
        return (
            f"{self.what} reached a Dice of {self.dice or 0:.3f} for {self.cls}, where at least {least.dice:.2f} is expected "
            f"({least.why}); look at {self.look}"
        )


@dataclass(frozen=True)
class Place:
    """Where everything of one demo lies, and the device that it runs on."""

    home: Path
    device: str

    @property
    def scans(self) -> Path:
        """What a hospital would hand over."""
        return self.home / "hospital" / "scans"

    @property
    def labelled(self) -> Path:
        """What networks learn from."""
        return self.home / "labelled" / "card"

    @property
    def key(self) -> Path:
        return self.home / "site.key"

    @property
    def runs(self) -> Path:
        return self.home / "runs"


Taught = tuple[Path, list[Score]]
"""A bundle and its scores."""


def add_to(app: typer.Typer) -> None:
    app.command("demo")(command(demo))


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything the demo makes; each run gets a new folder inside it.")] = Path("demo"),
    device: Device = "cpu",
) -> None:
    """Real photographs and a phantom hospital -> segment; teach a U-Net and a Mask R-CNN -> MLflow -> evaluate -> predict -> report."""
    began = time.perf_counter()
    place = Place(new_folder(out), device)
    make_hospital(place)
    first, scores = segment_first(place)
    unet, found = teach_unet(place)
    scores += found
    mask_rcnn, found = train_mask_rcnn(place)
    scores += found
    second = predict(place, "segment the hospital again, with these two", [unet, mask_rcnn], "predictions")

    print("\nNot segmented, and why:", *(f"  {line}" for line in rejected_lines(second.parent.parent / "ledger.csv")), sep="\n")
    print("\nDice, mean over images:", *(f"  {score.line()}" for score in scores), sep="\n")
    print(f"\nreport, models that come with ocuseg: {first}\nreport, the two that were taught:     {second}")
    store = f"sqlite:///{place.runs / 'mlflow.db'}"
    print(f"MLflow UI: {program('mlflow')} server --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri {store}")
    print("           and open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning")
    print(f"the real photographs, their vessels and whose they are: {EXAMPLES}")
    spent = f"{time.perf_counter() - began:.0f} s, of processor time {sum(os.times()[:4]):.0f} s"
    print(f"everything is in {place.home}; {spent}. Research use, not for diagnosis.")
    if faults := [fault for score in scores if (fault := score.fault()) is not None]:
        raise TrainingError("the demo failed: " + "; ".join(faults))


def step(title: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Do ``work`` below its title, and print how many seconds it took."""
    began = time.perf_counter()
    print(f"* {title} ...", flush=True)
    with progress(title) as advance:
        result = work(*args, progress=advance, **kwargs)
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return result


def make_hospital(place: Place) -> None:
    """A folder of scans as a hospital would hand it over: phantoms, real photographs, and what is no use."""
    import shutil

    from pipeline.phantoms.hospital import write_hospital
    from pipeline.scans.folder import index_folder
    from pipeline.scans.identity import Pseudonyms

    title = "a hospital folder: two phantom patients, three real photographs, broken files and duplicates"
    step(title, write_hospital, place.scans.parent, 2, 1, broken=True, first_patient=101)
    shutil.copytree(EXAMPLES / "photographs", place.scans / "photographs")
    pseudonyms = Pseudonyms.load_or_create(place.key)
    counts = step("index it", index_folder, place.scans, place.home / "catalogue.sqlite", pseudonyms=pseudonyms)
    print("  " + ", ".join(f"{name} {count}" for name, count in counts.summary().items() if count))


def segment_first(place: Place) -> Taught:
    """The report of the shipped models, before anything is trained, and their scores on the real photographs."""
    from pipeline.bundles.shipped_models import choose_models
    from pipeline.evaluation.evaluate import evaluate

    bundles = choose_models().bundles
    page = predict(place, f"segment it with the models that come with ocuseg: {', '.join(bundles)}", [*bundles.values()], "segmented")
    against = {"part": "all", "out": place.home / "photographs", "device": place.device}
    title = "compare the vessels of the real photographs with those that people drew"
    summary = step(title, evaluate, bundles[UNET], str(EXAMPLES / "card.md"), EXAMPLES, **against)
    return page, scores_of("photographs", dice_of(summary), page)


def teach_unet(place: Place) -> Taught:
    """A shipped U-Net learns on, from phantoms, which it has never seen."""
    from pipeline.bundles.shipped_models import find_bundle
    from pipeline.phantoms.hospital import write_hospital
    from pipeline.studies.finetune import finetune, prepare

    title = f"labelled images: {PATIENTS} other phantom patients, both eyes, several visits"
    step(title, write_hospital, place.labelled.parent, PATIENTS, 0)
    todo = prepare(find_bundle(UNET), "phantom", place.labelled, steps=STEPS, overrides=SETTINGS, key_path=place.key)
    title = f"teach the U-Net `{UNET}` on them, {STEPS} steps; test it before and after; record it in MLflow"
    found = step(title, finetune, todo, place.runs, device=place.device, key_path=place.key)
    before, after = ({name: own["value"] for name, own in (scores or {}).items()} for scores in (found.before, found.after))
    return found.result.bundle, scores_of("U-Net", after, found.result.run_dir, before)


def train_mask_rcnn(place: Place) -> Taught:
    """A Mask R-CNN that begins with the encoder of a shipped U-Net, so that nothing is downloaded."""
    from pipeline.config import load_config
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.recording import record_evaluation
    from pipeline.training.run import train

    config, where = load_config(Path(MASK_RCNN), SETTINGS), {"device": place.device, "key_path": place.key}
    title = "train a Mask R-CNN for disc and cup, its encoder from the shipped U-Net `disc`; record it in MLflow"
    result = step(title, train, config, place.labelled, place.runs / config.name, **where)
    tested = {"part": "test", "out": result.run_dir / "evaluation" / "test"}
    summary = step("test it on patients that it never saw", evaluate, result.bundle, config.data.card, place.labelled, **tested, **where)
    print(f"  {record_evaluation(result.bundle, tested['out'], summary).sentence}")
    return result.bundle, scores_of("Mask R-CNN", dice_of(summary), result.run_dir)


def predict(place: Place, title: str, bundles: Sequence[Path], name: str) -> Path:
    """The report of what ``bundles`` find in the hospital's folder."""
    from pipeline.inference.folder import predict_folder
    from pipeline.reports.worklist import write_report
    from pipeline.scans.identity import Pseudonyms

    out, pseudonyms = place.home / name, Pseudonyms.load_or_create(place.key)
    step(title, predict_folder, bundles, place.scans, out, device=place.device, pseudonyms=pseudonyms)
    page: Path = step("write the report", write_report, out)
    return page


def dice_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Of each class, from an evaluation's summary."""
    return {name: own["mean_per_image"]["dice"]["value"] for name, own in summary["classes"].items()}


def scores_of(what: str, dice: Mapping[str, float | None], look: Path, before: Mapping[str, float | None] | None = None) -> list[Score]:
    """Of every class of which something is expected, so that none which was not scored at all is overlooked."""
    return [Score(what, cls, dice.get(cls), look, (before or {}).get(cls)) for whose, cls in LEAST if whose == what]


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

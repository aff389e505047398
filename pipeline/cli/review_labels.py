"""What a review leaves: ``review export``, a labelled set; ``review agreement``, of two readers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, existing_folder
from pipeline.errors import EXIT_SOME_REJECTED, ConfigError

Predictions = Annotated[Path, typer.Argument(help="Folder that `ocuseg predict` or `segment` wrote, and that was reviewed.")]


def add_to(review: typer.Typer) -> None:
    review.command("export")(command(review_export))
    review.command("agreement")(command(review_agreement))


def review_export(
    predictions: Predictions,
    folder: Annotated[Path, typer.Argument(help="Folder of the labelled set; of an earlier export it is enlarged.")],
    modality: Annotated[Literal["fundus", "oct", "octa", "slo"] | None, typer.Option(help="Scans of this kind alone.")] = None,
    classes: Annotated[str | None, typer.Option(help="These classes alone, with commas between: vessel or disc,cup.")] = None,
    originals: Annotated[Path | None, typer.Option("--from", help="Take the pixels of the scans below this folder, by hash.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace what was exported earlier and has been reviewed again since.")] = False,
    validation: Annotated[float, typer.Option(min=0, max=0.9, help="Fraction of the patients that validate.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Fraction of the patients that are tested on.")] = 0.2,
    as_json: AsJson = False,
) -> None:
    """Turn accepted and edited cases into a labelled set with card, parts by patient and provenance, for train and finetune."""
    existing_folder(predictions, "PREDICTIONS")
    if originals is not None:
        existing_folder(originals, "--from")
    if validation + test >= 1:
        raise ConfigError("--validation and --test leave nobody to train on")
    from pipeline.review.labelled_set import export_set
    from pipeline.review.selection import Choice

    chosen = tuple(name.strip() for name in (classes or "").split(",") if name.strip())
    with progress("exporting") as advance:
        made = export_set(predictions, folder, Choice(modality, chosen, originals, update, validation, test), progress=advance)
    emit(
        made.to_json(),
        as_json,
        [*made.lines(), f"written: {folder}; next: ocuseg finetune BUNDLE --card {folder / 'card.md'} --root {folder}"],
    )
    if made.left_out:
        raise typer.Exit(EXIT_SOME_REJECTED)


def review_agreement(predictions: Predictions, as_json: AsJson = False) -> None:
    """How far a reader and a second reader agree: kappa of their verdicts, Dice of their masks, and what waits for an adjudicator."""
    existing_folder(predictions, "PREDICTIONS")
    from pipeline.review.agreement import find_agreement

    found = find_agreement(predictions)
    emit(found.to_json(), as_json, found.lines())

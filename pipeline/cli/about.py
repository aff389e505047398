"""What is installed and what may be chosen: ``models``, ``networks``, ``info``, ``schema``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import command, emit, table
from pipeline.cli.data import AsJson
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.bundles.shipped_models import ShippedModel


def add_to(app: typer.Typer) -> None:
    app.command("models")(command(models))
    app.command("networks")(command(networks))
    app.command("info")(command(info))
    app.command("schema")(command(print_schema))


def models(
    name: Annotated[str | None, typer.Argument(help="Show this model's card.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the trained models that come with ocuseg, or show the model card of one."""
    from pipeline.bundles.shipped_models import names, read_model

    if name is not None:
        model = read_model(name)
        return emit(facts_of(model) | {"card": model.card}, as_json, [model.card.rstrip("\n")])
    found = [read_model(one) for one in names()]
    rows = [[one.name, one.what, one.modality, f"{one.size / 1e6:.1f} MB", scores_line(one)] for one in found]
    lines = table(["name", "what", "kind of scan", "size", "scores"], rows) if rows else ["no model comes with this version"]
    emit([facts_of(one) for one in found], as_json, lines)


def facts_of(model: ShippedModel) -> dict[str, Any]:
    """What ``--json`` tells of a model that comes with ocuseg."""
    keys = ("on", "score", "value", "low", "high")
    facts = {key: getattr(model, key) for key in ("name", "id", "what", "modality", "classes", "size")}
    return facts | {"scores": [dict(zip(keys, row, strict=True)) for row in model.scores]}


def scores_line(model: ShippedModel) -> str:
    """The scores in words: "Dice vessel 0.815 on CHASE_DB1 test"."""
    return "; ".join(f"{score} {value:.3f} on {data}" for data, score, value, _, _ in model.scores) or "see its card"


def networks(as_json: AsJson = False) -> None:
    """List the networks a config may name, with their settings."""
    from pipeline.models.base import MODELS

    rows = []
    for entry in MODELS:
        assert entry.config is not None
        about = (__import__(entry.build.__module__, fromlist=["_"]).__doc__ or "").strip().splitlines()[0]
        settings = {key: field.default for key, field in entry.config.model_fields.items() if key != "name"}
        rows.append({"name": entry.name, "about": about, "settings": settings})
    lines = []
    for row in rows:
        lines += [f"{row['name']}: {row['about']}", *(f"    {key} = {value!r}" for key, value in row["settings"].items())]  # type: ignore[attr-defined]
    emit(rows, as_json, lines)


def info(as_json: AsJson = False) -> None:
    """Show versions, devices and where things are kept."""
    import torch

    from pipeline.scans.identity import default_key_path
    from pipeline.tracking.provenance import environment

    facts = dict(environment("cuda" if torch.cuda.is_available() else "cpu"))
    facts["site_key"] = "present" if default_key_path().exists() else "not created yet (created on first use)"
    lines = table(
        ["what", "value"],
        [[key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value] for key, value in facts.items()],
    )
    emit(facts, as_json, lines)


def print_schema(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Schema of a data card instead of a run file.")] = False,
    study: Annotated[bool, typer.Option("--study", help="Schema of a study file instead of a run file.")] = False,
    pacs: Annotated[bool, typer.Option("--pacs", help="Schema of a PACS file instead of a run file.")] = False,
) -> None:
    """Print the JSON Schema of a run file (configs/schema.json), study file (study_schema.json), data card (card_schema.json) or PACS
    file (pacs_schema.json)."""
    wishes = [name for name, wish in (("--card", card), ("--study", study), ("--pacs", pacs)) if wish]
    if len(wishes) > 1:
        raise ConfigError(f"{' and '.join(wishes)} cannot be combined; one schema is printed")
    text = _schema(card, study, pacs)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


def _schema(card: bool, study: bool, pacs: bool) -> str:
    if pacs:
        from pipeline.pacs.settings import pacs_schema

        return pacs_schema()
    if card:
        from pipeline.cards.explain import card_schema  # without torch, which a run file's schema imports with the networks

        return card_schema()
    from pipeline.config import schema, study_schema

    return study_schema() if study else schema()

"""What the records of a run say: config, data, code and results, without anything that names a person or a place."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, dump_config
from pipeline.datasets.splits import Split
from pipeline.tracking.mlflow_store import flatten, metric_name
from pipeline.tracking.provenance import folder_digest, manifest_digest, text_digest


@dataclass(frozen=True)
class RecordedInputs:
    """What a repetition takes from the record of the run ``repeats``, instead of working it out anew.

    ``look`` is called with the data manifest as soon as the data is read, before any training.
    """

    repeats: str
    split: Split
    card_text: str
    look: Callable[[Sequence[Mapping[str, Any]]], None]


BUNDLE = "values/bundle/"
"""Before the names of a bundle's metrics. MLflow shows metrics by the order of their names: single values stand after the curves of
train/ and validation/."""


def recorded_config(config: RunConfig, card_name: str) -> RunConfig:
    """The config as it is recorded: without where it is recorded, and with names instead of paths: of the card, of a weights file."""
    model = config.model.model_copy(update={"weights": Path(config.model.weights).name})  # type: ignore[attr-defined]
    tracking = config.tracking.model_copy(update={"uri": None})
    return with_card(config, card_name).model_copy(update={"model": model, "tracking": tracking})


def with_card(config: RunConfig, name: str) -> RunConfig:
    """The config with another card, or with the name of its card instead of a path."""
    return config.model_copy(update={"data": config.data.model_copy(update={"card": name})})


def start_record(
    config: RunConfig,
    card_name: str,
    card_text: str,
    split: Any,
    manifest: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    extra: Mapping[str, Any],
    repeats: str | None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run is made of: (the record's body, its files as texts by name); arguments as of ``Tracker.start``."""
    config = recorded_config(config, card_name)
    split_text = split if isinstance(split, str) else json.dumps(split, indent=1)
    rows = [dict(row) for row in manifest]
    digest = manifest_digest(rows)
    code = environment.get("code", {})
    tags = {
        "mlflow.note.content": config.description,
        "mlflow.source.name": "ocuseg train",
        "mlflow.source.git.commit": code.get("commit"),
        "ocuseg.dirty": json.dumps(code.get("dirty")),
        "ocuseg.version": code.get("version"),
        "ocuseg.source_sha256": code.get("source_sha256"),
        "ocuseg.card": card_name,
        "ocuseg.card_sha256": text_digest(card_text),
        "ocuseg.manifest_sha256": digest,
        "ocuseg.split_sha256": text_digest(split_text),
        "ocuseg.repeats": repeats,
        "ocuseg.device": environment.get("device", {}).get("type"),
    }
    params = flatten(config.model_dump(mode="json", exclude={"tracking": {"uri"}, "description": True}))
    body = {
        "experiment": config.tracking.experiment,
        "run_name": config.name,
        "params": {**params, **flatten(extra)},
        "tags": {name: str(value) for name, value in tags.items() if value not in (None, "")},
        "dataset": {
            "name": card_name,
            "digest": digest,
            "source": json.dumps({"card_sha256": text_digest(card_text)}),
            "profile": json.dumps({"images": len(rows)}),
        },
    }
    texts = {
        "config.yaml": dump_config(config),
        "split.json": split_text,
        "card.md": card_text,
        "manifest.json": json.dumps(rows, indent=1),
        "environment.json": json.dumps(dict(environment), indent=1),
    }
    return body, texts


def bundle_record(config: RunConfig, path: Path, metrics: Mapping[str, float | None]) -> tuple[dict[str, Any], dict[str, float]]:
    """What is registered of a bundle folder: (the record's body, the numbers as metrics of the run, after those of its epochs)."""
    known = {metric_name(name): float(value) for name, value in metrics.items() if value is not None}
    tags = {
        "ocuseg.bundle_sha256": folder_digest(path),
        "ocuseg.weights_sha256": folder_digest(path, only="weights.safetensors"),
        **{name: repr(value) for name, value in known.items()},
    }
    body = {"model": config.tracking.registered_model or config.name, "alias": config.tracking.alias, "tags": tags}
    return body, {f"{BUNDLE}{name}": value for name, value in known.items()}


def table_texts(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Rows as NAME.csv (None is an empty cell) and NAME.json."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return {f"{name}.csv": text.getvalue(), f"{name}.json": json.dumps([dict(row) for row in rows], indent=1)}


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def file_name(name: str) -> str:
    """``name`` as one part of a path."""
    return re.sub(r"[^\w.-]", "-", name)


def link_folder(source: Path, target: Path) -> None:
    """Put the files of ``source`` into ``target`` without copying them where the disk allows.

    A bundle's files are written once and replaced as a whole, never changed in place, so a second name is as good as a copy.
    """

    def link(name: str, other: str) -> None:
        try:
            os.link(name, other)
        except OSError:
            shutil.copyfile(name, other)

    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=link)

"""The models that come with ocuseg: bundles as package data, each known by the name of its folder (shipped/README.md).

Nothing heavy is imported: listing them reads JSON and Markdown alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import BundleError

SHIPPED = Path(__file__).resolve().parent / "shipped"
PREFIX = "shipped:"
LARGEST = 3_000_000
"""Bytes of one model with all its files."""
ON_REQUEST = {
    "lesions": "it is weak and marks healthy eyes, too",
    "quality": "it calls too many photographs of cameras that it has not seen poor",
}
"""Models that nobody gets who has not asked for them, and why."""
_RECORD = "bundle.json"


@dataclass(frozen=True)
class ShippedModel:
    """What a listing says of a model; ``scores``: (on what, which score, value, low, high) where measured on labelled test images ·
    ``label_map`` as JSON; ``classes`` are the names in it."""

    name: str
    path: Path
    id: str
    what: str
    modality: str
    classes: tuple[str, ...]
    size: int
    scores: tuple[tuple[str, str, float, float | None, float | None], ...]
    label_map: Mapping[str, Any]

    @property
    def card(self) -> str:
        """The model card as Markdown: the one written for people, else the one that training wrote."""
        file = next((self.path / name for name in ("CARD.md", "MODEL_CARD.md") if (self.path / name).is_file()), None)
        if file is None:
            raise BundleError(f"model {self.name}: it has no model card; install ocuseg again")
        return file.read_text(encoding="utf-8")


def names(folder: Path | None = None) -> list[str]:
    """The models that come with ocuseg, or lie in ``folder``."""
    return sorted(path.parent.name for path in (SHIPPED if folder is None else folder).glob(f"*/{_RECORD}"))


def find_bundle(given: Path | str, folder: Path | None = None) -> Path:
    """The folder of the bundle that a path, a model's name, or ``shipped:NAME`` means; what is in it is checked when it is loaded.

    A path goes first, so that a folder of one's own is never taken for a model that comes with ocuseg.

    Raises
    ------
    BundleError: there is no such bundle, with the names of those that there are.
    """
    text = os.fspath(given)
    if not text.startswith(PREFIX) and os.path.lexists(Path(text) / _RECORD):
        return Path(text)
    folder = SHIPPED if folder is None else folder
    name, known = text.removeprefix(PREFIX), names(folder)
    if name in known:
        return folder / name
    models = f"models that come with ocuseg: {', '.join(known) or 'none'}"
    if text.startswith(PREFIX):
        raise BundleError(f"{text}: there is no such model; {models}")
    title = Path(text).name or text
    raise BundleError(f"{title}: is not a bundle (no {_RECORD} in it); give the folder `bundle` of a finished run, or one of the {models}")


def is_shipped(path: Path, folder: Path | None = None) -> bool:
    """Whether a bundle comes with ocuseg: nothing is written beside such a one."""
    return path.resolve().parent == (SHIPPED if folder is None else folder).resolve()


def read_model(name: str, folder: Path | None = None) -> ShippedModel:
    """What a listing says of one model.

    Raises
    ------
    BundleError: there is no such model, or its files are damaged.
    """
    path = find_bundle(f"{PREFIX}{name.removeprefix(PREFIX)}", folder)
    try:
        record: dict[str, Any] = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        scores = path / "scores.json"
        rows = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else []
        return ShippedModel(
            path.name,
            path,
            record["id"],
            record["config"]["description"] or record["name"],
            record["modality"],
            tuple(cls["name"] for cls in record["label_map"]["classes"]),
            sum(file.stat().st_size for file in path.iterdir()),
            tuple((row["on"], row["score"], float(row["value"]), row.get("low"), row.get("high")) for row in rows),
            record["label_map"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"model {path.name}: its files are damaged ({type(error).__name__}); install ocuseg again") from error


@dataclass(frozen=True)
class Choice:
    """The bundles to use, by name, and why each of the others that come with ocuseg is left out."""

    bundles: dict[str, Path]
    left_out: dict[str, str]


def choose_models(wanted: Sequence[str] | None = None, folder: Path | None = None) -> Choice:
    """Those ``wanted``, by name or path; else all that come with ocuseg, but for those ON_REQUEST, and those that find nothing which
    another one does not.

    Raises
    ------
    BundleError: one of them does not exist, or nothing comes with this version.
    """
    if wanted is not None:
        paths = [find_bundle(name.strip(), folder) for name in wanted if name.strip()]
        if not paths:
            raise BundleError(f"no model is named; models that come with ocuseg: {', '.join(names(folder)) or 'none'}")
        return Choice({_title(path): path for path in paths}, {})
    chosen: list[ShippedModel] = []
    left_out: dict[str, str] = {}
    for model in (read_model(name, folder) for name in names(folder)):
        if model.name in ON_REQUEST:
            left_out[model.name] = f"{ON_REQUEST[model.name]}; choose it by --models {model.name}"
            continue
        twin = next((one for one in chosen if one.modality == model.modality and set(model.classes) <= set(one.classes)), None)
        if twin is None:
            chosen.append(model)
        else:
            left_out[model.name] = f"it finds what {twin.name} finds; choose it by --models {model.name}"
    if not chosen:
        raise BundleError("no model comes with this version; name bundles of your own by --models BUNDLE,BUNDLE")
    return Choice({model.name: model.path for model in chosen}, left_out)


def _title(path: Path) -> str:
    """A bundle lies in the folder `bundle` of its run, by whose name it is known."""
    return path.resolve().parent.name if path.name == "bundle" else path.name

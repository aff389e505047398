"""The files of a bundle: each is known to ``bundle.json`` by its hash, and that file by its own."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.atomic import write_text
from pipeline.bundles.record import FORMAT, BundleRecord
from pipeline.doubt.model import DOUBT, DoubtModel
from pipeline.errors import BundleError
from pipeline.registry import explain
from pipeline.types.case_record import first_fault

WEIGHTS, RECORD, CARD = "weights.safetensors", "bundle.json", "MODEL_CARD.md"
_LARGEST_RECORD = 2**26  # bytes


def add_doubt(path: Path, doubt: DoubtModel) -> None:
    """Give a bundle what is known of its doubt; its id, its weights and the masks that it makes stay the same.

    Raises
    ------
    BundleError: there is no whole bundle at ``path``.
    """
    record = read_record(path)
    write_text(path / DOUBT, doubt.to_text())
    record["files"] = record["files"] | {DOUBT: sha256(path / DOUBT)}
    seal(path, record)


def seal(folder: Path, record: dict[str, Any]) -> None:
    record["sha256"] = own_hash(record)
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def regular(path: Path, name: str) -> Path:
    """A file of the bundle, which must be one: a pipe would be waited for, a device never ends, a link leads elsewhere."""
    mode = (path / name).lstat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder, pipe or device"
        raise BundleError(f"bundle {path.name}: {name} is {kind}, not a file; copy the bundle again")
    return path / name


def read_record(path: Path) -> dict[str, Any]:
    """bundle.json, after its hash, its values, and the hashes of all files have been checked."""
    try:
        file = regular(path, RECORD)
        if file.stat().st_size > _LARGEST_RECORD:
            raise BundleError(f"bundle {path.name}: {RECORD} is larger than any bundle's; copy the bundle again")
        record = json.loads(file.read_text(encoding="utf-8"))
        own = own_hash(record) if isinstance(record, dict) else ""
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"bundle {path.name}: {RECORD} cannot be read ({error.__class__.__name__}); copy the bundle again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BundleError(f"bundle {path.name}: its format is not {FORMAT}, the one this version reads; use the ocuseg that wrote it")
    if record.get("sha256") != own:
        raise BundleError(f"bundle {path.name}: {RECORD} was altered after it was written; copy the bundle again")
    try:
        BundleRecord.model_validate(record)
    except ValidationError as error:
        wrong = explain(error.errors()[0], BundleRecord)
        raise BundleError(f"bundle {path.name}: {RECORD} holds what no bundle can ({wrong}); use the ocuseg that wrote it") from None
    if WEIGHTS not in record["files"]:
        raise BundleError(f"bundle {path.name}: {RECORD} knows no {WEIGHTS}; copy the bundle again")
    check_files(path, record["files"])
    return record


def check_files(path: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        try:
            found = sha256(regular(path, name))
        except OSError:
            raise BundleError(f"bundle {path.name}: {name} is missing or cannot be read; copy the bundle again") from None
        if found != expected:
            raise BundleError(f"bundle {path.name}: {name} was altered after it was written; copy the bundle again")


def read_doubt(path: Path, record: Mapping[str, Any]) -> DoubtModel:
    if DOUBT not in record["files"]:
        return DoubtModel()
    try:
        return DoubtModel.model_validate_json((path / DOUBT).read_bytes())
    except ValidationError as error:
        raise BundleError(f"bundle {path.name}: {DOUBT} holds what no bundle can ({first_fault(error)}); copy the bundle again") from None


def identity(record: Mapping[str, Any], weights_sha256: str) -> str:
    parts = {key: record[key] for key in ("config", "label_map", "thresholds", "input_channels", "modality")}
    if record["precision"] != "float32":
        parts["precision"] = record["precision"]
    return hashlib.sha256((weights_sha256 + _canonical(parts)).encode()).hexdigest()[:12]


def own_hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({key: value for key, value in record.items() if key != "sha256"}).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

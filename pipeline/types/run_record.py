"""What a folder of predictions says of itself: the one schema of ``run.json``, which the writer fills and every reader checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pipeline.types.assessment import Record
from pipeline.types.scan import Modality
from pipeline.types.stated import Stated

RUN_FILE = "run.json"


class EngineRecord(Record):
    """What ran the network in the last call: ``name``, by which wish (``auto``: the fastest), ``why``, and with ``auto`` the ``seconds`` of
    each engine for the first images."""

    name: str
    wanted: str
    why: str = ""
    seconds: dict[str, float] = Field({})


class RunRecord(Record):
    """``objects``: each case has objects (boxes with class and score) beside its mask · ``answers``: bundles say what it is as a whole ·
    ``classes``: the label map's JSON · ``key_check``: tells another site key, without which pseudonyms would not match ·
    ``probabilities``: whether each case keeps them · ``doubt``: whether flips were looked at, too · ``stated``: by the user, of scans
    whose files do not say it · ``engines``: what ran each bundle's network, by the bundle's id."""

    bundle_id: str = ""
    bundle_name: str = ""
    ocuseg: str = ""
    started: str = ""
    task: str = ""
    objects: bool = False
    answers: bool = False
    modality: Modality = "unknown"
    classes: dict[str, Any]
    thresholds: dict[str, float] = Field({})
    metrics: dict[str, Any] = Field({})
    card_sha256: str = ""
    key_check: str = ""
    probabilities: bool = False
    doubt: bool = False
    stated: Stated = Stated()
    engines: dict[str, EngineRecord] = Field({})

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, data: Any) -> Any:
        """``objects`` was told by the name of the task."""
        if isinstance(data, dict) and "objects" not in data:
            return data | {"objects": data.get("task") == "detection"}
        return data

    @classmethod
    def read(cls, out: Path) -> RunRecord:
        """Raises OSError, or ValueError where the file is no such record."""
        return cls.model_validate_json((out / RUN_FILE).read_bytes())

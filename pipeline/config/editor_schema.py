"""JSON Schema of run files and study files, for editors."""

from __future__ import annotations

import json
from typing import Any

from pipeline.config.layers import NAMED, OWN
from pipeline.config.run_config import RunConfig
from pipeline.config.study_file import StudyFile


def schema() -> str:
    """JSON Schema of a run file (configs/schema.json).

    A file that is based on another, and one without a name, which others are based on, need not be complete.
    """
    full, required = _partial()
    base = {"description": "a run file that this one changes: its path relative to this file's folder, or its name", "type": "string"}
    full["properties"] = {"base": base, **full["properties"]}
    full["if"] = {"required": ["name"], "not": {"required": ["base"]}}
    full["then"] = required
    return _text(full)


def study_schema() -> str:
    """JSON Schema of a study file (configs/study_schema.json), which refers to the run file's schema.json beside it.

    What a run changes is checked like a run file; a dotted key by its section alone.
    """
    full = StudyFile.model_json_schema()
    sections = {name: {"$ref": f"schema.json#/properties/{name}"} for name in ("base", *RunConfig.model_fields)}
    dotted = "|".join(name for name in RunConfig.model_fields if name not in (*OWN, "seed"))
    full["$defs"] |= {
        "Base": {"type": "object", "properties": sections, "additionalProperties": False},
        "Run": {
            "type": ["object", "null"],
            "properties": {name: own for name, own in sections.items() if name != "name"},
            "patternProperties": {rf"^({dotted})\.[a-z0-9_.]+$": {}},
            "additionalProperties": False,
        },
    }
    own = full["properties"]
    own["base"]["anyOf"] = [{"type": "string"}, {"$ref": "#/$defs/Base"}, {"type": "null"}]
    runs = own["runs"]
    runs["patternProperties"] = {pattern: {"$ref": "#/$defs/Run"} for pattern in runs["patternProperties"]}
    runs["additionalProperties"] = False
    return _text(full)


def _partial() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a run that need not be complete, and what a complete one requires."""
    full = RunConfig.model_json_schema()
    full["required"].remove("name")
    for section in NAMED:  # a file that changes one setting of its base's model does not say which one that is
        full["properties"][section]["anyOf"] = full["properties"][section].pop("oneOf")
    data = full["$defs"]["DataConfig"]
    required = {"required": full.pop("required"), "properties": {"data": {"required": data.pop("required")}}}
    return full, required


def _text(full: dict[str, Any]) -> str:
    return json.dumps(full, indent=2) + "\n"

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
    """JSON Schema of a study file (configs/study_schema.json): what a run changes is checked like a run file, dotted keys by their name."""
    run, _ = _partial()
    full = StudyFile.model_json_schema()
    full["$defs"] |= run.pop("$defs")
    sections = [name for name in run["properties"] if name not in (*OWN, "seed")]
    base = {"description": "a run file: its path relative to this file's folder, or its name", "type": "string"}
    inline = {**run, "properties": {"base": base, **run["properties"]}, "title": "Base"}
    changes = {
        **run,
        "type": ["object", "null"],
        "properties": {"base": base} | {name: own for name, own in run["properties"].items() if name != "name"},
        "patternProperties": {rf"^({'|'.join(sections)})\.[a-z0-9_.]+$": {}},
        "title": "Run",
    }
    full["$defs"] |= {"Base": inline, "Run": changes}
    own = full["properties"]
    own["base"] = {**own["base"], "anyOf": [base, {"$ref": "#/$defs/Base"}, {"type": "null"}]}
    runs = own["runs"]
    runs.pop("additionalProperties", None)
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

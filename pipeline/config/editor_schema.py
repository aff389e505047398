"""JSON Schema of configuration files, for editors."""

from __future__ import annotations

import json

from pipeline.config.layers import NAMED
from pipeline.config.run_config import RunConfig


def schema() -> str:
    """JSON Schema of a run file, for editors (configs/schema.json).

    A file that stands on another, and one without a name, which others stand on, need not be complete.
    """
    full = RunConfig.model_json_schema()
    full["required"].remove("name")
    for section in NAMED:  # a file that changes one setting of its base's model does not say which one that is
        full["properties"][section]["anyOf"] = full["properties"][section].pop("oneOf")
    base = {"description": "a run file that this one changes: its path seen from this file's folder, or its name", "type": "string"}
    full["properties"] = {"base": base, **full["properties"]}
    data = full["$defs"]["DataConfig"]
    full["if"] = {"required": ["name"], "not": {"required": ["base"]}}
    full["then"] = {"required": full.pop("required"), "properties": {"data": {"required": data.pop("required")}}}
    return json.dumps(full, indent=2) + "\n"

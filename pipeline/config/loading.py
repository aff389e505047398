"""YAML in, a checked RunConfig out, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.layers import KEYS, OWN, merged, read_text, set_override
from pipeline.config.renamed_keys import current_key, with_current_keys, with_detector_limits_in_task
from pipeline.config.run_config import RunConfig
from pipeline.config.study_file import StudyFile, parse_study
from pipeline.errors import ConfigError
from pipeline.registry import explain
from pipeline.resources import find_run_file
from pipeline.yaml_mapping import read_mapping


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read one YAML run file, apply ``dotted.key=value`` overrides (values are YAML), check everything.

    ``path`` may also be the name of a run file that comes with ocuseg ("phantom_little"), or STUDY/RUN, a run of a study file
    ("idrid_detectors/yolov3").

    A file that says ``base: other.yaml`` (a path relative to its own folder, or a name as above) holds only what it changes. Nested keys
    are merged, any other value replaces the base's. A ``model`` or ``task`` with another name replaces the whole section, because the
    settings of one network mean nothing to another; so does ``task.losses``. Name and description are never inherited. Overrides come
    last. The RunConfig, which is what a run records, knows nothing of bases.

    Raises
    ------
    ConfigError: one sentence a fault, each naming the dotted key, the value and the fix.
    """
    return _checked(merged(path), overrides, path.name, recorded=False)


def named_by_changes(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config of a run that overrides make another one of than its file describes: a name and a description that say so.

    Another card, model or task is part of the name; any other change is told after the description by its keys. What the overrides
    themselves say of name and description stays.
    """
    keys = [current_key(override.partition("=")[0].strip()) for override in overrides]
    told = [key for key in keys if key.partition(".")[0] not in (*OWN, "tracking")]
    others = {key: _value_at(config, key) for key in told if key in ("data.card", "model.name", "task.name")}
    parts = [re.sub(r"[^A-Za-z0-9_-]+", "-", Path(value).stem).strip("-") for value in others.values()]
    name = "_".join([config.name, *filter(None, parts)])[:64] if "name" not in keys else config.name
    description = config.description
    if told and "description" not in keys:
        changed = ", ".join(f"{key} {Path(others[key]).stem}" if key in others else key for key in dict.fromkeys(told))
        description = f"As {config.name}, but with another {changed}." if others else f"{description} Changed: {changed}.".strip()
    return config.model_copy(update={"name": name, "description": description})


def _value_at(config: RunConfig, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(config, section), name))


def run_files(path: Path) -> list[Path]:
    """The runs that ``path`` stands for, as :func:`load_config` takes them: itself, those of a study file, or the run files of a folder.

    In a folder, a file whose name begins with an underscore is not a run but a base of others.

    Raises
    ------
    ConfigError: a folder without a run file, or a study file that is wrong.
    """
    found = find_run_file(path)
    if found.is_dir():
        files = sorted(file for file in found.glob("*.yaml") if not file.name.startswith("_"))
        if not files:
            raise ConfigError(f"{path}: there is no run file (*.yaml) in this folder; give run files, or a folder of them")
        return files
    study = load_study(path)
    return [path] if study is None else [found / run for run in study.runs]


def load_study(path: Path) -> StudyFile | None:
    """The study file that ``path`` means, or the name of one that comes with ocuseg; None where it is something else (a run file).

    Raises
    ------
    ConfigError: one sentence a fault of the study itself; its runs are checked when they are loaded.
    """
    found = find_run_file(path)
    if not found.is_file():
        return None
    data = read_mapping(read_text(found, path), path.name, KEYS, ConfigError)
    return parse_study(data, found.name) if "runs" in data else None


def parse_config(text: str, overrides: Sequence[str] = (), where: str = "config") -> RunConfig:
    """The same from YAML (or JSON) text as it is recorded: it has no base, and nothing is said of renamed keys in it."""
    return _checked(with_current_keys(read_mapping(text, where, KEYS, ConfigError), where, recorded=True), overrides, where, recorded=True)


def _checked(data: dict[str, Any], overrides: Sequence[str], where: str, *, recorded: bool) -> RunConfig:
    for override in overrides:
        set_override(data, override)
    data = with_detector_limits_in_task(data, recorded=recorded)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {explain(fault, RunConfig)}" for fault in error.errors())) from None


def dump_config(config: RunConfig) -> str:
    """YAML text that :func:`parse_config` reads back to an equal config, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

"""A run file as written: the files it is based on, merged key by key, and overrides laid over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.cards.plain_text import decode_text
from pipeline.config.renamed_keys import current_key, with_current_keys
from pipeline.errors import CardError, ConfigError
from pipeline.resources import find_run_file, shipped
from pipeline.yaml_mapping import described, read_mapping, read_value

KEYS = "name, data, task, model, train"
OWN = ("name", "description")
"""What a run file does not take from its base: they say what this very run is."""
NAMED = ("model", "task")
"""Sections that another name replaces as a whole."""
WHOLE = ("task.losses",)
"""Mappings that are one value: replaced, never merged."""


def merged(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a run file and those it is based on say, with today's keys; ``above`` are the files that are based on it.

    Raises
    ------
    ConfigError: a file that cannot be read or is no mapping, a base that is none, or files based on each other.
    """
    found = path if above else find_run_file(path)
    text = _text(found, path, above)
    chain = (*above, found.resolve())
    if chain[-1] in above:
        raise ConfigError(f"{above[-1].name}: base: goes round in a circle ({' -> '.join(file.name for file in chain)}); take one base out")
    data = with_current_keys(read_mapping(text, path.name, KEYS, ConfigError), path.name)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path.name}: base: must be one file's path or name (it is {base!r})")
    # Never relative to the working directory: the same file would be another run there.
    places = [folder / name for folder in (chain[-1].parent, shipped("configs")) for name in (base, f"{base}.yaml")]
    below = merged(next((file for file in places if file.is_file()), places[0]), chain)
    return laid_over({key: value for key, value in below.items() if key not in OWN}, data)


def _text(found: Path, path: Path, above: tuple[Path, ...]) -> str:
    try:
        return decode_text(found.read_bytes())
    except (OSError, CardError) as error:
        reason = str(error) if isinstance(error, CardError) else type(error).__name__
        if above:
            raise ConfigError(
                f"{above[-1].name}: base: {path.name} cannot be read ({reason}); give a path relative to that "
                "file's folder, or the name of a file in configs/"
            ) from error
        raise ConfigError(f"{path}: cannot be read ({reason}); give the path of a YAML run file, such as one in configs/") from error


def laid_over(base: Any, own: dict[str, Any], place: str = "") -> dict[str, Any]:
    """``base`` with the changes of a file based on it, as :func:`load_config` describes; ``place`` is the dotted key of both."""
    out = dict(base)
    for key, value in own.items():
        dotted, known = f"{place}{key}", base.get(key)
        whole = dotted in WHOLE or not (isinstance(known, dict) and isinstance(value, dict))
        if whole or (dotted in NAMED and "name" in known and value.get("name", known["name"]) != known["name"]):
            out[key] = value
        else:
            out[key] = laid_over(known, value, f"{dotted}.")
    return out


def set_override(data: dict[str, Any], override: str) -> None:
    """Apply one ``--set`` (dotted.key=YAML value) to ``data``, in place."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write it as dotted.key=value, such as train.epochs=5")
    *parents, last = current_key(key).split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} holds a value, not keys")
    try:
        data[last] = read_value(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not valid YAML{described(error)}") from None

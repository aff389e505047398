"""A run file as written: the files it is based on, merged key by key, and overrides laid over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.cards.plain_text import decode_text
from pipeline.config.renamed_keys import current_key, with_current_keys
from pipeline.config.study_file import parse_study, split_run
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
    """What a run file (or STUDY/RUN, a run of a study file) and those it is based on say, with today's keys.

    ``above`` are the files that are based on it.

    Raises
    ------
    ConfigError: a file that cannot be read or is no mapping, a base that is none, or files based on each other.
    """
    of_study = split_run(path)
    found, run = of_study if of_study is not None else (path if above else find_run_file(path), None)
    text = read_text(found, path, above)
    here = found.resolve() if run is None else found.resolve() / run
    chain = (*above, here)
    if here in above:
        raise ConfigError(f"{_name(above[-1])}: base: goes round in a circle ({' -> '.join(map(_name, chain))}); take one base out")
    data = read_mapping(text, found.name, KEYS, ConfigError)
    if run is not None:
        data = parse_study(data, found.name).changes(run, found.name)
    elif "runs" in data:
        names = ", ".join(parse_study(data, found.name).runs)
        raise ConfigError(f"{path}: is a study of several runs; name one of them as {path.with_suffix('')}/RUN, RUN being one of {names}")
    return _based(with_current_keys(data, path.name), found.resolve().parent, chain, inline=run is not None)


def _based(data: dict[str, Any], folder: Path, chain: tuple[Path, ...], inline: bool) -> dict[str, Any]:
    """``data`` laid over its base; paths are relative to ``folder``.

    ``inline``: of a study file, where the base may be a mapping, and a run without a description keeps the base's.
    """
    base = data.pop("base", None)
    if base is None:
        return data
    if isinstance(base, dict) and inline:
        below = _based(with_current_keys(base, f"{chain[-1].parent.name}: base"), folder, chain, inline=True)
    elif isinstance(base, str) and base:
        below = merged(_place(base, folder), chain)
    else:
        raise ConfigError(f"{_name(chain[-1])}: base: must be one file's path or name (it is {base!r})")
    own = ("name",) if inline else OWN
    return laid_over({key: value for key, value in below.items() if key not in own}, data)


def _name(place: Path) -> str:
    """A file by its name; a run of a study as STUDY/RUN."""
    return f"{place.parent.name}/{place.name}" if place.parent.is_file() else place.name


def _place(base: str, folder: Path) -> Path:
    """The file that a base means. Never relative to the working directory: the same file would be another run there."""
    places = [below / name for below in (folder, shipped("configs")) for name in (base, f"{base}.yaml")]
    return next((place for place in places if place.is_file() or split_run(place) is not None), places[0])


def read_text(found: Path, path: Path, above: tuple[Path, ...] = ()) -> str:
    """The text of ``found``, which was asked for as ``path``, by hand or as the base of the last one ``above``."""
    try:
        return decode_text(found.read_bytes())
    except (OSError, CardError) as error:
        reason = str(error) if isinstance(error, CardError) else type(error).__name__
        if above:
            raise ConfigError(
                f"{_name(above[-1])}: base: {path.name} cannot be read ({reason}); give a path relative to that "
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

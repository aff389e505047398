"""Keys of earlier versions: a config that still uses one is read as if it used the new key; a file that a person writes, with one warning.

Records (a bundle's config, that of a run or of a study's row) stay as they are, and nothing is said of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

RENAMED: Mapping[str, str] = {
    "train.encoder_rate": "train.encoder_lr_multiplier",
    "train.encoder_decay": "train.layerwise_lr_decay",
    "train.thaw_at": "train.unfreeze_at",
}
"""Old dotted key -> new dotted key. The value keeps its meaning."""

_MERGED = (("detections", 100, min), ("score_threshold", 0.05, max))
"""Detector settings that both ``model`` and ``task`` once had: name, default, and which of two values was the one in force."""


def with_current_keys(data: Mapping[str, Any], where: str = "", *, recorded: bool = False) -> dict[str, Any]:
    """``data`` with each renamed key under its new name, without a warning where it is ``recorded``. ``data`` itself is not changed.

    Raises
    ------
    ConfigError: an old key and its new name are both given. ``where``, a file's name, opens the sentence.
    """
    current = dict(data)
    for old, new in RENAMED.items():
        section = _section(current, old)
        if section is None or _last(old) not in section:
            continue
        if not recorded:
            _warn(old, new)
        target = _section(current, new)
        if target is not None and _last(new) in target:
            place = f"{where}: " if where else ""
            raise ConfigError(f"{place}{old} and {new} are both given, and are the same setting; remove {old}")
        value = section[_last(old)]
        _set(current, old)
        _set(current, new, {_last(new): value})
    return current


def current_key(key: str) -> str:
    """The dotted key that ``key`` is called today."""
    if key in RENAMED:
        _warn(key, RENAMED[key])
    return RENAMED.get(key, key)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The mapping that holds, or would hold, a dotted key."""
    node: Any = data
    for part in key.split(".")[:-1]:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else None


def _set(data: dict[str, Any], key: str, entry: Mapping[str, Any] | None = None) -> None:
    """Replace the entry of a dotted key (None: remove it), copying every mapping on the way."""
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        node[parent] = dict(node.get(parent) or {})
        node = node[parent]
    node.pop(last, None)
    node |= entry or {}


def with_detector_limits_in_task(data: dict[str, Any], *, recorded: bool = False) -> dict[str, Any]:
    """``model.detections`` and ``model.score_threshold`` moved to the task, where the stricter of both values holds."""
    model, task = (data.get(name) for name in ("model", "task"))
    if not isinstance(model, dict) or not isinstance(task, dict) or task.get("name") != "detection":
        return data
    model, task = dict(model), dict(task)
    for key, default, stricter in _MERGED:
        value, own = model.pop(key, None), task.get(key, default)
        # With tiles the model's number was a limit per tile, not per image.
        if isinstance(value, int | float) and isinstance(own, int | float) and not (key == "detections" and task.get("tile")):
            task[key] = stricter(value, own)
            if task[key] != own and not recorded:
                _warn(f"model.{key}", f"task.{key}", f": read as task.{key}={task[key]}")
    return data | {"model": model, "task": task}


@cache
def _warn(old: str, new: str, detail: str = "") -> None:
    """Once in a process for each key, however many configs use it."""
    log.warning("%s is now %s%s; use the new key", old, new, detail)

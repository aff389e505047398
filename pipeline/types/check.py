"""How the core types check themselves."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless ``condition``: how every core type checks itself."""
    if not condition:
        raise ValueError(message)

"""Identifiers that depend on their words alone, so that exporting twice gives an archive the same object and not a second one."""

from __future__ import annotations

import uuid

_OCUSEG = uuid.UUID("5b0e4c52-0f4e-5a0e-9d0a-6f6375736567")


def uid_of(*words: object) -> str:
    """A UID below 2.25, made of a name-based UUID (PS3.5 B.2; RFC 4122, version 5)."""
    return f"2.25.{uuid.uuid5(_OCUSEG, chr(0).join(str(word) for word in words)).int}"

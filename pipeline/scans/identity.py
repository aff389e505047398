"""Pseudonyms: a keyed hash stands for every name, ID, date and path, so that no written file leads back to a patient.

HMAC-SHA256 (RFC 2104) under a site key, cut to 80 bits, in lower-case base32: sixteen letters and digits. The same value under
the same key always has the same token, so a patient's visits and eyes stay together; without the key a token cannot be
recomputed from a guessed name or ID. Losing the key loses only the link between old and new tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
from pathlib import Path, PurePath
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.types import Laterality

logger = logging.getLogger(__name__)

Kind = Literal["patient", "visit", "image", "path", "stamp"]

NO_VISIT = "0"
"""The visit of a file that tells nothing about its visit."""

_RIGHT = {"OD", "RIGHT", "R"}
_LEFT = {"OS", "LEFT", "L"}


def default_key_path() -> Path:
    """Where the site key lies: $OCUSEG_SITE_KEY, else .config/ocuseg/site.key in the home folder."""
    given = os.environ.get("OCUSEG_SITE_KEY")
    return Path(given) if given else Path.home() / ".config" / "ocuseg" / "site.key"


class Pseudonyms:
    """Tokens under one key (bytes, at least one)."""

    def __init__(self, key: bytes) -> None:
        if not key:
            raise ConfigError("the site key is empty; remove the file and a new key will be made")
        self._key = key

    @property
    def key(self) -> bytes:
        """The key itself, for handing to a worker process over a pipe; never write it anywhere."""
        return self._key

    @classmethod
    def unkeyed(cls) -> Pseudonyms:
        """Tokens that anybody can recompute: for public data and tests only."""
        return cls(b"ocuseg-unkeyed")

    @classmethod
    def load_or_create(cls, path: Path) -> Pseudonyms:
        """The key in ``path``, or a new random one that is written there with mode 0600.

        A key of your own may be any 16 bytes or more. Two processes that start at once agree on one key.
        """
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
                descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    with os.fdopen(descriptor, "w") as file:
                        file.write(secrets.token_hex(32) + "\n")
                    try:
                        os.link(staged, path)  # fails when another process was first; its key is then ours too
                    except FileExistsError:
                        pass
                    else:
                        logger.info("a new site key was made; keep it: pseudonyms can only be repeated with it")
                finally:
                    staged.unlink()
            content = path.read_bytes().strip()
            if os.name == "posix" and path.stat().st_mode & 0o077:
                logger.warning("the site key can be read by others; its mode should be 0600")
        except OSError as error:
            raise ConfigError(f"the site key cannot be read or made ({error.strerror}); set OCUSEG_SITE_KEY to a file you own") from None
        if len(content) < 16:
            raise ConfigError("the site key is shorter than 16 bytes; remove the file and a new key will be made")
        return cls(bytes.fromhex(content.decode()) if re.fullmatch(rb"[0-9a-fA-F]{64}", content) else content)

    def token(self, kind: Kind, value: str | bytes) -> str:
        """Sixteen characters a-z, 2-7 that stand for ``value``; different kinds never share a token."""
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        digest = hmac.new(self._key, kind.encode() + b"\0" + data, hashlib.sha256).digest()
        return base64.b32encode(digest[:10]).decode().lower()


def _side(word: str) -> Laterality | None:
    upper = word.upper()
    # A single lower-case letter is too often a list index ("scan_l_2"); a longer word is not.
    if len(word) > 1 or word.isupper():
        if upper in _RIGHT:
            return "R"
        if upper in _LEFT:
            return "L"
    if re.fullmatch(r"\d+[RL]", word):  # Image_01L, as CHASE_DB1 and many exports have it
        return "R" if word.endswith("R") else "L"
    return None


def laterality_from_name(stem: str) -> tuple[Laterality | None, str]:
    """The eye that a file's name states, and the name without that statement (so that both eyes share a patient).

    Only a clear word counts: OD, OS, right, left, a capital R or L of its own, or one right after digits. Two words that
    contradict each other say nothing.

    >>> laterality_from_name("Image_01L")
    ('L', 'Image_01')
    >>> laterality_from_name("glaucoma_0017")
    (None, 'glaucoma_0017')
    """
    words = re.split(r"([^A-Za-z0-9]+)", stem)
    sides = {side for word in words if (side := _side(word))}
    if len(sides) != 1:
        return None, stem
    kept = [word if _side(word) is None else re.sub(r"[A-Za-z]+$", "", word) for word in words]
    rest = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", "".join(kept))
    return sides.pop(), rest or stem


def place_below(path: Path, root: Path | None) -> tuple[str, ...]:
    """The parts of ``path`` below ``root``; only the file's name when there is no root or the file lies elsewhere."""
    if root is not None:
        try:
            return PurePath(os.path.abspath(path)).relative_to(os.path.abspath(root)).parts
        except ValueError:
            pass
    return (path.name,)


def place_bytes(path: Path, root: Path | None) -> bytes:
    """The place below ``root`` as one value to make a token of; any bytes a file name can hold."""
    return os.fsencode("/".join(place_below(path, root)))


def patient_and_visit_from_place(path: Path, root: Path | None) -> tuple[str, str | None]:
    """What a file without tags tells of its patient and visit: the first and second folder below ``root``.

    A file that lies in no folder is a patient of its own, named by its stem less the eye.
    """
    parts = place_below(path, root)
    if len(parts) == 1:
        name = parts[0]
        stem = name[: name.index(".", 1)] if "." in name[1:] else name
        return laterality_from_name(stem)[1], None
    return parts[0], parts[1] if len(parts) > 2 else None

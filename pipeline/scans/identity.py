"""Pseudonyms: a keyed hash stands for every name, ID, date and path, so that no written file leads back to a patient.

HMAC-SHA256 (RFC 2104) under a site key, cut to 80 bits, in lower-case base32: sixteen letters and digits. The same value under
the same key always has the same token, so a patient's visits and eyes stay together; without the key a token cannot be
recomputed from a guessed name or ID. Losing the key loses only the link between old and new tokens.
"""

from __future__ import annotations

import base64
import codecs
import datetime
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.scans.place import Role, patient_and_visit_from_place, place_below, place_bytes, read_folders, roles_passed, same_text
from pipeline.types import CaseKey, Laterality, PatientSource

logger = logging.getLogger(__name__)

Kind = Literal["patient", "visit", "image", "path", "stamp"]

MANY_OF_ONE = 20
"""From this many images of one patient on, a warning is given if all others together have fewer."""
NO_VISIT = "0"
"""The visit of a file that states none."""

_NOBODY = re.compile(
    r"(anonym|anonymous|anonymi[sz]ed|anonymisiert|anonyme|anonimo|anonimizado|anon|unknown|unbekannt|inconnu|desconocido|unnamed"
    r"|none|null|nil|nan|n/?a|not available|no ?id|patient|patient ?id|id|test|demo|dummy|default"
    r"|removed|deleted|redacted|de-?identified|xx+|0+|[-?*._]+)"
)

_MADE = "ocuseg-key"
"""How a key made by ocuseg begins: ocuseg-key, eight groups of eight hexadecimal digits, and a group that checks them."""
_PART_OF_MADE = re.compile(r"([a-z-]*key-)?[0-9a-f]{0,8}(-[0-9a-f]{8})*-[0-9a-f]{0,8}|.*(-[0-9a-f]{8}){3}.*", re.DOTALL | re.IGNORECASE)
_MAX_KEY_BYTES = 1 << 20


def default_key_path() -> Path:
    """Where the site key is kept: $OCUSEG_SITE_KEY, else .config/ocuseg/site.key in the home folder."""
    given = os.environ.get("OCUSEG_SITE_KEY")
    return Path(given) if given else Path.home() / ".config" / "ocuseg" / "site.key"


class Pseudonyms:
    """Makes tokens with one key (at least one byte)."""

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

        A key of your own may be any 16 bytes or more. Two processes that start at the same time use the same key.
        """
        try:
            if not os.path.lexists(path):
                _make_key(path)
        except OSError as error:
            raise ConfigError(f"the site key cannot be made ({error.strerror}); set OCUSEG_SITE_KEY to a file you own") from None
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Pseudonyms:
        """The key in ``path``, which must be there."""
        try:
            if not os.path.lexists(path):
                raise ConfigError(f"there is no site key {str(path)!r}; set OCUSEG_SITE_KEY (or --site-key) to the key's file")
            if not path.is_file():
                what = "a folder" if path.is_dir() else "not a file, or a broken link"
                raise ConfigError(f"the site key {str(path)!r} is {what}; set OCUSEG_SITE_KEY (or --site-key) to the key's file")
            with path.open("rb") as file:
                content = file.read(_MAX_KEY_BYTES + 1)
            if os.name == "posix" and path.stat().st_mode & 0o077:
                logger.warning("the site key can be read by others; its mode should be 0600")
        except OSError as error:
            raise ConfigError(f"the site key cannot be read ({error.strerror}); set OCUSEG_SITE_KEY to a file you own") from None
        return cls(_key_in(content))

    def token(self, kind: Kind, value: str | bytes) -> str:
        """Sixteen characters a-z, 2-7 that stand for ``value``; different kinds never share a token."""
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        digest = hmac.digest(self._key, kind.encode() + b"\0" + data, "sha256")
        return base64.b32encode(digest[:10]).decode().lower()

    def patient(self, name: str) -> str:
        """The token of a patient's ID or name, ignoring surrounding blanks and the way accents are encoded.

        The issuer of an ID is ignored: the same ID with and without an issuer is one person, and so are equal IDs of two issuers. A key
        belongs to one site; read another hospital's folders, whose numbers may collide, with another key.
        """
        return self.token("patient", same_text(name))

    def day(self, patient: str, date: str) -> int | None:
        """The day of a date (YYYYMMDD) on a calendar of this patient's own: None where it is no date.

        The calendar begins at a secret day up to 2^40 days away, another one for each patient's token and key. So the days between two
        visits are what they are, and without the key a number says nothing about a date.
        """
        digits = date.replace(".", "")
        if not re.fullmatch("[0-9]{8}", digits):
            return None
        with suppress(ValueError):
            true = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal()
            return true + int.from_bytes(hmac.new(self._key, b"day\0" + patient.encode(), hashlib.sha256).digest()[:5], "big")
        return None

    def shift(self, patient: str) -> int:
        """By how many days all dates of a patient (a token) move in de-identified files: one to ten years back, secret without the key.

        One number for a patient, so that the days between visits stay what they are.
        """
        digest = hmac.new(self._key, b"shift\0" + patient.encode(), hashlib.sha256).digest()
        return -(366 + int.from_bytes(digest[:8], "big") % 3287)

    def uid(self, value: str) -> str:
        """The UID that stands for another one, the same each time (PS3.5 B.2: 2.25 and 128 bits)."""
        digest = hmac.new(self._key, b"uid\0" + value.strip(" \0").encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True)
class Identity:
    """Whose image a file holds, of which visit, and what counted for a patient. ``patient`` and ``visit`` are in clear: to be shown at the
    site, never written. ``day`` is :meth:`Pseudonyms.day` of the visit's date, None where it is not known."""

    case: CaseKey
    source: PatientSource
    day: int | None
    patient: str = field(repr=False)
    visit: str = field(repr=False)


def identify(
    names: Pseudonyms,
    path: Path,
    root: Path | None,
    eye: Laterality | None,
    *,
    patient: str = "",
    visit: str = "",
    date: str = "",
    image: str = "",
) -> Identity:
    """What tags state (each "" where they do not) wins; else the place below ``root`` does. ``date`` of the visit (YYYYMMDD)."""
    folder_patient, folder_visit = patient_and_visit_from_place(path, root)
    source: PatientSource = "tag" if patient else "folder" if read_folders(place_below(path, root)[:-1]).patient else "file"
    token = names.patient(patient or folder_patient)
    visit = visit or folder_visit or ""
    case = CaseKey(
        token, eye or "U", names.token("visit", visit) if visit else NO_VISIT, names.token("image", image or place_bytes(path, root))
    )
    day = names.day(token, date or visit) if visit else None  # what states no visit is of any
    return Identity(case, source, day, patient or folder_patient, visit)


def of_file(whose: Identity, path: Path, names: Pseudonyms) -> Identity:
    """Where a folder's name counted for the patient: the same as a patient of the file's own, by its name without the eye."""
    if whose.source != "folder":
        return whose
    patient = patient_and_visit_from_place(path, None)[0]
    # The day stays without a visit: a calendar is one patient's own.
    return replace(whose, case=replace(whose.case, patient=names.patient(patient)), source="file", day=None, patient=patient)


def warn_of_one_patient(patients: Iterable[tuple[str, int]]) -> None:
    """Warn if most images of a folder count as one patient, as they do if one ID or folder stands for everybody.

    ``patients``: each with the number of its images.
    """
    patient, most, total = "", 0, 0
    for one, images in patients:
        total += images
        if images > most:
            patient, most = one, images
    if most >= MANY_OF_ONE and 2 * most > total:
        logger.warning(
            "%d of %d images count as one patient (%s), by one Patient ID or one folder; if they are several people's, put each person's "
            "files into a folder of their own, and blank the ID",
            most,
            total,
            patient,
        )


def roles_that_counted(case: str, path: Path, root: Path, names: Pseudonyms) -> set[Role]:
    """What the folders above a file were taken for instead of a patient's, if ``case`` got its patient from its place, not from tags."""
    roles = roles_passed(path, root)
    named = names.patient(patient_and_visit_from_place(path, root)[0]) if roles else ""
    return set(roles) if case.partition("_")[0] == named else set()


def tell_of_roles(roles: Counter[Role]) -> None:
    """Report how many images got their patient from a path in which some folders were not taken for a patient's."""
    if roles:
        counted = ", ".join(f"{role} ({count} images)" for role, count in sorted(roles.items()))
        logger.info("folder names above images without a Patient ID were not taken as a patient's, because they read as: %s", counted)


def stated_patient(patient_id: str) -> str:
    """A Patient ID in the form that distinguishes people, or "" if it stands for nobody: empty, "ANONYMOUS", "unknown", "0"."""
    plain = same_text(patient_id)
    return "" if _NOBODY.fullmatch(plain.casefold()) else plain


def _make_key(path: Path) -> None:
    """Write a new random key with mode 0600, unless another process was first: then its key is used."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(_written(secrets.token_bytes(32)) + "\n")
        try:
            os.link(staged, path)
        except FileExistsError:
            return
    finally:
        staged.unlink()
    logger.info("a new site key was created: %s; keep a copy: only this key gives the same pseudonyms again", path)


def _written(key: bytes) -> str:
    """A key of 32 bytes as written to a file: in groups, so that a fragment is not mistaken for a key of your own, and with a check."""
    return "-".join((_MADE, *re.findall(".{8}", key.hex()), hashlib.sha256(key).hexdigest()[:8]))


def _key_in(content: bytes) -> bytes:
    """The key in a file's content: made by ocuseg (with a check, or earlier 64 hexadecimal digits alone), or the site's own.

    Raises
    ------
    ConfigError: it is damaged, or too short for a key.
    """
    remedy = "restore it from a copy; another key would change every pseudonym"
    own = content.strip()
    if len(content) > _MAX_KEY_BYTES:
        raise ConfigError(f"the site key's file has more than {_MAX_KEY_BYTES >> 20} MiB, too much for a key; {remedy}")
    if not own.strip(b"\0"):
        raise ConfigError(f"the site key's file is {'damaged (only zeros)' if own else 'empty'}; {remedy}")
    text = _text_of(own)
    if text is not None and re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    if text is not None and (text.lower().startswith(_MADE) or _PART_OF_MADE.fullmatch(text)):
        digits = "".join(text.split("-")[2:10])
        key = bytes.fromhex(digits) if re.fullmatch(r"[0-9a-fA-F]{64}", digits) else b""
        if not key or _written(key) != text.lower():
            raise ConfigError(f"the site key is damaged or incomplete (its check fails); {remedy}")
        return key
    if len(own) < 16:
        raise ConfigError(f"the site key is shorter than 16 bytes; {remedy}")
    if text is not None and re.fullmatch(r"[0-9a-fA-F]{16,63}", text):
        logger.warning("the site key has %d hexadecimal digits; if it once had 64, it was cut and every pseudonym changes", len(own))
    return own


def _text_of(content: bytes) -> str | None:
    """The content as text, as an editor may have saved it (with a byte order mark, as UTF-16); None for other bytes."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding, "replace").strip()
    return content.decode("ascii", "replace") if content.isascii() else None

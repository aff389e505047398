"""Text files as common programs write them: UTF-8 with or without a byte order mark, UTF-16 with one; errors name the line."""

from __future__ import annotations

import codecs
from pathlib import Path

from pipeline.errors import CardError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_plain_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    CardError: it is not a regular file (a pipe would never end), or not text; names the line.
    """
    return decode_text(read_regular(path))


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file, or CardError for a pipe, a device or a folder."""
    if path.exists() and not path.is_file():
        raise CardError("it is not a regular file")
    return path.read_bytes()


def decode_text(data: bytes) -> str:
    """Decodes bytes by their byte order mark; without one they are UTF-8. CardError names the line that is not."""
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        fault = text.find("\0")
    except UnicodeDecodeError as error:
        text, fault = data[: error.start].decode(encoding, "replace"), error.start
    if fault < 0:
        return text
    line = text[:fault].count("\n") + 1
    raise CardError(
        f"line {line} is not {encoding.upper().removesuffix('-SIG')} text; save the file as UTF-8 (a spreadsheet: as CSV UTF-8)"
    )

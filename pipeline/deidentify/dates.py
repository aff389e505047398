"""DICOM dates moved by whole days (PS3.5 6.2, VR DA, DT and TM); what is no date becomes ""."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress


def shifted_date(value: str, days: int) -> str:
    """YYYYMMDD (or the old YYYY.MM.DD) ``days`` later.

    >>> shifted_date("20240301", -1)
    '20240229'
    """
    digits = value.strip(" \0").replace(".", "")
    if re.fullmatch(r"\d{8}", digits):
        with suppress(ValueError, OverflowError):
            day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) + datetime.timedelta(days)
            return f"{day:%Y%m%d}" if day.year >= 1000 else ""
    return ""


def shifted_datetime(value: str, days: int) -> str:
    """YYYYMMDDHHMMSS.FFFFFF ``days`` later, without its time zone; a date that lacks its day cannot be shifted by days."""
    match = re.fullmatch(r"(\d{8})((?:\d{2}){0,3}(?:\.\d{1,6})?)(?:[+-]\d{4})?", value.strip(" \0"))
    moved = shifted_date(match[1], days) if match else ""
    return moved + match[2] if match and moved else ""


def shifted_time(value: str, days: int) -> str:
    """The time of the day as it is, if it is one."""
    text = value.strip(" \0")
    return text if re.fullmatch(r"\d{2}:?(?:\d{2}:?(?:\d{2}(?:\.\d{1,6})?)?)?", text) else ""

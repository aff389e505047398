"""A DICOM file that arrives: checked, then there by one rename; and whether one that is there is whole."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import atomic_path
from pipeline.errors import ScanError
from pipeline.pacs.connection import USABLE_UID
from pipeline.scans.quiet import quiet

_HELD = 1 << 12
"""Values of more bytes are passed over where a file on the disk is looked at."""


@dataclass(frozen=True)
class Arrived:
    """What a file says of itself."""

    study: str
    series: str
    uid: str
    sop_class: str
    syntax: str


def look(data: bytes | Path) -> Arrived:
    """What a DICOM file says of itself, once it is sure to be whole: it has its file meta, and nothing of it is missing at its end.

    Raises
    ------
    ScanError: ``malformed`` or ``truncated``; the message has no UID and no name.
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    with quiet():
        try:
            dataset = dcmread(io.BytesIO(data) if isinstance(data, bytes) else data, defer_size=_HELD)
            syntax = UID(dataset.file_meta.TransferSyntaxUID)
            _check_end(dataset, size, deflated=syntax.is_transfer_syntax and syntax.is_deflated)
            study, series, uid, sop_class = (
                str(dataset[keyword].value) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
            )
        except ScanError:
            raise
        except (KeyError, EOFError):  # of a file that ends within an element pydicom keeps the file meta alone
            raise ScanError("truncated", "its end is missing, or its UIDs are") from None
        except Exception as error:  # of any file that only calls itself DICOM
            raise ScanError("malformed", f"it is no whole DICOM file ({type(error).__name__})") from None
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise ScanError("malformed", "its transfer syntax is not one of DICOM")
    if not all(map(USABLE_UID.fullmatch, (study, series, uid))):  # files are named by them
        raise ScanError("malformed", "its UIDs are none")
    return Arrived(study, series, uid, sop_class, str(syntax))


def keep(data: bytes, path: Path) -> None:
    """Write a file that has been looked at; it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, durable=True) as staged:
        staged.write_bytes(data)


def is_whole(path: Path, uid: str) -> bool:
    """Whether ``path`` holds the instance ``uid`` completely."""
    try:
        return look(path).uid == uid
    except (OSError, ScanError):
        return False


def _check_end(dataset: Any, size: int, *, deflated: bool) -> None:
    last = max(dataset.keys(), default=None)
    if "Rows" in dataset and not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError("truncated", "its picture is missing")
    raw = None if last is None or deflated else dataset.get_item(last, keep_deferred=True)
    begin, length = getattr(raw, "value_tell", None), getattr(raw, "length", None)
    if begin is not None and length is not None and length != 0xFFFFFFFF and begin + length > size:
        raise ScanError("truncated", "its end is missing")

"""ZIP archives: how many images they hold, so that a folder of archives is not mistaken for one without images."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from pipeline.errors import ScanError
from pipeline.scans.files import decoding, sniff_bytes

_NO_IMAGES = (".txt", ".csv", ".json", ".xml", ".pdf", ".html", ".htm", ".md", ".zip", ".py", ".doc", ".docx", ".xls", ".xlsx")
_OFFICE = {"[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF"}
_MOST = 20_000
_SAID = re.compile(r"the archive holds (\d+) images?; unpack it")


def unread_zip(file: BinaryIO) -> ScanError:
    """Why an open ZIP archive is no Scan: ``unsupported`` with the number of its images, or ``not_an_image`` where it has none."""
    images = images_in(file)
    if not images:
        return ScanError("not_an_image", "this is an archive without images")
    return ScanError("unsupported", f"the archive holds {images} image{'' if images == 1 else 's'}; unpack it")


def archive_counts(reasons: Iterable[str]) -> dict[str, int]:
    """{"archives": n, "images_in_archives": m} summed over the reasons given by :func:`unread_zip`; {} if there are none."""
    images = [int(said[1]) for said in map(_SAID.fullmatch, reasons) if said]
    return {"archives": len(images), "images_in_archives": sum(images)} if images else {}


def archives_line(archives: int, images: int) -> str:
    """One line for people, or "" where there is nothing to say."""
    if not archives:
        return ""
    many = "archive holds" if archives == 1 else "archives hold"
    return f"{archives} {many} {images} image{'' if images == 1 else 's'}: unpack {'it' if archives == 1 else 'them'}"


def images_in(file: BinaryIO) -> int:
    """Number of entries that begin like an image; only the first kilobyte of each is unpacked."""
    with decoding("the archive"):
        file.seek(0)
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            raise ScanError("truncated", "the archive is damaged or truncated; copy it again") from None
        with archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if _OFFICE & {entry.filename for entry in entries}:
                return 0
            return sum(_is_image(archive, entry) for entry in entries[:_MOST] if not _is_no_image(entry.filename))


def _is_no_image(name: str) -> bool:
    return name.lower().endswith(_NO_IMAGES) or name.rsplit("/", 1)[-1].startswith("._")


def _is_image(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if entry.flag_bits & 1:  # encrypted: only the name is known
        return entry.filename.lower().endswith((".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz", ".bmp"))
    try:
        with archive.open(entry) as inside:
            return sniff_bytes(inside.read(1024)) not in (None, "zip", "archive")
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False

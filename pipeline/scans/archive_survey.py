"""The images inside a folder's ZIP archives, for commands that find too few images in the folder itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ScanError
from pipeline.scans.archives import images_in
from pipeline.scans.files import open_regular, sniff_file
from pipeline.scans.walk import walk


def archives_below(root: Path) -> tuple[int, int]:
    """(archives that hold images, images in them) below a folder."""
    archives = images = 0
    for path, problem in walk(root):
        if problem is not None or path.suffix.lower() != ".zip":
            continue
        try:
            with open_regular(path) as file:
                inside = images_in(file) if sniff_file(file) == "zip" else 0
        except ScanError:
            continue
        archives, images = archives + bool(inside), images + inside
    return archives, images

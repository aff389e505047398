"""Raw volumes (.img, as Zeiss Cirrus exports OCT cubes): eight bits a voxel and nothing else, so that the user has to state their size.

Voxels are taken as they lie: along a row first, then row by row from the top, then B-scan by B-scan. Nothing is guessed or turned; a file
whose length is not the stated size is refused. The statement travels in an environment variable: files are decoded in other processes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, ScanError
from pipeline.scans.files import check_pixels

IMG_GEOMETRY = "OCUSEG_IMG_GEOMETRY"


def state_img_geometry(said: str | None) -> None:
    """Let .img files be read as volumes of ``said``, "ROWS,COLUMNS,SLICES"; None takes the statement back.

    Raises
    ------
    ConfigError: it is not three numbers above 0.
    """
    if said is None:
        os.environ.pop(IMG_GEOMETRY, None)
        return
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4}){2}", said):
        raise ConfigError(f"--img-geometry {said}: give ROWS,COLUMNS,SLICES, such as 1024,512,128 (a B-scan's depth, its width, how many)")
    os.environ[IMG_GEOMETRY] = said


def is_raw_img(path: Path) -> bool:
    """Whether the file is one whose size has to be stated: an .img without a header file beside it."""
    return path.suffix.lower() == ".img" and not path.with_suffix(".hdr").is_file()


def read_raw_img(file: BinaryIO, max_pixels: int) -> npt.NDArray[np.uint8]:
    """(slices, rows, columns) of an open file, or (rows, columns) of a single B-scan.

    Raises
    ------
    ScanError: ``no_geometry`` (nothing is stated, or the length is another one), ``too_large``.
    """
    said = os.environ.get(IMG_GEOMETRY)
    if said is None:
        raise ScanError("no_geometry", "a raw .img file does not say its size: state it by --img-geometry ROWS,COLUMNS,SLICES")
    rows, columns, slices = (int(size) for size in said.split(","))
    length = file.seek(0, os.SEEK_END)
    if length != rows * columns * slices:
        raise ScanError("no_geometry", f"the .img file has {length:,} bytes, and {said} (--img-geometry) are {rows * columns * slices:,}")
    check_pixels(length, max_pixels)
    file.seek(0)
    voxels = np.frombuffer(file.read(), np.uint8)
    return voxels.reshape(rows, columns).copy() if slices == 1 else voxels.reshape(slices, rows, columns).copy()

"""Where the benchmarks' photographs lie, and a folder of many: those of CHASE_DB1, repeated, each a file of its own."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("OCUSEG_SHARED", Path(__file__).resolve().parents[3] / "shared"))
CHASE = SHARED / "data" / "chase_db1"


def write_photographs(folder: Path, count: int, root: Path = CHASE) -> Path:
    """``count`` JPEG photographs of 999 x 960 as ``folder``/P0000/photograph_R.jpg and so on; gives ``folder``.

    A comment in each file's header tells the copies of a photograph apart, for ``ocuseg predict`` segments equal files only once.
    """
    originals = [path.read_bytes() for path in sorted((root / "images").glob("*.jpg"))]
    for number in range(count):
        start, rest = (original := originals[number % len(originals)])[:2], original[2:]
        comment = f"{number:08d}".encode()
        path = folder / f"P{number:04d}" / f"photograph_{'RL'[number % 2]}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(start + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + rest)
    return folder

"""Hospital trees, walked as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import NothingUsableError


def walk(root: Path) -> Iterator[Path]:
    """Every file below ``root``, sorted by the bytes of its name within each folder, as a stream; any name, no loops.

    A symbolic link to a folder inside ``root`` is left out, because that folder is visited in its own place; one that leads
    outside is followed, each such folder once. A folder that cannot be listed is yielded itself, so that it is accounted for.
    """
    top = os.fsencode(os.path.abspath(root))
    if not os.path.exists(top):
        raise NothingUsableError("the folder to read does not exist")
    if not os.path.isdir(top):
        yield Path(os.fsdecode(top))
        return
    real_top = os.path.realpath(top)
    outside: set[tuple[int, int]] = set()  # folders reached through links that leave the tree; usually none
    # One entry a level: the folder, its names yet to come (last first), and whether a link outside led here.
    levels: list[tuple[bytes, list[bytes], bool]] = [(b"", [top], False)]
    while levels:
        folder, names, foreign = levels[-1]
        if not names:
            levels.pop()
            continue
        path = os.path.join(folder, names.pop())
        if not os.path.isdir(path):
            yield Path(os.fsdecode(path))
            continue
        if os.path.islink(path) and path != top:
            real = os.path.realpath(path)
            if real == real_top or real.startswith(os.path.join(real_top, b"")):
                continue
            foreign = True
        try:
            if foreign:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in outside:
                    continue
                outside.add((status.st_dev, status.st_ino))
            levels.append((path, sorted(os.listdir(path), reverse=True), foreign))
        except OSError:
            yield Path(os.fsdecode(path))

"""A folder's files as a stream: each once, at its own place; links that lead elsewhere are not followed but reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import NothingUsableError, ScanError

FOLLOW_LINKS = "OCUSEG_FOLLOW_LINKS"
"""Environment variable that ``--follow-links`` sets to 1: :func:`walk` then follows links that leave the folder."""

LINK, UNLISTED = "link_outside", "unlisted"
"""Codes of a link that was not followed and of a folder that cannot be listed."""
IN_EXPORT = "in_export"
"""Code of a picture that is no scan of its own, because it belongs to a file beside it."""
IN_EXPORT_TOLD = (IN_EXPORT, "a B-scan of the Heidelberg .xml file beside it, by which it is read, once, as part of its volume")
LINK_TOLD = (LINK, "a link that leads out of the folder was left alone; --follow-links reads what it leads to")


def walk(root: Path, *, on_folder: Callable[[Path], None] | None = None) -> Iterator[tuple[Path, ScanError | None]]:
    """Every file below ``root`` with None, sorted by the bytes of the names within each folder, as a stream; any name, no loops.

    A link to a folder inside ``root`` is skipped, because that folder is visited at its own place; a link to a file inside counts as
    a file. A link that leaves ``root`` is yielded with the error ``link_outside`` and not followed, unless ``$OCUSEG_FOLLOW_LINKS`` is 1:
    then each folder outside is visited once. A folder that cannot be listed is yielded itself, with the error ``unlisted``, and a B-scan's
    picture that a Heidelberg .xml file beside it names with ``in_export``: the .xml file is the scan.
    ``on_folder`` is called with each folder that was listed.

    Raises
    ------
    NothingUsableError: ``root`` does not exist.
    """
    top = os.fsencode(os.path.abspath(root))
    if not os.path.exists(top):
        raise NothingUsableError("the folder to read does not exist")
    if not os.path.isdir(top):
        yield Path(os.fsdecode(top)), None
        return
    follow = _follows()
    real_top = os.path.realpath(top)

    def inside(path: bytes) -> bool:
        real = os.path.realpath(path)
        return real == real_top or real.startswith(os.path.join(real_top, b""))

    visited: set[tuple[int, int]] = set()  # folders reached through links that leave the tree; usually none
    # One entry a level: the folder, its names yet to come (last first), those that are no plain files, those that belong to others, and
    # whether a link outside led here.
    levels: list[tuple[bytes, list[bytes], set[bytes], frozenset[bytes], bool]] = [(b"", [top], {top}, frozenset(), False)]
    while levels:
        folder, names, other, owned, foreign = levels[-1]
        if not names:
            levels.pop()
            continue
        name = names.pop()
        path = os.path.join(folder, name)
        shown = Path(os.fsdecode(path))
        if name not in other:
            yield shown, None
            continue
        is_folder, is_link = os.path.isdir(path), path != top and os.path.islink(path)
        if (is_link or foreign) and is_folder and inside(path):
            continue
        if is_link and not inside(path):
            if not follow:
                yield shown, ScanError(*LINK_TOLD)
                continue
            foreign = True
        if not is_folder:
            yield shown, ScanError(*IN_EXPORT_TOLD) if name in owned else None
            continue
        try:
            if foreign:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
            inner, special = _names(path)
            of_exports = _pictures_of_exports(path, inner)
            levels.append((path, inner, special | of_exports, of_exports, foreign))
        except OSError:
            yield shown, ScanError(UNLISTED, "the folder cannot be listed; check its permissions")
        else:
            if on_folder is not None:
                on_folder(shown)


def pictures_of_exports(folder: Path) -> frozenset[str]:
    """Names of what :func:`walk` would give with ``in_export`` in a folder; none where it cannot be listed."""
    path = os.fsencode(folder)
    try:
        return frozenset(map(os.fsdecode, _pictures_of_exports(path, os.listdir(path))))
    except OSError:
        return frozenset()


def _pictures_of_exports(folder: bytes, names: list[bytes]) -> frozenset[bytes]:
    """Which names of a folder belong to the Heidelberg .xml files in it."""
    exports = [name for name in names if name.lower().endswith(b".xml")]
    if not exports:
        return frozenset()
    from pipeline.scans.heyex_xml import names_of_pictures  # NumPy is not needed to list any other folder

    found = (names_of_pictures(Path(os.fsdecode(os.path.join(folder, name)))) for name in exports)
    return frozenset(os.fsencode(name) for some in found for name in some)


def _names(folder: bytes) -> tuple[list[bytes], set[bytes]]:
    """Of everything in a folder, last first, and of its folders and links; no file is asked for what the folder's own list tells."""
    names, other = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if not _is_plain(entry):
                other.add(entry.name)
    return sorted(names, reverse=True), other


def _is_plain(entry: os.DirEntry[bytes]) -> bool:
    try:
        return not entry.is_symlink() and not entry.is_dir()
    except OSError:  # the list does not tell, and the system will not
        return False


def _follows() -> bool:
    return os.environ.get(FOLLOW_LINKS) == "1"


def is_outside(path: Path, root: Path) -> bool:
    """Whether a file that is named below ``root`` is a link that leads out of it, which is not to be followed."""
    return not _follows() and Path(os.path.realpath(root)) not in Path(os.path.realpath(path)).parents


def names_below(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Names relative to ``root``, with slashes, of all its files in the order of :func:`walk`; and (name, why) of what was left out."""
    top = Path(os.path.abspath(root))
    files, left_out = [], []
    for path, problem in walk(top):
        name = path.relative_to(top).as_posix()
        if problem is None:
            files.append(name)
        else:
            left_out.append((name, str(problem)))
    return files, left_out


def is_sidecar(name: str) -> bool:
    """Whether a file is a macOS sidecar file (AppleDouble, ._*): never an image, whatever its extension."""
    return name.rsplit("/", 1)[-1].startswith("._")

"""A folder's files, listed once: what there is, which of it is this process's, and in which blocks it is worked on."""

from __future__ import annotations

import csv
import os
import sys
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import ConfigError, ScanError
from pipeline.scans.database import TemporaryDatabase, closed_on_error
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import token_of
from pipeline.scans.shard import Shard
from pipeline.scans.walk import IN_EXPORT_TOLD, LINK_TOLD, is_outside, pictures_of_exports, walk

_PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".webp",
    ".nii",
    ".gz",
    ".vol",
    ".e2e",
    ".xml",
    ".fda",
    ".mha",
    ".nrrd",
)
"""Endings of files that are never slices of a volume across files, so that each may go its own way."""
_FILES, _BLOCKS = 16, 64
"""Of a block, on average: a lease costs little beside them, and what a killed process had begun is soon read again. Fewer, where
there would not be so many blocks."""
_LARGE, _CUT = 128, 64
"""A folder with more files that may be slices is cut, at one of so many names."""
_PATH_COLUMNS = ("path", "file", "image")


@dataclass(frozen=True)
class Listed:
    """A file, or what there is in place of one (``problem``). ``key`` is the same for files that may be slices of one volume;
    ``position`` counts the files of the whole folder in the order of the walk."""

    path: Path
    token: str
    key: str
    problem: ScanError | None = None
    position: int = 0


@dataclass(frozen=True)
class Block:
    """Files that one process works on at a time; ``id`` is the same for every process that lists the same folder."""

    id: str
    files: Sequence[Listed]


class Listing(TemporaryDatabase):
    """Every file below ``start`` (a folder or one file), or the ``chosen`` ones; tokens are of paths below ``root``.

    Paths are in a temporary file of this process alone, so that memory stays flat. Files are in the order of :func:`walk`, those that
    belong together by their ``key`` beside each other. ``on_folder`` as of :func:`walk`; ``leave_out``: absolute paths to skip.

    ``total`` files were found, ``mine`` of them lie in ``shard`` (all of them without one).
    """

    def __init__(
        self,
        start: Path,
        root: Path,
        names: Pseudonyms,
        *,
        chosen: Iterable[Path] | None = None,
        shard: Shard | None = None,
        on_folder: Callable[[Path], None] | None = None,
        leave_out: Container[str] = (),
    ) -> None:
        super().__init__("CREATE TABLE files (position INTEGER PRIMARY KEY, at, path BLOB, token, key, code, reason, mine);")
        self._root, self._names, self._shard = root, names, shard
        with closed_on_error(self._database):
            listed = walk(start, on_folder=on_folder) if chosen is None else _chosen(chosen, start)
            self._list(one for one in listed if str(one[0]) not in leave_out)

    def _list(self, found: Iterable[tuple[Path, ScanError | None]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._rows(found))
        self._database.execute("COMMIT")
        self._database.executescript("CREATE INDEX by_token ON files (token); CREATE INDEX in_order ON files (at, position) WHERE mine;")
        self.total, self.mine = self._database.execute("SELECT count(*), coalesce(sum(mine), 0) FROM files").fetchone()

    def _rows(self, found: Iterable[tuple[Path, ScanError | None]]) -> Iterator[tuple[object, ...]]:
        open_folders: list[_Folder] = []  # the ones above the present file
        for position, (path, problem) in enumerate(found):
            token, at = token_of(path, self._root, self._names), position
            key = token
            if problem is None and not path.name.lower().endswith(_PICTURES):
                parent = os.fspath(path.parent)
                while open_folders and not (parent + os.sep).startswith(open_folders[-1].path + os.sep):
                    open_folders.pop()
                if not open_folders or open_folders[-1].path != parent:
                    open_folders.append(_Folder(parent))
                key, at = open_folders[-1].place(token, position)
            mine = self._shard is None or self._shard.holds(key)
            yield position, at, os.fsencode(path), token, key, *(("", "") if problem is None else (problem.code, str(problem))), mine

    def blocks(self) -> Iterator[Block]:
        """The share's files, block by block. Where a block ends hangs on its files alone, so that a new file moves few of them."""
        block: list[Listed] = []
        group: list[Listed] = []
        for file in self._files("WHERE mine ORDER BY at, position"):
            if group and file.key != group[0].key:
                block += group
                group = []
                if _ends(block, file.key, max(1, min(_FILES, self.total // _BLOCKS))):
                    yield self._block(block)
                    block = []
            group.append(file)
        if block or group:
            yield self._block(block + group)

    def _block(self, files: Sequence[Listed]) -> Block:
        share = "" if self._shard is None else f"-{self._shard.number}of{self._shard.of}"
        return Block(f"{files[0].key}{share}", files)

    def __iter__(self) -> Iterator[Listed]:
        """The share's files, in the order of the walk."""
        yield from self._files("WHERE mine ORDER BY position")

    def get(self, token: str) -> Listed | None:
        """The file with a token."""
        return next(self._files("WHERE token = ?", token), None)

    def tokens(self) -> Iterator[str]:
        """Of all files, whoever's they are."""
        for (token,) in self._database.execute("SELECT token FROM files ORDER BY position"):
            yield token

    def tokens_and_keys(self) -> Iterator[tuple[str, str]]:
        yield from self._database.execute("SELECT token, key FROM files ORDER BY position")

    def _files(self, which: str, *values: str) -> Iterator[Listed]:
        query = f"SELECT path, token, key, code, reason, position FROM files {which}"  # noqa: S608 (our own conditions)
        for path, token, key, code, reason, position in self._database.execute(query, values):
            yield Listed(Path(os.fsdecode(path)), token, key, ScanError(code, reason) if code else None, position)


class _Folder:
    """Files of one folder that may be slices."""

    def __init__(self, path: str) -> None:
        self.path, self._key, self._at, self._count = path, "", 0, 0

    def place(self, token: str, position: int) -> tuple[str, int]:
        """Key of the next file, and position of the first one with this key."""
        if not self._count or (self._count >= _LARGE and zlib.crc32(token.encode()) % _CUT == 0):
            self._key, self._at, self._count = token, position, 0
        self._count += 1
        return self._key, self._at


def _ends(block: Sequence[Listed], next_key: str, size: int) -> bool:
    """Whether a block ends before the group ``next_key``: by chance that hangs on the key alone, or because it has grown long."""
    return len(block) >= 4 * size or zlib.crc32(b"block" + next_key.encode()) % size == 0


def _chosen(paths: Iterable[Path], folder: Path) -> Iterator[tuple[Path, ScanError | None]]:
    owned = cache(pictures_of_exports)
    for path in sorted(set(paths), key=lambda path: path.parts):
        told = LINK_TOLD if is_outside(path, folder) else IN_EXPORT_TOLD if path.name in owned(path.parent) else None
        yield path, ScanError(*told) if told else None


def read_input_list(source: str, folder: Path) -> list[Path]:
    """The files that ``--input-list`` names, relative to ``folder`` or absolute: a line each, or a CSV file's column ``path``.

    Raises
    ------
    ConfigError: the list cannot be read, is empty, or names a file outside of ``folder``.
    """
    try:
        lines = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input-list {source!r} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})") from None
    rows = [row for row in csv.reader(lines.splitlines()) if any(cell.strip() for cell in row)]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(name) for name in _PATH_COLUMNS if name in heading), None)
    if column is None and any(len(row) > 1 for row in rows):
        raise ConfigError(f"--input-list {source!r}: a table needs a column named path; a plain list has one file a line")
    named = [row[column].strip() for row in rows[1:] if len(row) > column] if column is not None else [row[0].strip() for row in rows]
    top = Path(os.path.abspath(folder))
    paths = [Path(os.path.abspath(top / name)) for name in named if name]
    if not paths:
        raise ConfigError(f"--input-list {source!r} names no file")
    strange = sum(top not in path.parents for path in paths)
    if strange:
        raise ConfigError(f"--input-list {source!r}: {strange} of its files lie outside of the folder; give the folder that holds them all")
    return paths

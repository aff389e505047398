"""What every format of an export promises, and the list of them: one file each in ``formats/``, found by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import OcusegError
from pipeline.export.case import ExportCase, Settings
from pipeline.registry import Registry

EXPORTERS = Registry("format", "pipeline.export.formats")
"""Each is an :data:`Exporter`."""
DICOM_FORMATS = frozenset({"seg", "sr", "sc", "pdf", "image"})


@dataclass(frozen=True)
class Document:
    """One file of a case: its ``name``, and what writes it to a path."""

    name: str
    write: Callable[[Path], None]


class LeftOut(OcusegError):
    """A case has nothing that this format could say: the reason is told, and it is no failure."""


Exporter = Callable[[ExportCase, Settings], Iterator[Document]]
"""The files of one case; raises LeftOut, or an OcusegError that says in one sentence what is wrong with the case."""

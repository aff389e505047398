"""NIfTI of the masks, in the encoding of the label map: exclusive classes by number, overlapping ones as bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile

import numpy as np

from pipeline.atomic import atomic_path
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document
from pipeline.export.formats.png import labels
from pipeline.export.formats.seg import need_marks
from pipeline.scans.nifti import write_nifti

FILE = "mask.nii.gz"


@EXPORTERS.add("nifti")
def export_nifti(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """``mask.nii.gz`` and what its values mean."""
    need_marks(case)
    yield Document(FILE, lambda path: _write(case, path))
    yield labels(case)


def _write(case: ExportCase, path: Path) -> None:
    """The model's own file, which keeps the scan's place in space; of a corrected case a new one."""
    if not case.reviewed.edited:
        with atomic_path(path) as staged:
            copyfile(case.case.folder / FILE, staged)
        return
    write_nifti(path, np.stack(case.masks).reshape(case.case.geometry.shape), case.case.geometry)

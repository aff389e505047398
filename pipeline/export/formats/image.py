"""A DICOM object of a picture that came as something else, for segmentations and reports to refer to."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document, LeftOut
from pipeline.export.objects import save
from pipeline.export.source import derived_image


@EXPORTERS.add("image")
def export_image(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """One file, of a case without DICOM original alone."""
    if case.original:
        raise LeftOut("its DICOM original is there")
    yield Document("image.dcm", lambda path: save(derived_image(case), path))

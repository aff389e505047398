"""DICOM Encapsulated PDF (PS3.3 A.45) of the case's report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from pipeline.drawing.overlay import NOTICE
from pipeline.export.case import ExportCase, Settings
from pipeline.export.codes import REPORT_TITLE, concept
from pipeline.export.exporter import EXPORTERS, Document, LeftOut
from pipeline.export.objects import belong, finished, own_words, reference, save, stand_in
from pipeline.export.source import source_of


@EXPORTERS.add("pdf")
def export_pdf(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """One file."""
    if case.reviewed.edited and (case.label_map.layered or case.run.objects):
        raise LeftOut("its pages show the surfaces or objects that the model found, and a reviewer corrected them")
    yield Document("report.dcm", lambda path: save(encapsulated(case, settings), path))


def encapsulated(case: ExportCase, settings: Settings) -> Any:
    import highdicom as hd

    assert case.printed is not None
    pdf = case.printed(case.case, case.reviewed.words)
    sources = source_of(case)
    given = stand_in(sources[0])
    made = hd.base.SOPClass(
        study_instance_uid=given.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **own_words(case, settings, "pdf"),
    )
    made.copy_patient_and_study_information(given)
    made.ConversionType = "WSD"
    made.BurnedInAnnotation = "YES"
    made.AcquisitionDateTime = None
    made.DocumentTitle = f"ocuseg report, {case.eye_words}: {NOTICE}"
    made.ConceptNameCodeSequence = [concept(REPORT_TITLE)]
    if case.original:
        made.SourceInstanceSequence = [reference(source) for source in sources]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    belong(made, sources[0])
    return finished(made, case, settings, "pdf")

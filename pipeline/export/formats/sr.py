"""DICOM Structured Report of a case's numbers (PS3.16 TID 1500): each with unit, definition, interval and where its scale is from.

What a report page withholds is withheld here, too: the reason stands in place of the number. VERIFIED is a report that a named reviewer
of a named organisation accepted or corrected; any other is UNVERIFIED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import DT

from pipeline.drawing.overlay import NOTICE
from pipeline.export.case import OCUSEG, ExportCase, Settings, moment
from pipeline.export.codes import AI, COMMENT, LOWER, RETINA, SIDES, UNITS, UPPER, code_of_class, coding_schemes, concept, private
from pipeline.export.exporter import EXPORTERS, Document
from pipeline.export.formats.seg import is_label_map, objects_of
from pipeline.export.objects import belong, finished, own_words, refused, save, stand_in
from pipeline.export.source import source_of
from pipeline.reports import wording
from pipeline.reports.measures import ShownMeasure, shown_measures
from pipeline.scans.segmentation import LABEL_MAP, SEGMENTATION
from pipeline.types.case_record import CASE_FILE

_NO_GROUP = "picture"


@EXPORTERS.add("sr")
def export_sr(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """One file."""
    yield Document("measurements.dcm", lambda path: save(report(case, settings), path))


def report(case: ExportCase, settings: Settings) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    sources = tuple(map(stand_in, source_of(case)))
    groups = [_of_picture(case, settings, sources)]
    for classes, own in groupby(shown_measures(case.case), key=lambda one: one.record.classes):
        groups.append(_group(case, settings, sources, classes, list(own), len(groups)))
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        case.uid(settings, "sr", "device"), "ocuseg", "ocuseg", f"ocuseg {OCUSEG}", case.case.bundle_id[:64] or None
    )
    person = None
    if case.reviewed.confirmed:
        attributes = hd.sr.PersonObserverIdentifyingAttributes(_person(case), organization_name=settings.organisation or None)
        person = hd.sr.ObserverContext(codes.DCM.Person, attributes)
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(person, hd.sr.ObserverContext(codes.DCM.Device, device)),
        codes.SCT.ImagingProcedure,
        groups,
    )
    verified = case.reviewed.confirmed and bool(settings.organisation)
    try:
        made = hd.sr.ComprehensiveSR(
            [*sources, *_segmentations(case, settings, sources)],
            content[0],
            is_complete=True,
            is_verified=verified,
            verifying_observer_name=_person(case) if verified else None,
            verifying_organization=settings.organisation if verified else None,
            coding_schemes=coding_schemes(),
            **own_words(case, settings, "sr"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise refused("report of measurements", error) from error
    if verified:
        made.VerifyingObserverSequence[0].VerificationDateTime = DT(
            moment(case.reviewed.at, case.case.folder / CASE_FILE).strftime("%Y%m%d%H%M%S")
        )
    for source in source_of(case):
        belong(made, source)
    return finished(made, case, settings, "sr")


def _person(case: ExportCase) -> str:
    """As DICOM writes a name that is one word."""
    return case.person if "^" in case.person else f"{case.person}^"


def _of_picture(case: ExportCase, settings: Settings, sources: Sequence[Any]) -> Any:
    """What holds of the whole: quality, flags, what it shows as a whole, the review, and the notice."""
    import highdicom as hd

    record = case.case.record
    grade = "not graded" if record.quality is None else wording.GRADES[record.quality.grade]
    found = [(private("quality", "Quality of the picture"), private(grade, grade))]
    found += [(private("flag", "What a person must look at"), private(flag.code, flag.code.replace("_", " "))) for flag in record.flags]
    answers = record.answers if record.measurable else ()
    found += [(private(one.name, one.name), private(one.answer, one.answer)) for one in answers if one.answer is not None]
    found.append((private("review", "Review"), private(case.reviewed.verdict, case.reviewed.verdict)))
    comments = [NOTICE, f"Eye: {case.eye_words}", f"Size of a pixel: {wording.spacing(case.case)}"]
    comments += [f"Quality: {reason}" for reason in (record.quality.reasons if record.quality else ())]
    comments += [f"Flag {flag.code}: {flag.text}" for flag in record.flags]
    comments += list(record.warnings)
    if case.reviewed.comment:
        comments.append(f"Reviewer: {case.reviewed.comment}")
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        _tracking(case, settings, _NO_GROUP),
        finding_type=concept(private("picture", "The picture as a whole")),
        finding_sites=[_site(case)],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(concept(name), concept(value)) for name, value in found],
        source_images=_images(hd.sr.SourceImageForMeasurementGroup, sources),
    )
    group[0].ContentSequence.extend(_comment(text) for text in comments)
    return group


def _group(
    case: ExportCase, settings: Settings, sources: Sequence[Any], classes: tuple[str, ...], own: Sequence[ShownMeasure], number: int
) -> Any:
    """The numbers of one class, which name its segment, or of several."""
    import highdicom as hd

    places = [place for place, name in enumerate(case.label_map.names) if name in classes]
    kinds = [code_of_class(case.label_map.classes[place], case.label_map.roles[place]) for place in places]
    name = ", ".join(classes) or _NO_GROUP
    bundle, bundle_id = case.bundle_of(classes[0] if classes else "")
    shared = {
        "tracking_identifier": _tracking(case, settings, name, number),
        "finding_type": concept(kinds[0].kind if len(kinds) == 1 else private(name, name)),
        "finding_category": concept(kinds[0].category) if len(kinds) == 1 else None,
        "finding_sites": [_site(case)],
        "algorithm_id": hd.sr.AlgorithmIdentification(f"ocuseg {bundle}"[:64], bundle_id or "unknown", family=concept(AI)),
        "measurements": [_measurement(one) for one in own if one.value is not None],
    }
    segment = _segment(case, settings, sources, places[0]) if len(places) == 1 else None
    if segment is None:
        images = _images(hd.sr.SourceImageForMeasurementGroup, sources)
        group = hd.sr.MeasurementsAndQualitativeEvaluations(source_images=images, **shared)
    else:
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **shared)
    without = (f"{one.record.title}: no number, {one.why}" for one in own if one.value is None)
    group[0].ContentSequence.extend(_comment(text) for text in without)
    return group


def _measurement(one: ShownMeasure) -> Any:
    """A number with what it means; the bounds as distances from it, as TID 310 has them."""
    import highdicom as hd

    record = one.record
    value = float(one.value if one.value is not None else 0.0)
    unit = concept(UNITS[record.unit])
    made = hd.sr.Measurement(concept(private(record.key, record.title)), _decimal(value), unit)
    texts, children = [f"Definition: {record.definition}"], []
    if record.low is not None and record.high is not None:
        for name, bound in ((UPPER, record.high - value), (LOWER, value - record.low)):
            children.append(hd.sr.NumContentItem(concept(name), _decimal(bound), unit, relationship_type="HAS PROPERTIES"))
        texts.append(f"Interval: {one.bounds}, {record.interval or 'not said what it is'}")
    if record.scale is not None:
        texts.append(f"Size of a pixel: {wording.stated(record.scale)}")
    texts += [f"{word}: {text}" for word, text in (("Reference", record.reference), ("Source", record.source)) if text]
    made[0].ContentSequence = hd.sr.ContentSequence([*children, *(_comment(text, "HAS PROPERTIES") for text in texts)])
    return made


def _decimal(value: float) -> float:
    """As many digits as a decimal string of 16 characters holds in any case."""
    return float(f"{value:.9g}")


def _segment(case: ExportCase, settings: Settings, sources: Sequence[Any], place: int) -> Any | None:
    """The segment of a class in the segmentation that is exported with the report; None where there is no single one."""
    import highdicom as hd

    if "seg" not in settings.formats or not case.case.record.measurable or objects_of(case) > 1 or place not in case.marked:
        return None
    if case.label_map.names[place] not in case.held:
        return None
    kind, uid = (LABEL_MAP if is_label_map(case, settings) else SEGMENTATION), case.uid(settings, "seg", 0)
    return hd.sr.ReferencedSegment(
        kind, uid, case.marked.index(place) + 1, source_images=_images(hd.sr.SourceImageForSegmentation, sources)
    )


def _segmentations(case: ExportCase, settings: Settings, sources: Sequence[Any]) -> list[Any]:
    """What evidence says of the segmentation that the report names."""
    if not any(_segment(case, settings, sources, place) for place in range(len(case.label_map))):
        return []
    out = Dataset()
    out.SOPClassUID = LABEL_MAP if is_label_map(case, settings) else SEGMENTATION
    words = own_words(case, settings, "seg")
    out.SOPInstanceUID, out.SeriesInstanceUID = words["sop_instance_uid"], words["series_instance_uid"]
    out.StudyInstanceUID = sources[0].StudyInstanceUID
    return [out]


def _images(kind: Any, sources: Sequence[Any]) -> list[Any]:
    return [kind(source.SOPClassUID, source.SOPInstanceUID) for source in sources]


def _tracking(case: ExportCase, settings: Settings, name: str, number: int = 0) -> Any:
    import highdicom as hd

    return hd.sr.TrackingIdentifier(case.uid(settings, "sr", "tracking", number), name[:64])


def _site(case: ExportCase) -> Any:
    import highdicom as hd

    return hd.sr.FindingSite(concept(RETINA), None if case.eye is None else concept(SIDES[case.eye]))


def _comment(text: str, relationship: str = "CONTAINS") -> Any:
    import highdicom as hd

    return hd.sr.TextContentItem(concept(COMMENT), text, relationship_type=relationship)

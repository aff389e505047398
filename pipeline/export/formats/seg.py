"""DICOM Segmentation (PS3.3 A.51): the masks, pixel for pixel, each class a segment of its own.

A volume whose frames lie in the patient's space becomes one object; any other picture one object a plane, because highdicom can write
frames without a position only one by one. A photograph is handed to it with shared functional groups, which it expects and a photograph
has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.drawing.overlay import NOTICE
from pipeline.export.case import ExportCase, Settings
from pipeline.export.codes import AI, SIDES, code_of_class, coding_schemes, concept
from pipeline.export.exporter import EXPORTERS, Document, LeftOut
from pipeline.export.objects import belong, finished, own_words, plane_spacing, refused, region, save, stand_in
from pipeline.export.source import is_volume, plane_of, source_of

CONTENT_LABEL = "OCUSEG"


@EXPORTERS.add("seg")
def export_seg(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """One file, or one a plane."""
    need_marks(case)
    if not case.case.record.measurable:
        raise LeftOut("the picture is not measurable")
    for at in range(objects_of(case)):
        name = "seg.dcm" if objects_of(case) == 1 else f"seg_{at:03d}.dcm"
        yield Document(name, lambda path, at=at: save(segmentation(case, settings, at), path))  # type: ignore[misc]


def need_marks(case: ExportCase) -> None:
    """Raises LeftOut where nothing marks pixels: an empty mask would say that nothing was found."""
    if not case.marked:
        raise LeftOut("no model of the run marks pixels of this kind of picture")


def objects_of(case: ExportCase) -> int:
    """How many segmentations hold a case."""
    planes = len(case.case.planes)
    return 1 if is_volume(source_of(case), planes) else planes


def is_label_map(case: ExportCase, settings: Settings) -> bool:
    """Overlapping classes go into a binary object, whatever was asked for: a label map has one value a pixel."""
    return settings.labelmap and not case.label_map.overlapping


def segmentation(case: ExportCase, settings: Settings, at: int) -> Any:
    """The object of plane ``at``, or of all planes."""
    import highdicom as hd

    sources = source_of(case)
    whole = objects_of(case) == 1 and len(case.case.planes) > 1
    source, frame = (sources[0], None) if whole else plane_of(sources, at)
    planes = range(len(case.case.planes)) if whole else (at,)
    pixels = np.stack([_segmented(case, place) for place in planes])
    given = stand_in(source)
    if whole:
        given.SOPClassUID = source.SOPClassUID
    else:
        _as_single_frame(given, plane_spacing(case))
    try:
        made = hd.seg.Segmentation(
            [given],
            pixels,
            "LABELMAP" if is_label_map(case, settings) else "BINARY",
            _segments(case),
            content_label=CONTENT_LABEL,
            content_description=f"{case.eye_words}: {NOTICE}"[:64],
            omit_empty_frames=bool(whole and pixels.any()),
            coding_schemes=coding_schemes(),
            **own_words(case, settings, "seg", at),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise refused("segmentation", error) from error
    made._db_con.close()  # highdicom leaves its table of frames to the garbage collector, of which Python 3.13 warns
    belong(made, source)
    made.ContentCreatorName = _creator(case)
    if not whole:
        made.PatientOrientation = source.get("PatientOrientation")
        if plane_spacing(case) is None:
            del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    if frame is not None:
        _name_frame(made, frame)
    return finished(made, case, settings, "seg", at)


def _creator(case: ExportCase) -> str:
    """The reviewer who corrected the masks, else the program."""
    return case.author or "ocuseg"


def _segmented(case: ExportCase, at: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """One plane as highdicom takes it: (H, W) of segment numbers, or (H, W, K) of 0 and 1 where classes may overlap."""
    if not case.label_map.overlapping and len(case.marked) == len(case.label_map):
        return case.masks[at]
    return np.moveaxis(case.layers(at)[list(case.marked)], 0, -1).astype(np.uint8)


def _as_single_frame(given: Any, spacing: list[str] | None) -> None:
    """What highdicom wants of a picture without positions: one frame, with shared functional groups."""
    for keyword in ("FrameOfReferenceUID", "PerFrameFunctionalGroupsSequence"):
        if keyword in given:
            del given[keyword]
    measures = Dataset()
    if spacing is not None:
        measures.PixelSpacing = spacing
    groups = Dataset()
    groups.PixelMeasuresSequence = Sequence([measures])
    given.NumberOfFrames = 1
    given.SharedFunctionalGroupsSequence = Sequence([groups])


def _name_frame(made: Any, frame: int) -> None:
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frame


def _segments(case: ExportCase) -> list[Any]:
    import highdicom as hd

    out = []
    for number, place in enumerate(case.marked, 1):
        cls, role = case.label_map.classes[place], case.label_map.roles[place]
        code = code_of_class(cls, role)
        name, bundle_id = case.bundle_of(cls.name)
        segment = hd.seg.SegmentDescription(
            number,
            cls.name[:64],
            concept(code.category),
            concept(code.kind),
            case.algorithm,
            hd.AlgorithmIdentificationSequence(f"ocuseg {name}"[:64], concept(AI), bundle_id[:64] or "unknown", "ocuseg"),
            display_color=hd.color.CIELabColor.from_rgb(*cls.colour),
        )
        if case.eye is not None:
            segment.SegmentedPropertyTypeModifierCodeSequence = [concept(SIDES[case.eye])]
        segment.AnatomicRegionSequence = region(case)
        out.append(segment)
    return out

"""A DICOM picture without whose it is: PS3.15 E.2 with its options, sequences descended, pixels as they were.

What the table does not name is treated by its kind: names of persons, long texts, unknown and private attributes and unnamed bytes are
removed, UIDs replaced, dates as the options say, and the rest kept unless it repeats what was removed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.dates import shifted_date, shifted_datetime, shifted_time
from pipeline.deidentify.dicom_pixels import plain_pixels
from pipeline.deidentify.profile import MODIFIED_DATES, Action, Rules
from pipeline.deidentify.streams import plain_icc
from pipeline.deidentify.words import SHORTEST, field_words, names_in
from pipeline.errors import ScanError
from pipeline.scans.dicom import read_dataset, text_of
from pipeline.scans.files import decoding
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.quiet import quiet

_TEXT = {"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_BYTES = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
_PIXELS = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
_IDENTIFIER_GROUP = 0x0010
_IDENTIFIERS = {"AccessionNumber", "AdmissionID", "InstitutionName", "InstitutionAddress"}
_SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_OLDEST = 89
_REMOVED = "REMOVED"
_DUMMIES: dict[str, Any] = {
    **dict.fromkeys(_TEXT, _REMOVED),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(_BYTES, b"\0\0"),
    "AS": "000Y",
    "UR": "http://removed.invalid",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "SQ": [],
}


def clean_dicom(file: BinaryIO, rules: Rules, names: Pseudonyms, patient: str, max_pixels: int) -> tuple[Cleaned, Any]:
    """The file without whose it is, and its data set before it was encoded, for whoever blackens text in its pixels.

    Parameters
    ----------
    patient: the token that takes the place of Patient ID and Patient's Name, and whose secret shift moves the dates.

    Raises
    ------
    ScanError: not a picture or segmentation (``not_a_picture``), or pixels that cannot be taken over (``unsupported``, ``malformed``).
    """
    with quiet(), decoding("the DICOM file"):
        dataset = read_dataset(file, max_pixels)
        _check_kind(dataset)
        cleaner = _Cleaner(rules, names, patient)
        needles = cleaner.needles(dataset)
        cleaner.clean(dataset)
        cleaner.sweep(dataset, needles)
        cleaner.removed |= plain_pixels(dataset)
        cleaner.state(dataset)
        content = encoded(dataset)
        words = content.replace(dataset.PixelData, b"") if "PixelData" in dataset else content
        return Cleaned(content, ".dcm", tuple(sorted(cleaner.removed)), (), frozenset(needles), words), dataset


def encoded(dataset: Any) -> bytes:
    """The data set as a file of its own: an empty preamble, and file meta information made anew."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def is_segmentation(dataset: Any) -> bool:
    return text_of(dataset, "SOPClassUID") in _SEGMENTATIONS


def _check_kind(dataset: Any) -> None:
    """Refuse what holds words throughout: reports, documents, presentation states, directories."""
    from pydicom.uid import UID

    kind = UID(text_of(dataset, "SOPClassUID") or text_of(dataset.file_meta, "MediaStorageSOPClassUID"))
    said = kind.name if kind.startswith("1.2.840.10008.") and kind.name != kind else "this DICOM object"
    if "EncapsulatedDocument" in dataset or "ContentSequence" in dataset or not any(keyword in dataset for keyword in _PIXELS):
        raise ScanError("not_a_picture", f"{said} holds words or numbers that cannot be cleaned: only pictures and segmentations can")


class _Cleaner:
    """Works on one data set in place; ``removed`` collects the names of attributes that were removed, emptied or replaced."""

    def __init__(self, rules: Rules, names: Pseudonyms, patient: str) -> None:
        self._rules, self._names, self._patient = rules, names, patient
        self._days = names.shift(patient)
        self.removed: set[str] = set()

    def clean(self, dataset: Any) -> None:
        safe = _declared_safe(dataset) if "retain-safe-private" in self._rules.options else set()
        for tag in list(dataset.keys()):
            try:
                element = dataset[tag]
            except Exception:  # a value that cannot be decoded cannot be judged
                self._remove(dataset, tag, "malformed attributes")
                continue
            if tag.is_private and tag not in safe:
                self._remove(dataset, tag, "private attributes")
            else:
                self._apply(dataset, element, self._rules.action(tag) or self._by_kind(element))

    def _by_kind(self, element: Any) -> Action:
        keyword, kind = element.keyword, element.VR
        if element.tag.is_private:
            return "keep"
        if not keyword or kind in ("PN", "LT", "ST", "UT"):
            return "remove"
        if kind in ("DA", "DT", "TM"):
            return self._rules.dates
        if kind == "UI":
            return "keep" if "retain-uids" in self._rules.options else "uid"
        is_table = "LookupTableData" in keyword or keyword == "LUTData"
        return "remove" if kind in _BYTES and keyword not in _PIXELS and keyword != "ICCProfile" and not is_table else "keep"

    def _apply(self, dataset: Any, element: Any, action: Action) -> None:
        tag, kind, name = element.tag, element.VR, element.keyword or str(element.tag)
        if action == "remove" or (action == "clean" and kind == "SQ"):
            self._remove(dataset, tag, name)
        elif kind == "SQ" and action in ("keep", "uid"):
            for item in element.value:
                self.clean(item)
        elif action == "keep":
            self._keep(dataset, element)
        elif element.is_empty:
            return
        elif action == "uid" or (action == "dummy" and kind == "UI"):
            self._each(element, self._uid)
        elif action == "shift":
            self._shift(dataset, element)
        elif action == "clean":
            self._each(element, field_words)
        elif name in ("PatientID", "PatientName"):
            element.value = self._patient
        elif name == "DeviceSerialNumber":
            self._each(element, lambda value: self._names.token("path", f"device {value}"))
        else:
            element.value = _DUMMIES.get(kind) if action == "dummy" else [] if kind == "SQ" else None
            self.removed.add(name)

    def _remove(self, dataset: Any, tag: int, name: str) -> None:
        del dataset[tag]
        self.removed.add(name)

    def _keep(self, dataset: Any, element: Any) -> None:
        if element.keyword == "ICCProfile":
            profile, said = plain_icc(bytes(element.value or b""))
            self.removed |= set(said)
            if profile:
                element.value = profile
            else:
                del dataset[element.tag]
        elif element.keyword == "PatientAge" and (years := re.fullmatch(r" *(\d+)Y *", str(element.value))) and int(years[1]) > _OLDEST:
            element.value = f"{_OLDEST + 1:03}Y"  # the very old are few: all of them count as 90

    def _shift(self, dataset: Any, element: Any) -> None:
        change = {"DA": shifted_date, "DT": shifted_datetime, "TM": shifted_time}.get(element.VR)
        if change is None:  # Timezone Offset From UTC, Frame Origin Timestamp
            self._remove(dataset, element.tag, element.keyword)
        else:
            self._each(element, lambda value: change(str(value), self._days))

    def _each(self, element: Any, change: Any) -> None:
        """Every value of an element through ``change``."""
        several = isinstance(element.value, list | tuple) or type(element.value).__name__ == "MultiValue"
        before = list(element.value) if several else [element.value]
        after = [change(value) for value in before]
        if [str(value) for value in before] != after:
            element.value = after if several else after[0]
            self.removed.add(element.keyword)

    def _uid(self, value: Any) -> str:
        text = str(value)
        return text if text.startswith("1.2.840.10008.") and set(text) <= set("0123456789.") else self._names.uid(text)

    def needles(self, dataset: Any) -> set[str]:
        """What names the person or the place, of all that will be removed: names, and values of the patient's group."""
        found: set[str] = set()
        for element in _elements(dataset):
            if (self._rules.action(element.tag) or self._by_kind(element)) == "keep" or element.VR not in _TEXT:
                continue
            if element.VR == "PN":
                found |= names_in(str(element.value))
            elif element.keyword in _IDENTIFIERS or (element.tag.group == _IDENTIFIER_GROUP and element.VR in ("LO", "SH")):
                found |= {str(element.value).strip().casefold()}
        return {needle for needle in found if len(needle) >= SHORTEST}

    def sweep(self, dataset: Any, needles: set[str]) -> None:
        """Replace every text that was kept and repeats a needle."""
        for element in _elements(dataset):
            if element.VR in _TEXT and any(needle in str(element.value).casefold() for needle in needles):
                element.value = _DUMMIES[element.VR]
                self.removed.add(element.keyword or "private attributes")

    def state(self, dataset: Any) -> None:
        """Write down that, and how, this was done (PS3.15 E.1, PS3.3 C.12.1.1)."""
        from pydicom.dataset import Dataset

        dataset.PatientID = dataset.PatientName = self._patient
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = ["DICOM PS3.15 Annex E", "ocuseg deidentify"]
        items = []
        for value, meaning in self._rules.codes:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning[:64]
            items.append(item)
        dataset.DeidentificationMethodCodeSequence = items
        dates = {"keep": "UNMODIFIED", "shift": "MODIFIED"}.get(self._rules.dates, "REMOVED")
        dataset.LongitudinalTemporalInformationModified = dates
        if MODIFIED_DATES in self._rules.options and "TimezoneOffsetFromUTC" in dataset:
            del dataset.TimezoneOffsetFromUTC


def _elements(dataset: Any) -> Iterator[Any]:
    """Every element that can be decoded, those of sequence items too."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: S112 (the cleaner removes it)
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _elements(item)
        else:
            yield element


def _declared_safe(dataset: Any) -> set[int]:
    """Private attributes whose block the file itself declares free of identity (PS3.3 C.12.1.1.7), and the creators of those blocks."""
    safe: set[int] = set()
    for item in dataset.get("PrivateDataElementCharacteristicsSequence") or ():
        group, creator = item.get("PrivateGroupReference"), item.get("PrivateCreatorReference")
        if text_of(item, "BlockIdentifyingInformationStatus") != "SAFE" or not isinstance(group, int):
            continue
        for number in range(0x10, 0x100):
            if text_of(dataset, (group, number)) == creator:  # type: ignore[arg-type]
                safe.add(group << 16 | number)
                safe |= {int(tag) for tag in list(dataset) if tag.group == group and tag.element >> 8 == number}
    return safe

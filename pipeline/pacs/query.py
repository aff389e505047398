"""What to look for in a PACS, and what it has: studies, their series, their instances."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, PacsError
from pipeline.pacs.connection import USABLE_UID, Connection, Instance

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Query:
    """Each "" where it does not matter. ``date``: of the study, YYYYMMDD, or two of them with a hyphen, of which one may be missing.

    Raises
    ------
    ConfigError: a date that is none, or a UID of other characters than digits and dots.
    """

    patient_id: str = ""
    patient_name: str = ""
    date: str = ""
    modality: str = ""
    accession: str = ""
    study: str = ""
    series: str = ""

    def __post_init__(self) -> None:
        plain = self.date.replace(".", "") if re.fullmatch(r"[\d.-]*", self.date) else self.date
        parts = re.fullmatch(r"(\d{4})-?(\d{2})-?(\d{2})", plain), re.fullmatch(r"(\d{8})?-(\d{8})?", plain)
        if self.date and (not any(parts) or plain == "-"):
            raise ConfigError(f"--date {self.date!r}: write a day as 20261127, several as 20261101-20261127, one end may be missing")
        if parts[0]:
            object.__setattr__(self, "date", "".join(parts[0].groups()))
        for name in ("study", "series"):
            if not re.fullmatch(r"[0-9.]{0,64}", getattr(self, name)):
                raise ConfigError(f"--{name}: a UID has digits and dots, at most 64; copy it from `ocuseg pacs query --json`")

    @property
    def is_empty(self) -> bool:
        return not any(asdict(self).values())


@dataclass(frozen=True)
class Study:
    """One study as a PACS tells it; in clear, to be shown at the site alone. Numbers are None where the PACS does not say."""

    uid: str
    date: str
    patient_id: str
    patient_name: str
    accession: str
    modalities: str
    description: str
    series: int | None
    instances: int | None


@dataclass(frozen=True)
class Series:
    """One series of a study."""

    study: str
    uid: str
    number: str
    modality: str
    description: str
    manufacturer: str
    instances: int | None


def studies(connection: Connection, query: Query, limit: int | None = None) -> Iterator[Study]:
    """Studies that match, in the order of the PACS. A series' UID is looked for in the studies' series."""
    keys = {
        "PatientID": query.patient_id,
        "PatientName": query.patient_name,
        "StudyDate": query.date,
        "ModalitiesInStudy": query.modality,
        "AccessionNumber": query.accession,
        "StudyInstanceUID": query.study,
        "StudyDescription": "",
        "NumberOfStudyRelatedSeries": "",
        "NumberOfStudyRelatedInstances": "",
    }
    for found in connection.find("study", keys, limit):
        uid = _required(found, "StudyInstanceUID")
        study = Study(
            uid=uid,
            date=text(found, "StudyDate"),
            patient_id=text(found, "PatientID"),
            patient_name=text(found, "PatientName"),
            accession=text(found, "AccessionNumber"),
            modalities=text(found, "ModalitiesInStudy"),
            description=text(found, "StudyDescription"),
            series=number(found, "NumberOfStudyRelatedSeries"),
            instances=number(found, "NumberOfStudyRelatedInstances"),
        )
        if not query.modality or not study.modalities or query.modality in study.modalities.split("\\"):
            yield study


def series_of(connection: Connection, study: str, query: Query | None = None) -> list[Series]:
    """Series of a study, those alone that ``query`` names where it names any."""
    asked = query or Query()
    keys = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": asked.series,
        "Modality": asked.modality,
        "SeriesNumber": "",
        "SeriesDescription": "",
        "Manufacturer": "",
        "NumberOfSeriesRelatedInstances": "",
    }
    return [
        Series(
            study=study,
            uid=_required(found, "SeriesInstanceUID"),
            number=text(found, "SeriesNumber"),
            modality=text(found, "Modality"),
            description=text(found, "SeriesDescription"),
            manufacturer=text(found, "Manufacturer"),
            instances=number(found, "NumberOfSeriesRelatedInstances"),
        )
        for found in connection.find("series", keys)
    ]


def instances_of(connection: Connection, series: Series) -> list[Instance]:
    """Instances of a series."""
    keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid, "SOPInstanceUID": "", "SOPClassUID": ""}
    found = connection.find("instance", keys)
    return [Instance(series.study, series.uid, _required(one, "SOPInstanceUID"), text(one, "SOPClassUID")) for one in found]


def text(found: Dataset, keyword: str) -> str:
    """A value as one line of text; several as DICOM stores them."""
    value = found.get(keyword)
    if value is None:
        return ""
    parts = value if not isinstance(value, str) and hasattr(value, "__iter__") and keyword != "PatientName" else [value]
    return "".join(c if c.isprintable() else " " for c in "\\".join(str(part) for part in parts)).strip()


def number(found: Dataset, keyword: str) -> int | None:
    value = text(found, keyword)
    return int(value) if value.isdecimal() else None


def to_json(row: Study | Series | Instance) -> Mapping[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _required(found: Dataset, keyword: str) -> str:
    value = text(found, keyword)
    if not USABLE_UID.fullmatch(value):
        raise PacsError("the PACS answers without a usable UID; ask who runs it")
    return value

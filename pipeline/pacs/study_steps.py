"""The steps of one study from the PACS and back; each may be done again after it was cut off anywhere."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import OcusegError, PacsError
from pipeline.export.case import Settings
from pipeline.export.run import EXPORT_FILE, ExportRecord, Predictions, export_folder
from pipeline.inference.folder import predict_folder
from pipeline.pacs.connection import Confirm, Connection
from pipeline.pacs.outbox import Outbox
from pipeline.pacs.pull import pull
from pipeline.pacs.push import dicom_files, push
from pipeline.pacs.query import Series
from pipeline.pacs.study_states import State
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import token_of
from pipeline.scans.walk import walk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """What a watch does with each study. ``formats`` of the export · ``modalities`` that are taken · ``keep``: scans and objects stay."""

    work: Path
    bundles: Sequence[Path]
    formats: tuple[str, ...] = ("seg", "sr", "sc", "pdf")
    modalities: tuple[str, ...] = ("OP", "OPT")
    keep: bool = False
    device: str = "auto"

    def is_scan(self, series: Series) -> bool:
        """Whether a series is one of scans, and none of our own results."""
        return series.modality in self.modalities and not series.description.startswith("ocuseg ")


@dataclass(frozen=True)
class StudySteps:
    """``study`` by its UID; ``day`` names the folder of predictions."""

    wishes: Wishes
    names: Pseudonyms
    study: str
    day: str

    @property
    def token(self) -> str:
        """What messages call the study."""
        return self.names.token("visit", self.study)

    @property
    def scans(self) -> Path:
        return self.wishes.work / "scans" / self.study

    @property
    def objects(self) -> Path:
        return self.wishes.work / "objects" / self.study

    @property
    def predictions(self) -> Path:
        return self.wishes.work / "predictions" / self.day

    def pull(self, connection: Connection, retries: int) -> State:
        """Everything of it that the PACS has, complete."""
        incoming = self.wishes.work / "incoming"
        ended = pull(connection, [self.study], incoming, only=self.wishes.is_scan, retries=retries)
        if ended.failed:
            raise PacsError(f"{ended.failed} images did not come ({next(iter(ended.reasons))})", passing=True)
        return self.take_in(incoming)

    def take_in(self, folder: Path) -> State:
        """Move the study from where it arrived to where it is predicted; to scans of it that are there already."""
        if (folder / self.study).is_dir():
            for path in dicom_files(folder / self.study)[0]:
                path.unlink()
            for path, _ in walk(folder / self.study):
                place = self.scans / path.relative_to(folder / self.study)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
            shutil.rmtree(folder / self.study)
        return "pulled" if self.scans.is_dir() else "nothing"

    def predict(self) -> State:
        predict_folder(self.wishes.bundles, self.scans, self.predictions, device=self.wishes.device, pseudonyms=self.names)
        return "predicted" if self._cases() else "nothing"

    def export(self) -> State:
        """Objects in the study's own patient and study; a case whose scan lacks what that needs is left out, and said."""
        predictions = Predictions(self.predictions, Settings(self.wishes.formats))
        predictions.find_originals(self.scans, self.names)
        summary = export_folder(predictions, self.objects, self._cases())
        for case, reason in summary.failed.items():
            log.warning("study %s: case %s is not exported: %s", self.token, case, reason)
        if not summary.exported:
            raise OcusegError("none of its cases could be exported")
        for one in summary.exported:
            record = ExportRecord.model_validate_json((self.objects / one.case / EXPORT_FILE).read_bytes())
            if not record.original:
                log.warning("study %s: case %s is not pushed: %s", self.token, one.case, record.without)
                shutil.rmtree(self.objects / one.case)
        return "exported"

    def push(self, connection: Connection, pacs: str, outbox: Outbox, retries: int, confirm: Confirm | None = None) -> State:
        paths, _ = dicom_files(self.objects)
        ended = push(connection, pacs, paths, outbox, retries=retries, confirm=confirm)
        for file, reason in ended.refusals(self.objects).items():
            log.warning("study %s: the PACS refuses %s: %s", self.token, file, reason)
        if ended.unsent:
            raise PacsError(ended.why, passing=True)
        if ended.refused:
            raise OcusegError(f"the PACS refuses {len(ended.refused)} of its objects")
        return "pushed"

    def clean(self) -> None:
        """What names the patient goes, unless it is to be kept."""
        for folder in () if self.wishes.keep else (self.scans, self.objects):
            shutil.rmtree(folder, ignore_errors=True)

    def _cases(self) -> list[str]:
        """Cases that were made of its scans, by the ledger of the predictions."""
        tokens = {token_of(path, self.scans, self.names) for path, _ in walk(self.scans)}
        with (self.predictions / "ledger.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["token"] in tokens and row["status"] in ("done", "part")]
        return list(dict.fromkeys(row["case"] for row in rows))

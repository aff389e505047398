"""Storage commitment (PS3.4 annex J): the PACS is asked whether it keeps what it got, and answers when it knows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from pipeline.errors import PacsError
from pipeline.pacs.connection import Confirm
from pipeline.pacs.dimse import DimseConnection
from pipeline.pacs.settings import PacsSettings
from pipeline.pacs.storage_scp import StorageScp
from pipeline.pacs.words import failure_reason
from pipeline.scans.quiet import quiet


def confirmation(name: str, settings: PacsSettings, folder: Path) -> Confirm:
    """What asks a PACS that is reached over DIMSE, whichever way it got the objects."""
    connection = DimseConnection(name, settings, folder)
    return lambda paths: ask_to_keep(connection, paths, settings.timeout_s)


def ask_to_keep(connection: DimseConnection, paths: Sequence[Path], timeout_s: float) -> dict[Path, str]:
    """Files that the PACS does not promise to keep, and why.

    The answer comes on the same association, or on one that the PACS opens to our own port.

    Raises
    ------
    PacsError: the PACS does not offer storage commitment, or gives no answer in time.
    """
    from pydicom import Dataset, dcmread
    from pydicom.uid import generate_uid

    asked: dict[str, Path] = {}
    request = Dataset()
    request.TransactionUID = generate_uid(prefix="2.25.")
    request.ReferencedSOPSequence = []
    for path in paths:
        with quiet():
            head = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = head.SOPClassUID, head.SOPInstanceUID
        request.ReferencedSOPSequence.append(item)
        asked[str(head.SOPInstanceUID)] = path
    answer = _Answer(str(request.TransactionUID))
    handlers = [(evt.EVT_N_EVENT_REPORT, answer)]
    with (
        StorageScp(connection.name, connection.dimse, connection.folder, lambda event: 0x0122, *handlers),
        connection.association([(StorageCommitmentPushModel, None)], handlers=handlers) as association,
    ):
        status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        connection.check(status, "storage commitment")
        if not answer.come.wait(timeout_s):
            raise PacsError(
                f"{connection.name}: the PACS does not say in time whether it keeps the objects (does it reach own_port?)", passing=True
            )
    return {path: answer.refusals.get(uid, "it does not say that it keeps it") for uid, path in asked.items() if uid not in answer.kept}


class _Answer:
    """What the PACS says of one transaction."""

    def __init__(self, transaction: str) -> None:
        self._transaction = transaction
        self.come = threading.Event()
        self.kept: set[str] = set()
        self.refusals: dict[str, str] = {}

    def __call__(self, event: evt.Event) -> tuple[int, Any]:
        with quiet():
            said = event.event_information
            if str(said.get("TransactionUID")) != self._transaction:
                return 0x0112, None
            self.kept = {str(item.ReferencedSOPInstanceUID) for item in said.get("ReferencedSOPSequence") or ()}
            self.refusals = {
                str(item.ReferencedSOPInstanceUID): failure_reason(int(item.get("FailureReason") or 0))
                for item in said.get("FailedSOPSequence") or ()
            }
        self.come.set()
        return 0x0000, None

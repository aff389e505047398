"""What a PACS or a device sends by itself: a Storage SCP that keeps new scans in a folder, as a pull would."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, ScanError
from pipeline.pacs.arrival import keep, look
from pipeline.pacs.pull import place_of
from pipeline.pacs.push import MADE_BY
from pipeline.pacs.settings import PacsSettings
from pipeline.scans.quiet import quiet

if TYPE_CHECKING:
    from pynetdicom import evt

log = logging.getLogger(__name__)


class Receiver:
    """Keeps each object as ``folder``/STUDY/SERIES/INSTANCE.dcm; other ``modalities`` and results of our own are thanked for and dropped.

    ``lock`` is held while an object is written: who moves a study away holds it, too.
    """

    def __init__(self, folder: Path, modalities: Sequence[str]) -> None:
        self._folder, self._modalities, self.lock = folder, modalities, threading.Lock()

    def __call__(self, event: evt.Event) -> int:
        try:
            data = event.encoded_dataset()
            found = look(data)
            with quiet():
                dataset = event.dataset
                ours = (str(dataset.get("Manufacturer") or ""), str(dataset.get("ManufacturerModelName") or "")) == MADE_BY
                wanted = str(dataset.get("Modality") or "") in self._modalities
            if wanted and not ours:
                with self.lock:
                    keep(data, place_of(self._folder / found.study / found.series, found.uid))
        except ScanError as error:
            log.warning("an object that arrived was not taken: %s", error)
            return 0xC000
        except OSError as error:
            log.warning("an object that arrived cannot be written (%s)", error.strerror)
            return 0xA700
        return 0x0000


def listening(name: str, settings: PacsSettings, config_folder: Path, receiver: Receiver) -> AbstractContextManager[object]:
    """Our own port, open while the block lasts."""
    from pipeline.pacs.storage_scp import StorageScp

    if settings.dimse is None:
        raise ConfigError(f"pacs {name}: --listen needs dimse with own_port in the PACS file")
    return StorageScp(name, settings.dimse, config_folder, receiver)

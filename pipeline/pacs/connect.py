"""A PACS of the PACS file, connected."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.pacs.connection import Confirm, Connection
from pipeline.pacs.settings import PacsSettings, Transport

_LIBRARIES = ("dicomweb_client", "pynetdicom", "urllib3")


@contextmanager
def connected(name: str, settings: PacsSettings, folder: Path, transport: Transport | None = None) -> Iterator[Connection]:
    """A connection over ``transport``, or over DICOMweb where the PACS has both; ``folder`` is the PACS file's.

    Raises
    ------
    ConfigError: the PACS is not reached this way, or the extra is not installed.
    """
    over: Transport = transport or ("dicomweb" if settings.dicomweb is not None else "dimse")
    if getattr(settings, over) is None:
        raise ConfigError(f"pacs {name}: the PACS file does not say how it is reached over {over}; give {over}, or leave --over out")
    for library in _LIBRARIES:  # their messages hold what was asked for, and what came
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    connection: Connection
    try:
        if over == "dicomweb":
            from pipeline.pacs.dicomweb import DicomwebConnection

            connection = DicomwebConnection(name, settings, folder)
        else:
            from pipeline.pacs.dimse import DimseConnection

            connection = DimseConnection(name, settings, folder)
    except ModuleNotFoundError as error:
        raise needs_extra(error) from None
    try:
        yield connection
    finally:
        connection.close()


def needs_extra(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"a PACS needs {error.name}, which is not installed; run: pip install 'ocuseg[pacs]'")


def confirmation_of(name: str, settings: PacsSettings, folder: Path) -> Confirm | None:
    """What asks a PACS after a push whether it keeps what it got, where the PACS file wants that (dimse.commitment)."""
    if settings.dimse is None or not settings.dimse.commitment:
        return None
    try:
        from pipeline.pacs.commitment import confirmation
    except ModuleNotFoundError as error:
        raise needs_extra(error) from None
    return confirmation(name, settings, folder)

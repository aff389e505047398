"""DIMSE (PS3.7) by pynetdicom: C-FIND, C-GET or C-MOVE, and C-STORE.

A picture comes and goes in the transfer syntax in which it is stored: each pair of SOP class and transfer syntax is a presentation
context of its own, because of several syntaxes in one context the other side chooses one for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, _config, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from pipeline.errors import PacsError
from pipeline.pacs.connection import Instance, Level, Stored, Take
from pipeline.pacs.contexts import OF_EYES, SYNTAXES, context_groups, contexts_of_files
from pipeline.pacs.dimse_failures import not_established, unreachable
from pipeline.pacs.settings import PacsSettings
from pipeline.pacs.storage_scp import StorageScp, client_tls
from pipeline.pacs.words import ALREADY_THERE, failure_reason, is_passing, is_success
from pipeline.scans.quiet import quiet

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

_LEVELS: dict[Level, str] = {"study": "STUDY", "series": "SERIES", "instance": "IMAGE"}
_PENDING = (0xFF00, 0xFF01)
_UIDS_AT_ONCE = 50
"""Of one C-GET: what did not come is asked for again, so a broken connection costs no more than this."""

_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


class DimseConnection:
    """A :class:`~pipeline.pacs.connection.Connection`; each call is an association of its own."""

    def __init__(self, name: str, settings: PacsSettings, folder: Path) -> None:
        dimse = settings.dimse
        assert dimse is not None
        self.name, self.dimse, self._timeout_s = name, dimse, settings.timeout_s
        self.folder = folder
        self._tls = None if dimse.tls is None else (client_tls(name, dimse, folder), dimse.host if dimse.tls.check_host else None)

    def close(self) -> None:
        pass

    def find(self, level: Level, keys: Mapping[str, str], limit: int | None = None) -> Iterator[Dataset]:
        from pydicom import Dataset

        identifier = Dataset()
        identifier.QueryRetrieveLevel = _LEVELS[level]
        if not all(value.isascii() for value in keys.values()):
            identifier.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in keys.items():
            setattr(identifier, keyword, value or None)
        model = StudyRootQueryRetrieveInformationModelFind
        with self.association([(model, None)]) as association:
            found = 0
            for status, answer in association.send_c_find(identifier, model):
                if found == limit:
                    continue  # what was under way when it was cancelled
                self.check(status, "the query")
                if status.Status in _PENDING and answer is not None:
                    found += 1
                    if found == limit:
                        association.send_c_cancel(1, query_model=model)
                    yield answer

    def fetch(self, instances: Sequence[Instance], take: Take, *, whole: bool = False) -> None:
        for start in range(0, len(instances), _UIDS_AT_ONCE):
            part = instances[start : start + _UIDS_AT_ONCE]
            if self.dimse.retrieve == "move":
                self._move(part, take)
            else:
                told = [i for i in part if i.sop_class]
                for classes in context_groups({i.sop_class for i in told}):
                    self._get([i for i in told if i.sop_class in classes], classes, take)
                if len(told) < len(part):  # a PACS need not say the class
                    self._get([i for i in part if not i.sop_class], OF_EYES, take)

    def store(self, paths: Sequence[Path]) -> Iterator[Stored]:
        from pydicom import dcmread

        for group, contexts in contexts_of_files(paths):
            with self.association(contexts) as association:
                for path in group:
                    try:
                        with quiet():
                            status = association.send_c_store(dcmread(path))
                    except ValueError:
                        yield Stored(path, "it does not take objects of this SOP class in this transfer syntax")
                        continue
                    if "Status" not in status:
                        raise PacsError(f"{self.name}: the connection broke, or no answer came in time (timeout_s)", passing=True)
                    value = status.Status
                    kept = is_success(value) or value == ALREADY_THERE
                    yield Stored(path) if kept else Stored(path, failure_reason(value), passing=is_passing(value))

    def _get(self, instances: Sequence[Instance], classes: Sequence[str], take: Take) -> None:
        arrivals = _Arrivals(take)
        model = StudyRootQueryRetrieveInformationModelGet
        contexts = [(model, None), *((sop_class, [syntax]) for sop_class in classes for syntax in SYNTAXES)]
        roles = [build_role(sop_class, scp_role=True) for sop_class in classes]
        with self.association(contexts, roles, [(evt.EVT_C_STORE, arrivals)]) as association:
            for status, _ in association.send_c_get(_wanted(instances), model):
                arrivals.raise_error()
                self.check(status, "the retrieval")

    def _move(self, instances: Sequence[Instance], take: Take) -> None:
        arrivals = _Arrivals(take)
        model = StudyRootQueryRetrieveInformationModelMove
        with (
            StorageScp(self.name, self.dimse, self.folder, arrivals),
            self.association([(model, None)]) as association,
        ):
            for status, _ in association.send_c_move(_wanted(instances), self.dimse.calling_ae, model):
                arrivals.raise_error()
                self.check(status, f"the move to {self.dimse.calling_ae!r} (does it reach own_port?)")

    @contextmanager
    def association(
        self, contexts: Sequence[tuple[str, list[str] | None]], roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Association]:
        dimse = self.dimse
        entity = AE(dimse.calling_ae)
        entity.acse_timeout = entity.connection_timeout = entity.dimse_timeout = entity.network_timeout = self._timeout_s
        for abstract, syntaxes in contexts:
            entity.add_requested_context(abstract, *([syntaxes] if syntaxes is not None else []))
        try:
            association = entity.associate(
                dimse.host, dimse.port, ae_title=dimse.called_ae, ext_neg=list(roles), evt_handlers=list(handlers), tls_args=self._tls
            )
        except OSError:  # there is no such host
            raise unreachable(self.name, dimse, self._timeout_s, self._tls) from None
        if not association.is_established:
            raise not_established(self.name, dimse, association, self._timeout_s, self._tls)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def check(self, status: Dataset, what: str) -> None:
        """Raises PacsError for an answer that is neither pending nor a success."""
        if "Status" not in status:
            hint = f"perhaps it does not let {self.dimse.calling_ae!r} do this, or needs longer (timeout_s)"
            raise PacsError(f"{self.name}: the PACS ended the connection during {what}; {hint}", passing=True)
        value = int(status.Status)
        if value not in _PENDING and not is_success(value):
            raise PacsError(f"{self.name}: the PACS refuses {what}: {failure_reason(value)}", passing=is_passing(value))


class _Arrivals:
    """Hands each object of a C-STORE on, and keeps the first error for the thread that waits for the end."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._error: Exception | None = None

    def __call__(self, event: evt.Event) -> int:
        try:
            self._take(str(event.request.AffectedSOPInstanceUID), event.encoded_dataset())
        except Exception as error:
            self._error = self._error or error
            return 0xA700
        return 0x0000

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _wanted(instances: Sequence[Instance]) -> Dataset:
    """The identifier that asks for instances of one series (PS3.4 C.4.3.1)."""
    from pydicom import Dataset

    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID = instances[0].study, instances[0].series
    identifier.SOPInstanceUID = [instance.uid for instance in instances]
    return identifier

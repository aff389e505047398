"""DICOMweb (PS3.18) by dicomweb-client: QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient

from pipeline.errors import ConfigError, PacsError
from pipeline.pacs.connection import Instance, Level, Stored, Take
from pipeline.pacs.settings import DicomwebSettings, PacsSettings
from pipeline.pacs.words import ALREADY_THERE, failure_reason, is_passing
from pipeline.scans.quiet import quiet

if TYPE_CHECKING:
    from pydicom import Dataset

_PAGE = 200
_UNDEFINED = 0xFFFFFFFF
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_STATUS = {
    400: "it does not understand the request; check url",
    401: "it asks for a login, or takes ours for a wrong one; check basic or bearer",
    403: "the login may not do this; ask who runs the PACS",
    404: "there is nothing at this address; check url and the prefixes",
    405: "it does not offer this service at this address; check url and the prefixes",
    406: "it does not give the pictures as they are stored",
    413: "the file is larger than it takes",
    415: "it does not take DICOM files here; check url and stow_prefix",
    507: "its disk is full",
}


class DicomwebConnection:
    """A :class:`~pipeline.pacs.connection.Connection`."""

    def __init__(self, name: str, settings: PacsSettings, folder: Path) -> None:
        web = settings.dicomweb
        assert web is not None
        self._name, self._url, self._gives_series = name, web.url, True
        self._session = _session(name, web, folder)
        prefixes = {f"{service}_url_prefix": getattr(web, f"{service}_prefix") for service in ("qido", "wado", "stow")}
        # Some servers hand out UIDs that the standard does not allow; they are only passed on.
        self._client = DICOMwebClient(web.url, self._session, timeout=settings.timeout_s, permissive_uid=True, **prefixes)
        self._client.set_http_retry_params(retry=False)  # its second attempt to store sends nothing; ours are in tried_again

    def close(self) -> None:
        self._session.close()

    def find(self, level: Level, keys: Mapping[str, str], limit: int | None = None) -> Iterator[Dataset]:
        from pydicom import Dataset

        search: dict[Level, Callable[..., list[dict[str, dict[str, Any]]]]] = {
            "study": self._client.search_for_studies,
            "series": self._client.search_for_series,
            "instance": self._client.search_for_instances,
        }
        parents = {"study_instance_uid": "StudyInstanceUID", "series_instance_uid": "SeriesInstanceUID"}
        of = {name: keys[keyword] for name, keyword in parents.items() if level != "study" and keys.get(keyword)}
        if level == "series":
            of.pop("series_instance_uid", None)
        given = {keyword: value for keyword, value in keys.items() if value and value not in of.values()}
        fields = [keyword for keyword, value in keys.items() if not value]
        seen: set[bytes] = set()
        while True:
            page = _PAGE if limit is None else min(_PAGE, limit - len(seen))
            with self._refusals():
                found = search[level](**of, search_filters=given, fields=fields, limit=page, offset=len(seen))
            new = [answer for answer in found if repr(answer).encode() not in seen]
            with quiet():
                yield from (Dataset.from_json(answer) for answer in new)
            seen.update(repr(answer).encode() for answer in new)
            # A server may have more though it sends fewer than it was asked for; one that passes over limit and offset sends all again.
            if not new or (limit is not None and len(seen) >= limit):
                return

    def fetch(self, instances: Sequence[Instance], take: Take, *, whole: bool = False) -> None:
        came = self._fetch_series(instances, take) if whole and self._gives_series and len(instances) > 1 else set()
        for instance in instances:
            if instance.uid not in came:
                with self._refusals(), quiet():
                    data = _file_of(self._client.retrieve_instance(instance.study, instance.series, instance.uid))
                take(instance.uid, data)

    def _fetch_series(self, instances: Sequence[Instance], take: Take) -> set[str]:
        """The series in one request, as its parts come; returns what came. One that gives no series is not asked again."""
        study, series = instances[0].study, instances[0].series
        wanted, came = {instance.uid for instance in instances}, set[str]()
        try:
            with self._refusals():
                parts = self._client.iter_series(study, series, media_types=(("application/dicom", "*"),))
            while True:
                with self._refusals(), quiet():
                    part = next(parts, None)
                    data, uid = (b"", "") if part is None else (_file_of(part), str(part.SOPInstanceUID))
                if part is None:
                    return came
                if uid in wanted - came:
                    take(uid, data)
                    came.add(uid)
        except PacsError as error:
            if error.passing:
                raise
            self._gives_series = False
            return came

    def store(self, paths: Sequence[Path]) -> Iterator[Stored]:
        from pydicom import dcmread

        for path in paths:
            try:
                with self._refusals(), quiet():
                    refused = _refusal_in(self._client.store_instances([dcmread(path)]))
            except _Refused as error:
                refused = error
            kept = refused is None or refused.number == ALREADY_THERE
            yield Stored(path) if kept else Stored(path, str(refused), passing=bool(refused and refused.passing))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Whatever the library raises inside, as a PacsError."""
        from pydicom.errors import InvalidDicomError

        try:
            yield
        except requests.HTTPError as error:
            raise self._of_status(error) from None
        except requests.exceptions.SSLError as error:
            raise PacsError(f"{self._name}: the TLS connection failed: {_tls_words(error)}") from None
        except requests.Timeout:
            raise PacsError(f"{self._name}: {self._place} does not answer in time (timeout_s)", passing=True) from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise PacsError(f"{self._name}: {_connection_words(error, self._place)}", passing=True) from None
        except (requests.RequestException, InvalidDicomError, KeyError, ValueError, EOFError, OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, with its own words
            raise PacsError(f"{self._name}: {self._place} answers, but not as DICOMweb ({type(error).__name__}); check url") from None

    @property
    def _place(self) -> str:
        return urlsplit(self._url).netloc

    def _of_status(self, error: requests.HTTPError) -> PacsError:
        status = error.response.status_code
        refused = _refusal_of(error.response)
        if refused is not None:
            return refused
        words = _STATUS.get(status, "try again, or ask who runs the PACS" if status >= 500 else "check url and the login")
        if status in (400, 409, 413, 415, 500, 507) and error.request is not None and error.request.method == "POST":
            return _Refused(f"HTTP {status}: {words}", passing=status in _PASSING)
        return PacsError(f"{self._name}: {self._place} answers with HTTP {status}: {words}", passing=status in _PASSING)


class _Refused(PacsError):
    """Of one file, and not of all. ``number``: the Failure Reason, where it has one."""

    number = 0


def _file_of(dataset: Dataset) -> bytes:
    """Raises EOFError: it was cut off, which the file that is written of it would not show."""
    last = dataset.get_item(max(dataset.keys()))
    value, length = getattr(last, "value", None), getattr(last, "length", None)
    if isinstance(value, bytes) and length is not None and length != _UNDEFINED and len(value) < length:
        raise EOFError
    data = io.BytesIO()
    dataset.save_as(data, enforce_file_format=False)
    return data.getvalue()


def _session(name: str, web: DicomwebSettings, folder: Path) -> requests.Session:
    session = requests.Session()
    # Neither a proxy's address nor a login is taken from files that a user may have forgotten (.netrc would win over bearer).
    session.trust_env = False
    session.proxies = requests.utils.getproxies() if not requests.utils.should_bypass_proxies(web.url, None) else {}
    files = web.tls.files(folder, f"pacs {name}: dicomweb.tls")
    session.verify = str(files["ca_bundle"]) if "ca_bundle" in files else True
    if "certificate" in files:
        session.cert = (str(files["certificate"]), str(files["key"])) if "key" in files else str(files["certificate"])
    if web.basic is not None:
        user, separator, password = web.basic.read(folder, f"pacs {name}: dicomweb.basic").partition(":")
        if not separator:
            raise ConfigError(f"pacs {name}: dicomweb.basic: the secret must be user:password; there is no colon in it")
        session.auth = (user.encode(), password.encode())
    if web.bearer is not None:
        session.headers["Authorization"] = "Bearer " + web.bearer.read(folder, f"pacs {name}: dicomweb.bearer")
    return session


def _refusal_of(response: requests.Response) -> _Refused | None:
    """What a STOW answer says of the file it refused; None where it is no such answer."""
    from pydicom import Dataset

    try:
        with quiet():
            return _refusal_in(Dataset.from_json(response.json()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def _refusal_in(answer: Dataset) -> _Refused | None:
    """Of the one file that was sent (PS3.18 10.5.3)."""
    for item in answer.get("FailedSOPSequence") or ():
        number = int(item.get("FailureReason") or 0)
        refused = _Refused(failure_reason(number), passing=is_passing(number))
        refused.number = number
        return refused
    return None


def _tls_words(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.rpartition("certificate verify failed:")[2].partition("(_ssl")[0].strip(" :") or "it is not trusted"
        return f"the certificate of the PACS cannot be checked ({why}); give tls.ca_bundle"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return "what answers there speaks no TLS; check the port, or give http://"
    if "CERTIFICATE_REQUIRED" in text or "handshake failure" in text.lower():
        return "the PACS asks for a certificate of ours; give tls.certificate"
    if "EOF occurred" in text:  # with TLS 1.3 a server may hang up after the handshake in place of saying what it lacks
        return "the PACS ended it; where it asks for a certificate of ours, give tls.certificate; else check the port"
    return "check the port and tls"


def _connection_words(error: Exception, place: str) -> str:
    text = str(error)
    if "Name or service not known" in text or "getaddrinfo" in text or "NameResolution" in text:
        return f"there is no machine of the name in {place}; check url"
    if "refused" in text:
        return f"nothing listens at {place}; check url and its port, and whether the PACS runs"
    if "unreachable" in text or "No route" in text:
        return f"{place} cannot be reached from here; check the network"
    return f"the connection to {place} broke; check its port"

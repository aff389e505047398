"""The PACS file: how each PACS is reached, and no secret. YAML, checked like every configuration of ocuseg.

Paths in it are relative to the file's own folder. Passwords, tokens and private keys are in the environment or in files of
their own, and the PACS file says where.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.registry import Strict, explain, unknown_name
from pipeline.yaml_mapping import read_mapping

log = logging.getLogger(__name__)

Transport = Literal["dicomweb", "dimse"]


def _ae_title(value: str) -> str:
    """PS3.5 6.2."""
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", value.strip()):
        raise ValueError("an AE title has 1 to 16 plain characters (ASCII, no backslash)")
    return value.strip()


_AETitle = Annotated[str, AfterValidator(_ae_title)]
_Port = Annotated[int, Field(ge=1, le=65535)]
_File = Annotated[str, Field(min_length=1)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Secret(Strict):
    """Where a secret is: an environment variable or a file, by name."""

    env: str | None = Field(None, min_length=1, description="name of the environment variable that holds it")
    file: _File | None = Field(None, description="file that holds it and nothing else")

    @model_validator(mode="before")
    @classmethod
    def _no_secret_itself(cls, value: Any) -> Any:
        if not isinstance(value, dict | cls):
            raise ValueError("the PACS file holds no secret; say where it is, as {env: NAME} or {file: PATH}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret is in an environment variable or in a file; give env or file, and not both")
        return self

    def read(self, folder: Path, what: str) -> str:
        """The secret. Raises ConfigError (with the place, never with the value) where it is not there."""
        if self.env is not None:
            value = os.environ.get(self.env, "").strip()
            if not value:
                raise ConfigError(f"{what}: the environment variable {self.env} is not set; set it to the secret")
            return value
        path = placed(folder, self.file or "")
        try:
            value = path.read_text(encoding="utf-8").strip()
            if os.name == "posix" and path.stat().st_mode & 0o077:
                log.warning("%s: the file %s can be read by others; its mode should be 0600", what, path.name)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{what}: the file {str(path)!r} cannot be read ({why})") from None
        if not value:
            raise ConfigError(f"{what}: the file {str(path)!r} is empty; write the secret into it")
        return value


class Certificates(Strict):
    """Certificates of a TLS connection, as PEM files."""

    ca_bundle: _File | None = Field(None, description="certificates that the PACS's own is checked with; null: those of the system")
    certificate: _File | None = Field(None, description="our certificate, where the PACS asks for one")
    key: _File | None = Field(None, description="private key of our certificate; null: it is in the certificate's file")

    @model_validator(mode="after")
    def _key_of_a_certificate(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key without a certificate says nothing; give certificate, too")
        return self

    def files(self, folder: Path, what: str) -> dict[str, Path]:
        """The files that are named, by their keys. Raises ConfigError where one is not there."""
        named = {"ca_bundle": self.ca_bundle, "certificate": self.certificate, "key": self.key}
        found = {name: placed(folder, value) for name, value in named.items() if value}
        for name, path in found.items():
            if not path.is_file():
                raise ConfigError(f"{what}.{name}: there is no file {str(path)!r}; give a path relative to the PACS file's folder")
        return found


class DicomwebSettings(Strict):
    """DICOMweb (PS3.18): QIDO-RS finds, WADO-RS pulls, STOW-RS pushes."""

    url: str = Field(description="root of the services, such as https://pacs.example.org/dicom-web")
    qido_prefix: str | None = Field(None, min_length=1, description="path of QIDO-RS below the root, where it has one of its own")
    wado_prefix: str | None = Field(None, min_length=1, description="the same of WADO-RS")
    stow_prefix: str | None = Field(None, min_length=1, description="the same of STOW-RS")
    basic: Secret | None = Field(None, description="where user:password is, for HTTP Basic authentication")
    bearer: Secret | None = Field(None, description="where the token is, for Bearer authentication")
    tls: Certificates = Field(Certificates(), description="certificates of an https URL")

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// (or http://) and a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL holds no user and password; say where they are with basic")
        if parts.query or parts.fragment:
            raise ValueError("must be the root of the services, without ? and #")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.basic is not None and self.bearer is not None:
            raise ValueError("one login is enough; give basic or bearer")
        return self


class DimseTls(Certificates):
    """TLS of DIMSE, whose certificate is also that of our own port."""

    check_host: bool = Field(True, description="whether the PACS's certificate must be of its host name")


class OwnPort(Strict):
    """Where ocuseg listens: for --listen, C-MOVE and storage commitment."""

    port: _Port = Field(description="TCP port")
    address: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: all of the machine")


class DimseSettings(Strict):
    """DIMSE (PS3.7): C-FIND finds, C-GET or C-MOVE pulls, C-STORE pushes."""

    host: str = Field(min_length=1, description="name or address of the PACS")
    port: _Port = Field(104, description="its TCP port")
    called_ae: _AETitle = Field(description="AE title of the PACS")
    calling_ae: _AETitle = Field("OCUSEG", description="our AE title, as the PACS knows us")
    retrieve: Literal["get", "move"] = Field("get", description="get: on one connection; move: the PACS connects to our own port")
    own_port: OwnPort | None = Field(None, description="our own Storage SCP, for move, --listen and commitment")
    commitment: bool = Field(False, description="ask the PACS after a push whether it keeps what it got (storage commitment)")
    tls: DimseTls | None = Field(None, description="null: no TLS")

    @model_validator(mode="after")
    def _port_to_move_to(self) -> Self:
        for wish, name in ((self.retrieve == "move", "retrieve: move"), (self.commitment, "commitment")):
            if wish and self.own_port is None:
                raise ValueError(f"{name} needs a port that the PACS connects to; give own_port")
        return self


class PacsSettings(Strict):
    """One PACS: reached over DICOMweb, over DIMSE, or by either."""

    dicomweb: DicomwebSettings | None = Field(None, description="how it is reached over DICOMweb, which is taken where both are given")
    dimse: DimseSettings | None = Field(None, description="how it is reached over DIMSE")
    timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds without an answer after which a request has failed")
    retries: int = Field(3, ge=0, le=20, description="how often what failed by chance is tried again, after 1, 2, 4 ... seconds")

    @model_validator(mode="after")
    def _some_way(self) -> Self:
        if self.dicomweb is None and self.dimse is None:
            raise ValueError("a PACS is reached over DICOMweb or DIMSE; give dicomweb, dimse or both")
        return self


class PacsFile(Strict):
    """Every PACS by name."""

    pacs: dict[_Name, PacsSettings] = Field(min_length=1, description="name: how that PACS is reached")


def default_pacs_file() -> Path:
    """$OCUSEG_PACS, else .config/ocuseg/pacs.yaml in the home folder."""
    given = os.environ.get("OCUSEG_PACS")
    return Path(given) if given else Path.home() / ".config" / "ocuseg" / "pacs.yaml"


def load_pacs(path: Path, name: str | None) -> tuple[str, PacsSettings]:
    """The PACS called ``name``, or the only one of the file.

    Raises
    ------
    ConfigError: the file cannot be read, is wrong (one sentence a fault, with the dotted key), or has no such PACS.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the PACS file {str(path)!r} cannot be read ({why}); write one (docs/pacs.md), or give --config") from None
    data = read_mapping(text, path.name, "pacs", ConfigError)
    try:
        pacs = PacsFile.model_validate(data).pacs
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path.name}: {_without_login(fault)}" for fault in error.errors())) from None
    if name is None and len(pacs) > 1:
        raise ConfigError(f"{path.name} has several PACS; name one of them: {', '.join(pacs)}")
    name = name or next(iter(pacs))
    if name not in pacs:
        raise ConfigError(unknown_name(f"{path.name}: pacs", name, list(pacs)))
    return name, pacs[name]


def pacs_schema() -> str:
    """JSON Schema of a PACS file (configs/pacs_schema.json), for editors."""
    return json.dumps(PacsFile.model_json_schema(), indent=2) + "\n"


def placed(folder: Path, name: str) -> Path:
    """A path of the PACS file: relative to its folder, ~ is the home folder."""
    return folder / Path(name).expanduser()


def _without_login(fault: Any) -> str:
    """The fault as a sentence that quotes no value where a password may stand in its place."""
    hidden = {"url", "basic", "bearer"} & set(fault["loc"])
    return explain({**fault, "input": None} if hidden else fault, PacsFile)

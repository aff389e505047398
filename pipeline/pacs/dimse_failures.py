"""Why there is no association, in words: what pynetdicom keeps to its log is asked again of the network."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from pipeline.errors import PacsError
from pipeline.pacs.settings import DimseSettings

if TYPE_CHECKING:
    from pynetdicom.association import Association

Tls = tuple[ssl.SSLContext, str | None]

_REJECTED = {  # PS3.8 table 9-21: source and reason
    (1, 3): "it does not know our AE title {calling!r}; have it set up on the PACS, or check calling_ae",
    (1, 7): "it has another AE title than {called!r}; check called_ae",
}
_OUR_TURN_LATER = {(2, 1), (3, 1), (3, 2)}


def not_established(name: str, dimse: DimseSettings, association: Association, timeout_s: float, tls: Tls | None) -> PacsError:
    """Why an association that was asked for is none."""
    place = f"{dimse.host}:{dimse.port}"
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        reason = (answer.result_source or 0, answer.diagnostic or 0)
        words = _REJECTED.get(reason, "it takes no connection now" if reason in _OUR_TURN_LATER else "ask who runs the PACS")
        said = words.format(calling=dimse.calling_ae, called=dimse.called_ae)
        return PacsError(f"{name}: {place} rejects the association: {said}", passing=reason in _OUR_TURN_LATER)
    if association.rejected_contexts and not association.accepted_contexts:
        return PacsError(f"{name}: {place} offers none of the services or SOP classes that were asked for")
    return unreachable(name, dimse, timeout_s, tls)


def unreachable(name: str, dimse: DimseSettings, timeout_s: float, tls: Tls | None) -> PacsError:
    """Why nobody answers as a DICOM service there."""
    words, passing = _of_network(dimse, f"{dimse.host}:{dimse.port}", timeout_s, tls)
    return PacsError(f"{name}: {words}", passing=passing)


def _of_network(dimse: DimseSettings, place: str, timeout_s: float, tls: Tls | None) -> tuple[str, bool]:
    """What connecting says, and whether that may pass."""
    try:
        with socket.create_connection((dimse.host, dimse.port), timeout=min(timeout_s, 5.0)) as plain:
            if tls is not None:
                tls[0].wrap_socket(plain, server_hostname=tls[1] or dimse.host).close()
    except socket.gaierror:
        return f"there is no machine of the name {dimse.host!r}; check host", False
    except ConnectionRefusedError:
        return f"nothing listens at {place}; check host and port, and whether the PACS runs", True
    except ssl.SSLCertVerificationError as error:
        return f"the certificate of {place} cannot be checked ({error.verify_message}); give tls.ca_bundle, or check host", False
    except ssl.SSLError:
        return f"the TLS connection to {place} failed; check the port, and whether it wants a certificate of ours (tls.certificate)", False
    except TimeoutError:
        return f"{place} does not answer; check host, port and the firewall", True
    except OSError as error:
        return f"{place} cannot be reached ({error.strerror or type(error).__name__}); check the network", True
    wish = "TLS (tls)" if dimse.tls is None else "a certificate of ours (tls.certificate)" if dimse.tls.certificate is None else ""
    without = f", and whether it wants {wish}" if wish else ""
    return f"{place} answers, but not as a DICOM service; check the port{without}", True

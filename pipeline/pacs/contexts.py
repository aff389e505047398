"""Presentation contexts (PS3.8 9.3.2): which SOP classes and transfer syntaxes an association is for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pipeline.scans.quiet import quiet

_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
SYNTAXES = (
    _EXPLICIT,
    _IMPLICIT,
    "1.2.840.10008.1.2.1.99",  # deflated
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 lossless
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
)
"""In which an object may be stored that is pulled."""
OF_EYES = (
    *(f"1.2.840.10008.5.1.4.1.1.77.1.5.{n}" for n in "1245678"),  # photographs, wide field, tomography, en face, flow
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # the same in colour, of several frames
)
"""SOP classes of scans, as many as fit one association with every syntax."""
_MOST = 126
"""Contexts of one association: 128 have a number, and a service takes one of its own."""


def context_groups(classes: Collection[str]) -> Iterator[list[str]]:
    """SOP classes in groups, of which each fits one association with every syntax of :data:`SYNTAXES`."""
    size = _MOST // len(SYNTAXES)
    ordered = sorted(classes)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def contexts_of_files(paths: Sequence[Path]) -> Iterator[tuple[list[Path], list[tuple[str, list[str] | None]]]]:
    """DICOM files in groups, of which each fits one association, with the contexts for what is really in them.

    What is stored without compression may also be sent as the other uncompressed syntax, which every PACS takes.
    """
    from pydicom import dcmread

    group: list[Path] = []
    contexts: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        with quiet():
            head = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            pair = (str(head.SOPClassUID), str(head.file_meta.TransferSyntaxUID))
        syntaxes = [_EXPLICIT, _IMPLICIT] if pair[1] in (_EXPLICIT, _IMPLICIT) else [pair[1]]
        if pair not in contexts and len(contexts) == _MOST:
            yield group, [(key[0], value) for key, value in contexts.items()]
            group, contexts = [], {}
        contexts[pair] = syntaxes
        group.append(path)
    if group:
        yield group, [(key[0], value) for key, value in contexts.items()]

"""What a DICOM header must state about its pixels; missing tags are filled in if the standard allows one value only, else named in the
error (PS3.3 C.7.6.3)."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ScanError

GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
_ONE_SAMPLE = (*GREY, "PALETTE COLOR")


def complete_header(dataset: Any, frames: int, warnings: list[str]) -> str:
    """The photometric interpretation; ``dataset`` then has every tag that describes its pixels.

    Samples per Pixel follows from the photometric interpretation, Bits Stored from High Bit, else from Bits Allocated. If the
    header does not say, colours are taken to be stored pixel by pixel and values to be unsigned, with a note in ``warnings``.

    Raises
    ------
    ScanError: ``malformed`` with the name of the tag that is missing; ``unsupported``.
    """
    for keyword, name in (
        ("PhotometricInterpretation", "Photometric Interpretation (0028,0004)"),
        ("BitsAllocated", "Bits Allocated (0028,0100)"),
    ):
        if dataset.get(keyword) in (None, ""):
            raise ScanError("malformed", f"the DICOM header lacks {name}, without which its pixels mean nothing; export it again")
    photometric = str(dataset.PhotometricInterpretation).strip().upper()
    if photometric not in (*_ONE_SAMPLE, *_COLOUR):
        raise ScanError("unsupported", "the DICOM file's photometric interpretation is not one that is read; export as RGB or grey")
    samples = 1 if photometric in _ONE_SAMPLE else 3
    if dataset.get("SamplesPerPixel") != samples:
        if dataset.get("SamplesPerPixel") is not None and not _holds(dataset, frames, samples):
            raise ScanError(
                "malformed",
                f"the DICOM header states {dataset.SamplesPerPixel} samples a pixel of a {photometric} picture; export it again",
            )
        dataset.SamplesPerPixel = samples
    allocated = int(dataset.BitsAllocated)
    if dataset.get("BitsStored") is None:
        high = dataset.get("HighBit")
        dataset.BitsStored = allocated if high is None else int(high) + 1
    if dataset.get("PixelRepresentation") is None:
        dataset.PixelRepresentation = 0
        warnings.append("the header lacks Pixel Representation (0028,0103); its values are taken as unsigned")
    if samples == 3 and dataset.get("PlanarConfiguration") is None:
        dataset.PlanarConfiguration = 0
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            warnings.append("the header lacks Planar Configuration (0028,0006); its colours are taken to lie pixel by pixel")
    return photometric


def _holds(dataset: Any, frames: int, samples: int) -> bool:
    """Whether uncompressed pixels have the size that ``samples`` per pixel need (converters state one sample for colour pictures)."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return False
    size = int(dataset.Rows) * int(dataset.Columns) * frames * samples * int(dataset.BitsAllocated) // 8
    return len(dataset.get("PixelData") or b"") in (size, size + size % 2)

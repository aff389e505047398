"""What a DICOM picture looks like, worked out by hand from PS3.3 C.7.6.3 and C.11."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import compress
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.errors import ScanError
from pipeline.scans.dicom_pixels import codestream_of
from pipeline.scans.open import open_scan
from tests.scans.make import OP_16_BIT, OPT, SECONDARY_CAPTURE, dicom, encapsulated, item, jpeg, photograph, ramp, saved, sequence

ROWS, COLUMNS = 6, 11


def seen(dataset: Any, tmp_path: Path) -> np.ndarray:
    return open_scan(saved(dataset, tmp_path / "a scan")).pixels


def test_grey_and_colour_keep_their_values_rows_and_columns(tmp_path: Path) -> None:
    grey = ramp(ROWS, COLUMNS)
    assert np.array_equal(seen(dicom(grey), tmp_path), grey[None])
    deep = ramp(ROWS, COLUMNS, "uint16", 900)
    result = seen(dicom(deep, sop_class=OP_16_BIT), tmp_path)
    assert result.dtype == np.uint16
    assert np.array_equal(result, deep[None])
    colour = photograph(ROWS, COLUMNS)
    assert np.array_equal(seen(dicom(colour), tmp_path), colour.transpose(2, 0, 1))


def test_colour_by_plane_is_the_same_picture(tmp_path: Path) -> None:
    colour = photograph(ROWS, COLUMNS)
    by_plane = dicom(colour, PlanarConfiguration=1, PixelData=colour.transpose(2, 0, 1).tobytes())
    assert np.array_equal(seen(by_plane, tmp_path), colour.transpose(2, 0, 1))


def test_frames_are_slices(tmp_path: Path) -> None:
    volume = np.stack([ramp(ROWS, COLUMNS) + 100 * k for k in range(2)]).astype(np.uint8)
    scan = open_scan(saved(dicom(volume, sop_class=OPT, modality="OPT"), tmp_path / "v"))
    assert scan.geometry.shape == (2, ROWS, COLUMNS)
    assert scan.modality == "oct"
    assert np.array_equal(scan.pixels, volume[None])
    colours = np.stack([photograph(ROWS, COLUMNS), 255 - photograph(ROWS, COLUMNS)])
    assert np.array_equal(seen(dicom(colours), tmp_path), np.moveaxis(colours, -1, 0))


def test_a_frame_of_one_column_is_no_colour(tmp_path: Path) -> None:
    narrow = ramp(ROWS, 1)
    assert np.array_equal(seen(dicom(narrow), tmp_path), narrow[None])
    three_wide = np.stack([ramp(ROWS, 3), ramp(ROWS, 3) + 50]).astype(np.uint8)
    assert np.array_equal(seen(dicom(three_wide, photometric="MONOCHROME2"), tmp_path), three_wide[None])


def test_monochrome1_is_turned_round_about_the_stored_range(tmp_path: Path) -> None:
    grey = ramp(ROWS, COLUMNS)
    assert np.array_equal(seen(dicom(grey, photometric="MONOCHROME1"), tmp_path), 255 - grey[None])
    twelve = ramp(ROWS, COLUMNS, "uint16", 60)
    result = seen(dicom(twelve, photometric="MONOCHROME1", BitsStored=12, HighBit=11), tmp_path)
    assert np.array_equal(result, 4095 - twelve[None])
    assert result.dtype == np.uint16
    signed = (ramp(ROWS, COLUMNS, "int32", 400) - 13000).astype(np.int16)
    assert np.array_equal(seen(dicom(signed, photometric="MONOCHROME1"), tmp_path), -1 - signed[None])


def test_bits_above_the_stored_ones_are_dropped(tmp_path: Path) -> None:
    twelve = ramp(ROWS, COLUMNS, "uint16", 60)
    dirty = twelve | 0x3000
    assert np.array_equal(seen(dicom(dirty, BitsStored=12, HighBit=11), tmp_path), twelve[None])


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, "uint16"), (2, 0, "uint16"), (1, -1024, "int32"), (2, -10, "int32"), (0.5, 1, "float32")],
)
def test_rescale(slope: float, intercept: float, dtype: str, tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS, "uint16", 300)
    bits = 15 if slope == 2 and intercept == 0 else 16
    result = seen(dicom(stored, BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=intercept), tmp_path)
    assert result.dtype == dtype
    assert np.array_equal(result[0], stored.astype(float) * slope + intercept)


def test_monochrome1_after_rescale_keeps_the_range(tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS)
    result = seen(dicom(stored, photometric="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-100), tmp_path)
    assert np.array_equal(result[0], 2 * (255 - stored.astype(int)) - 100)


def test_linear_window_is_the_standards_formula(tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS, "uint16", 60)
    result = seen(dicom(stored, BitsStored=12, HighBit=11, WindowCenter=[1000, 7], WindowWidth=[2000, 9]), tmp_path)
    # PS3.3 C.11.2.1.2.1: below c - .5 - (w - 1) / 2 the lowest, above c - .5 + (w - 1) / 2 the highest value.
    expected = [min(max((x - 999.5) / 1999 + 0.5, 0), 1) * 4095 for x in stored.ravel().tolist()]
    assert np.abs(result.ravel() - np.array(expected)).max() <= 0.5
    assert (result.min(), result.max(), result.dtype) == (0, 4095, np.uint16)


def test_a_full_window_changes_nothing_and_functions_differ(tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS)
    assert np.array_equal(seen(dicom(stored, WindowCenter=128, WindowWidth=256), tmp_path), stored[None])
    exact = seen(dicom(stored, WindowCenter=30, WindowWidth=20, VOILUTFunction="LINEAR_EXACT"), tmp_path)
    assert exact[0].ravel()[[20, 30, 40]].tolist() == [0, 128, 255]
    sigmoid = seen(dicom(stored, WindowCenter=30, WindowWidth=20, VOILUTFunction="SIGMOID"), tmp_path)
    assert sigmoid[0].ravel()[[10, 30, 50]].tolist() == [round(255 / (1 + np.exp(4))), 128, round(255 / (1 + np.exp(-4)))]
    assert np.array_equal(seen(dicom(stored, WindowCenter=30, WindowWidth=0), tmp_path), stored[None])


def test_each_frame_by_its_own_groups(tmp_path: Path) -> None:
    volume = np.stack([ramp(ROWS, COLUMNS), ramp(ROWS, COLUMNS)])
    windows = [item(FrameVOILUTSequence=sequence(item(WindowCenter=c, WindowWidth=20, VOILUTFunction="LINEAR_EXACT"))) for c in (10, 40)]
    shared = item(PixelValueTransformationSequence=sequence(item(RescaleSlope=1, RescaleIntercept=5, RescaleType="US")))
    dataset = dicom(
        volume,
        sop_class=OPT,
        modality="OPT",
        SharedFunctionalGroupsSequence=sequence(shared),
        PerFrameFunctionalGroupsSequence=sequence(*windows),
    )
    first, second = seen(dataset, tmp_path)[0]
    assert first.ravel()[[0, 5, 15, 60]].tolist() == [64, 128, 255, 255]  # (0 + 5 - 10) / 20 + 1/2 = 1/4
    assert second.ravel()[[0, 25, 35, 60]].tolist() == [0, 0, 128, 255]  # (25 + 5 - 40) / 20 + 1/2 = 0


def test_lookup_tables_of_modality_and_voi(tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS)
    modality = item(LUTDescriptor=[10, 5, 16], ModalityLUTType="US", LUTData=[50, 40, 30, 20, 1000])
    modality["LUTDescriptor"].VR, modality["LUTData"].VR = "US", "US"
    modality["LUTDescriptor"].value = [5, 10, 16]  # five entries, the first for value 10
    result = seen(dicom(stored, ModalityLUTSequence=sequence(modality)), tmp_path)[0].ravel()
    assert result[[0, 10, 11, 13, 14, 65]].tolist() == [50, 50, 40, 20, 1000, 1000]
    voi = item()
    voi.add_new("LUTDescriptor", "US", [3, 0, 8])
    voi.add_new("LUTData", "US", [7, 8, 9])
    result = seen(dicom(stored, VOILUTSequence=sequence(voi)), tmp_path)
    assert result.dtype == np.uint8
    assert result[0].ravel()[[0, 1, 2, 60]].tolist() == [7, 8, 9, 9]


def test_palette_colours(tmp_path: Path) -> None:
    index = ramp(ROWS, COLUMNS) % 4
    dataset = dicom(index, photometric="PALETTE COLOR")
    colours = {"Red": [0, 10, 200, 255], "Green": [5, 60, 100, 0], "Blue": [9, 8, 7, 6]}
    for name, values in colours.items():
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 8])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", bytes(values))
    result = seen(dataset, tmp_path)
    assert result.shape == (3, ROWS, COLUMNS)
    for channel, values in zip(result, colours.values(), strict=True):
        assert np.array_equal(channel, np.array(values)[index])


def ybr(rgb: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, YBR_FULL."""
    matrix = np.array([[0.2990, 0.5870, 0.1140], [-0.1687, -0.3313, 0.5000], [0.5000, -0.4187, -0.0813]])
    return np.rint(rgb @ matrix.T + [0, 128, 128]).clip(0, 255).astype(np.uint8)


def test_ybr_full(tmp_path: Path) -> None:
    colour = photograph(ROWS, COLUMNS)
    result = seen(dicom(ybr(colour.astype(float)), photometric="YBR_FULL"), tmp_path)
    assert np.abs(result.astype(int) - colour.transpose(2, 0, 1)).max() <= 2


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_PARTIAL_422"])
def test_ybr_with_halved_chroma(photometric: str, tmp_path: Path) -> None:
    colour = photograph(ROWS, 12)
    colour[:, 1::2] = colour[:, ::2]  # pairs of equal pixels lose nothing by sharing their chroma
    if photometric == "YBR_FULL_422":
        full = ybr(colour.astype(float))
    else:
        matrix = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])
        full = np.rint(colour @ matrix.T + [16, 128, 128]).astype(np.uint8)
    packed = np.stack([full[:, ::2, 0], full[:, 1::2, 0], full[:, ::2, 1], full[:, ::2, 2]], axis=-1)
    result = seen(dicom(colour, photometric=photometric, PixelData=packed.tobytes()), tmp_path)
    assert np.abs(result.astype(int) - colour.transpose(2, 0, 1)).max() <= 3


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_encodings(syntax: Any, tmp_path: Path) -> None:
    stored = ramp(ROWS, COLUMNS, "uint16", 900)
    dataset = dicom(stored, sop_class=OP_16_BIT)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = stored.astype(">u2").tobytes()
    result = seen(dataset, tmp_path)
    assert np.array_equal(result, stored[None])
    assert result.dtype.isnative


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["grey", "deep", "colour", "volume"])
def test_lossless_encodings_are_exact(syntax: Any, kind: str, tmp_path: Path) -> None:
    rows, columns = 40, 53
    stored = {
        "grey": ramp(rows, columns),
        "deep": ramp(rows, columns, "uint16", 30),
        "colour": photograph(rows, columns),
        "volume": np.stack([ramp(rows, columns), 255 - ramp(rows, columns)]),
    }[kind]
    dataset = dicom(stored, sop_class=OPT if kind == "volume" else OP_8_BIT_OR_16[kind == "deep"])
    compress(dataset, syntax, generate_instance_uid=False)
    expected = stored.transpose(2, 0, 1) if kind == "colour" else stored[None]
    assert np.array_equal(seen(dataset, tmp_path), expected)


OP_8_BIT_OR_16 = ("1.2.840.10008.5.1.4.1.1.77.1.5.1", OP_16_BIT)


def test_jpeg_lossless_is_exact(tmp_path: Path) -> None:
    gdcm = pytest.importorskip("gdcm")
    stored = ramp(40, 53, "uint16", 30)
    plain = saved(dicom(stored, sop_class=OP_16_BIT), tmp_path / "plain")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "lossless"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert JPEGLosslessSV1.encode() in (tmp_path / "lossless").read_bytes()
    assert np.array_equal(open_scan(tmp_path / "lossless").pixels, stored[None])


@pytest.mark.parametrize(("photometric", "subsampling"), [("YBR_FULL", 0), ("YBR_FULL_422", 1)])
def test_colour_jpeg_comes_out_as_it_went_in(photometric: str, subsampling: int, tmp_path: Path) -> None:
    colour = photograph(40, 53)
    stream = jpeg(colour, quality=95, subsampling=subsampling)
    dataset = encapsulated(dicom(colour, photometric=photometric), JPEGBaseline8Bit, [stream])
    result = seen(dataset, tmp_path)
    by_pillow = np.asarray(Image.open(io.BytesIO(stream))).transpose(2, 0, 1).astype(int)
    assert np.abs(result - by_pillow).max() <= 2  # the colour transform rounds once more
    assert np.abs(result.astype(int) - colour.transpose(2, 0, 1)).max() <= 6


def test_jpeg_extended_8_bit_is_read_and_12_bit_refused_by_name(tmp_path: Path) -> None:
    grey = photograph(40, 53)[..., 0]
    eight = encapsulated(dicom(grey), JPEGExtended12Bit, [jpeg(grey, quality=95)])
    assert np.abs(seen(eight, tmp_path).astype(int) - grey).max() <= 4
    stream = bytearray(jpeg(grey))
    stream[stream.index(b"\xff\xc0") + 4] = 12  # the precision in the start of frame
    deep = dicom(grey.astype(np.uint16), sop_class=OP_16_BIT, BitsStored=12, HighBit=11)
    with pytest.raises(ScanError, match="12-bit JPEG Extended") as caught:
        seen(encapsulated(deep, JPEGExtended12Bit, [bytes(stream)]), tmp_path)
    assert caught.value.code == "unsupported"


def test_video_and_odd_colours_are_refused_by_name(tmp_path: Path) -> None:
    grey = ramp(ROWS, COLUMNS)
    with pytest.raises(ScanError, match="transfer syntax") as caught:
        seen(encapsulated(dicom(grey), "1.2.840.10008.1.2.4.102", [b"\0" * 8]), tmp_path)
    assert caught.value.code == "unsupported"
    with pytest.raises(ScanError, match="photometric") as caught:
        seen(dicom(grey, photometric="HSV"), tmp_path)
    assert caught.value.code == "unsupported"


def test_sizes_in_header_and_stream_must_agree(tmp_path: Path) -> None:
    grey = photograph(40, 53)[..., 0]
    with pytest.raises(ScanError, match="different sizes"):
        seen(encapsulated(dicom(grey), JPEGBaseline8Bit, [jpeg(grey.T)]), tmp_path)
    with pytest.raises(ScanError) as caught:
        seen(encapsulated(dicom(grey), JPEGBaseline8Bit, [jpeg(grey)[:300]]), tmp_path)
    assert caught.value.code in ("truncated", "malformed")


def test_fewer_pixels_than_stated_is_truncated(tmp_path: Path) -> None:
    with pytest.raises(ScanError) as caught:
        seen(dicom(ramp(ROWS, COLUMNS), Rows=ROWS + 2), tmp_path)
    assert caught.value.code == "truncated"


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scans.dicom._INFLATE_LIMIT", 1 << 16)
    dataset = dicom(np.zeros((1000, 1100), np.uint8), sop_class=SECONDARY_CAPTURE, modality="OT")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert saved(dataset, tmp_path / "bomb").stat().st_size < 10_000
    with pytest.raises(ScanError, match="deflated") as caught:
        open_scan(tmp_path / "bomb")
    assert caught.value.code == "too_large"


def test_streams_say_their_own_size() -> None:
    assert codestream_of(jpeg(photograph(40, 53))) == (40, 53, 8)
    dataset = dicom(ramp(40, 53, "uint16", 30))
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        packed = dicom(ramp(40, 53, "uint16", 30))
        compress(packed, syntax)
        assert codestream_of(next(generate_frames(packed.PixelData, number_of_frames=1))) == (40, 53, 16)
    assert codestream_of(bytes(dataset.PixelData)) is None
    assert codestream_of(b"\xff\xd8") is None

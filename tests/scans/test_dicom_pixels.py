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
from pipeline.scans import dicom_codestreams
from pipeline.scans.dicom_codestreams import codestream_of
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


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_jpeg_ls_has_the_same_pixels_without_its_own_decoder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyjpegls cannot be installed, as on Python 3.14."""
    monkeypatch.setitem(dicom_codestreams.DECODERS, JPEGLSLossless, "gdcm")
    test_lossless_encodings_are_exact(JPEGLSLossless, kind, tmp_path)


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
    monkeypatch.setattr("pipeline.scans.dicom._STEP", 1 << 14)
    for rows, said in ((1000, "declares 1,100,000 pixels"), (7, "more than")):
        dataset = dicom(np.zeros((1000, 1100), np.uint8), sop_class=SECONDARY_CAPTURE, modality="OT", Rows=rows)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        assert saved(dataset, tmp_path / "bomb").stat().st_size < 10_000
        with pytest.raises(ScanError, match=said) as caught:
            open_scan(tmp_path / "bomb", max_pixels=1_000_000)
        assert caught.value.code == "too_large"


def test_a_deflated_file_of_the_size_it_declares_is_read_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scans.dicom._STEP", 1 << 14)
    grey = ramp(300, 401, "uint16", 3)
    dataset = dicom(grey)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    saved(dataset, tmp_path / "a")
    assert np.array_equal(open_scan(tmp_path / "a").pixels[0], grey)


def test_streams_say_their_own_size() -> None:
    assert codestream_of(jpeg(photograph(40, 53))) == (40, 53, 8)
    dataset = dicom(ramp(40, 53, "uint16", 30))
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        packed = dicom(ramp(40, 53, "uint16", 30))
        compress(packed, syntax)
        assert codestream_of(next(generate_frames(packed.PixelData, number_of_frames=1))) == (40, 53, 16)
    assert codestream_of(bytes(dataset.PixelData)) is None
    assert codestream_of(b"\xff\xd8") is None


def bare(stream: bytes, ids: bytes | None = None) -> bytes:
    """A JPEG stream without its application markers, its three components renamed where ``ids`` are given."""
    out, at = bytearray(b"\xff\xd8"), 2
    while True:
        marker, size = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = bytearray(stream[at : at + 2 + size])
        if ids is not None and marker == 0xC0:
            segment[10::3] = ids
        if ids is not None and marker == 0xDA:
            segment[5:11:2] = ids
        if not 0xE0 <= marker <= 0xEF:
            out += segment
        at += 2 + size
        if marker == 0xDA:
            return bytes(out + stream[at:])


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize(
    ("options", "ids", "marked"),
    [
        ({"subsampling": 2}, None, False),  # subsampled: colour differences, whatever the header states
        ({"subsampling": 2}, b"RGB", False),
        ({"subsampling": 0}, None, True),  # JFIF
        ({"subsampling": 0, "keep_rgb": True}, None, True),  # Adobe
        ({"subsampling": 0, "keep_rgb": True}, None, False),  # components called R, G and B
    ],
)
def test_the_stream_itself_says_its_colours(tmp_path: Path, stated: str, options: dict[str, Any], ids: bytes | None, marked: bool) -> None:
    colour = photograph(48, 64)
    stream = jpeg(colour, quality=97, **options)
    result = seen(encapsulated(dicom(colour, photometric=stated), JPEGBaseline8Bit, [stream if marked else bare(stream, ids)]), tmp_path)
    assert np.abs(result.astype(int) - colour.transpose(2, 0, 1)).max() < 12


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL"])
def test_where_the_stream_says_nothing_of_its_colours_the_header_does(tmp_path: Path, stated: str) -> None:
    colour = photograph(48, 64)
    stream = bare(jpeg(colour, quality=97, subsampling=0, keep_rgb=stated == "RGB"), bytes((1, 2, 3)))
    result = seen(encapsulated(dicom(colour, photometric=stated), JPEGBaseline8Bit, [stream]), tmp_path)
    assert np.abs(result.astype(int) - colour.transpose(2, 0, 1)).max() < 12


def test_colours_of_another_number_than_stated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="numbers of colours"):
        seen(encapsulated(dicom(photograph(40, 53)[..., 0]), JPEGBaseline8Bit, [jpeg(photograph(40, 53))]), tmp_path)


def test_a_header_is_completed_or_its_missing_tag_is_named(tmp_path: Path) -> None:
    def read(dataset: Any) -> tuple[np.ndarray, str]:
        scan = open_scan(saved(dataset, tmp_path / "a"))
        return scan.pixels, "; ".join(scan.warnings)

    grey, colour = ramp(ROWS, COLUMNS), photograph(ROWS, COLUMNS)
    for missing, said in (({"SamplesPerPixel": None}, ""), ({"BitsStored": None}, ""), ({"BitsStored": None, "HighBit": None}, "")):
        assert read(dicom(grey, **missing))[1] == said
        assert np.array_equal(read(dicom(grey, **missing))[0][0], grey)
    pixels, said = read(dicom(grey, PixelRepresentation=None))
    assert np.array_equal(pixels[0], grey)
    assert "Pixel Representation (0028,0103)" in said
    for samples in (None, 1):  # a converter's colour picture of "one sample"
        pixels, said = read(dicom(colour, PlanarConfiguration=None, SamplesPerPixel=samples))
        assert np.array_equal(pixels, colour.transpose(2, 0, 1))
        assert "Planar Configuration (0028,0006)" in said
    for keyword, named in (("PhotometricInterpretation", "0028,0004"), ("BitsAllocated", "0028,0100")):
        with pytest.raises(ScanError, match=named):
            read(dicom(grey, **{keyword: None}))
    with pytest.raises(ScanError, match="3 samples"):
        read(dicom(grey, SamplesPerPixel=3, PixelData=3 * grey.tobytes()))


@pytest.mark.parametrize("window", [{"WindowCenter": 9000, "WindowWidth": 50}, {"WindowCenter": -400, "WindowWidth": 3}])
def test_a_window_that_shows_nothing_is_left_out_and_said(tmp_path: Path, window: dict[str, int]) -> None:
    grey = ramp(ROWS, COLUMNS)
    scan = open_scan(saved(dicom(grey, **window), tmp_path / "a"))
    assert np.array_equal(scan.pixels[0], grey)
    assert "window" in scan.warnings[0]
    blank = open_scan(saved(dicom(grey * 0, **window), tmp_path / "b"))
    assert blank.warnings == ("the image has one value everywhere",)


def test_a_photograph_in_the_class_of_volumes_is_a_photograph(tmp_path: Path) -> None:
    device = sequence(item(CodeValue="392012008", CodingSchemeDesignator="SCT", CodeMeaning="OCT scanner"))
    for pixels in (ramp(ROWS, COLUMNS), photograph(ROWS, COLUMNS)):
        made = dicom(pixels, sop_class=OPT, modality="OP", AcquisitionDeviceTypeCodeSequence=device)
        assert open_scan(saved(made, tmp_path / "a")).modality == "fundus"
    volume = np.stack([ramp(ROWS, COLUMNS)] * 2)
    assert open_scan(saved(dicom(volume, sop_class=OPT, modality="OP"), tmp_path / "v")).modality == "oct"
    assert open_scan(saved(dicom(ramp(ROWS, COLUMNS), sop_class=OPT, modality="OPT"), tmp_path / "b")).modality == "oct"


@pytest.mark.parametrize("colour", [True, False])
def test_a_damaged_jpeg_stream_is_no_result(tmp_path: Path, colour: bool, capfd: pytest.CaptureFixture[str]) -> None:
    noisy = np.random.default_rng(5).integers(0, 255, (160, 212, 3), np.uint8)
    noisy = noisy if colour else np.ascontiguousarray(noisy[..., 0])
    stream = bytearray(jpeg(noisy, quality=90))
    half = len(stream) // 2
    stream[half : half + 4096] = bytes(4096)
    with pytest.raises(ScanError, match="made up") as caught:
        seen(encapsulated(dicom(noisy), JPEGBaseline8Bit, [bytes(stream)]), tmp_path)
    assert caught.value.code == "malformed"
    assert capfd.readouterr() == ("", "")


def test_scrambled_pixels_are_called_so(tmp_path: Path) -> None:
    grey = ramp(40, 53)
    packed = io.BytesIO()
    Image.fromarray(grey).save(packed, "JPEG2000")
    for scrambled, tags in ((bytes(b ^ 0x5A for b in packed.getvalue()), {}), (b"\x11" * 400, {"Manufacturer": "Carl Zeiss Meditec"})):
        with pytest.raises(ScanError, match="scrambled") as caught:
            seen(encapsulated(dicom(grey, sop_class=OPT, modality="OPT", **tags), JPEG2000Lossless, [scrambled]), tmp_path)
        assert caught.value.code == "unsupported"
        assert "does not help" in str(caught.value)


def test_run_lengths_that_do_not_end_with_the_picture_are_damage(tmp_path: Path) -> None:
    grey = np.random.default_rng(6).integers(0, 9, (60, 71)).astype(np.uint8)
    dataset = dicom(grey)
    compress(dataset, RLELossless)
    content = saved(dataset, tmp_path / "a").read_bytes()
    assert np.array_equal(open_scan(tmp_path / "a").pixels[0], grey)
    for at in (0.6, 0.8):
        start = int(len(content) * at)
        (tmp_path / "b").write_bytes(content[:start] + bytes(range(100, 140)) + content[start + 40 :])
        with pytest.raises(ScanError) as caught:
            open_scan(tmp_path / "b")
        assert caught.value.code in ("malformed", "truncated")

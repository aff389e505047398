"""Pictures and volumes lose their words and nothing else: pixels, which way up they are, and where they lie stay."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFont, PngImagePlugin

from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.file import clean_file
from pipeline.deidentify.streams import plain_jpeg, plain_jpeg2000
from pipeline.deidentify.volumes import laser_picture
from pipeline.errors import ScanError
from pipeline.scans.open import open_scan
from pipeline.scans.png import chunk
from pipeline.scans.vendor import read_surfaces
from tests.deidentify.test_dicom import NAMES, WHO, job
from tests.scans.make import photograph
from tests.scans.test_heyex import E2E, powers, xml_export
from tests.scans.test_vendor import volume as spectralis


def cleaned(path: Path, *options: str) -> Cleaned:
    """The cleaned file, of which nothing names anybody, and which reads as the same pixels."""
    out, _ = clean_file(path, job(path.parent, *options))
    content = gzip.decompress(out.content) if out.suffix.endswith(".gz") else out.content
    assert WHO.encode() not in content
    again = path.parent / f"again{out.suffix}"
    again.write_bytes(out.content)
    np.testing.assert_array_equal(open_scan(again).pixels, open_scan(path).pixels)
    return out


def exif(orientation: int) -> Image.Exif:
    out = Image.Exif()
    out[0x0112], out[0x010E] = orientation, WHO
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_no_picture_turns_or_is_mirrored(tmp_path: Path, kind: str, orientation: int) -> None:
    said: dict[str, Any] = {"exif": exif(orientation)}
    if kind == "TIFF":
        said = {"tiffinfo": {274: orientation, 270: WHO, 315: WHO}}
    path = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(photograph(20, 30)).save(path, kind, **said)
    cleaned(path)


def test_a_jpeg_is_not_compressed_again(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path, plain = tmp_path / "a.jpg", io.BytesIO()
    options: dict[str, Any] = {"quality": 80, "progressive": True, "icc_profile": profile}
    Image.fromarray(photograph(40, 60)).save(path, "JPEG", comment=WHO, exif=exif(1), **options)
    Image.fromarray(photograph(40, 60)).save(plain, "JPEG", **options)
    path.write_bytes(path.read_bytes() + WHO.encode())
    out = cleaned(path)
    assert out.content[out.content.index(b"\xff\xdb") :] == plain.getvalue()[plain.getvalue().index(b"\xff\xdb") :]
    assert {"comment", "EXIF or XMP", "what follows the picture", "words of the ICC profile"} <= set(out.removed)
    kept = Image.open(io.BytesIO(out.content)).info["icc_profile"]
    assert b"sRGB built-in" not in kept
    ImageCms.buildTransform(io.BytesIO(kept), ImageCms.createProfile("sRGB"), "RGB", "RGB")


def test_a_segment_of_a_jpeg_that_no_decoder_needs_goes() -> None:
    stream = io.BytesIO()
    Image.fromarray(photograph(20, 30)).save(stream, "JPEG")
    for marker, named in ((0xF4, "segment F4"), (0xEB, "APP11")):
        segment = bytes((0xFF, marker, 0, 2 + len(WHO))) + WHO.encode()
        plain, removed = plain_jpeg(stream.getvalue()[:2] + segment + stream.getvalue()[2:])
        assert (plain, removed) == (plain_jpeg(stream.getvalue())[0], (named,))


def test_a_second_picture_behind_a_jpeg_2000_goes() -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(40, 60)).save(file, "JPEG2000", tile_size=(32, 32), no_jp2=True)
    stream = file.getvalue()
    for tiles in (stream, _open_ended(stream)):
        assert plain_jpeg2000(tiles)[0].endswith(tiles[tiles.index(b"\xff\x90") :])
        plain, removed = plain_jpeg2000(tiles + WHO.encode() + stream)
        assert (plain, "what follows the picture" in removed) == (plain_jpeg2000(tiles)[0], True)


def test_a_comment_between_the_tiles_of_a_jpeg_2000_goes_and_so_does_what_no_decoder_knows() -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(40, 60)).save(file, "JPEG2000", tile_size=(32, 32), no_jp2=True)
    stream = file.getvalue()
    comment = b"\xff\x64" + (4 + len(WHO)).to_bytes(2, "big") + b"\0\1" + WHO.encode()
    for tiles in (stream, _open_ended(stream)):
        first, last = tiles.index(b"\xff\x90"), tiles.rindex(b"\xff\x90\x00\x0a")
        length = int.from_bytes(tiles[last + 6 : last + 10], "big")
        spoken = (
            tiles[:last] + tiles[last : last + 6] + (length and length + len(comment)).to_bytes(4, "big") + tiles[last + 10 : last + 12]
        )
        spoken += comment + tiles[last + 12 :]
        said_lengths = b"\xff\x55\0\4\0\0"  # of tile-parts, which the comment makes wrong
        assert plain_jpeg2000(spoken[:first] + said_lengths + spoken[first:]) == (
            plain_jpeg2000(tiles)[0],
            ("comment or unknown segment",),
        )
        unknown = b"\xff\x6b" + (2 + len(WHO)).to_bytes(2, "big") + WHO.encode()
        assert plain_jpeg2000(tiles[:first] + unknown + tiles[first:])[0] == plain_jpeg2000(tiles)[0]
    with pytest.raises(ScanError, match="malformed"):
        plain_jpeg2000(stream[:-20] + stream[-2:])


def _open_ended(stream: bytes) -> bytes:
    """The same with a last tile-part that does not state its length."""
    last = stream.rindex(b"\xff\x90\x00\x0a")
    return stream[: last + 6] + bytes(4) + stream[last + 10 :]


def test_a_png_keeps_its_coded_pixels_and_no_text(tmp_path: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Author", WHO)
    said.add_text("Comment", WHO, zip=True)
    said.add_itxt("XML:com.adobe.xmp", WHO)
    path = tmp_path / "a.png"
    Image.fromarray(photograph(20, 30)).save(path, pnginfo=said, dpi=(72, 72))
    before = path.read_bytes()
    path.write_bytes(before + WHO.encode())
    out = cleaned(path)
    assert before[before.index(b"IDAT") : before.index(b"IEND")] in out.content
    assert b"pHYs" in out.content
    assert not out.notes
    # behind the picture's last line, within its compressed stream, no chunk shows it
    lines = zlib.decompress(before[before.index(b"IDAT") + 4 : before.index(b"IEND") - 8])
    stuffed = chunk(b"IDAT", zlib.compress(lines + 50 * WHO.encode()))
    path.write_bytes(before[:33] + stuffed + chunk(b"IEND", b""))
    out = cleaned(path)
    assert out.notes == ("compressed anew: there were data behind its pixels",)
    start = out.content.index(b"IDAT")
    assert WHO.encode() not in zlib.decompress(out.content[start + 4 :].partition(b"IEND")[0][:-8])


def test_bmp_stays_bmp_and_other_pictures_say_what_they_became(tmp_path: Path) -> None:
    for kind, suffix in (("BMP", ".bmp"), ("GIF", ".png"), ("PPM", ".png"), ("JPEG2000", ".png")):
        path = tmp_path / f"a.{kind.lower()}"
        Image.fromarray(photograph(20, 30)).save(path, kind)
        path.write_bytes(path.read_bytes() + WHO.encode())
        out = cleaned(path)
        assert out.suffix == suffix
        assert bool(out.notes) == (suffix == ".png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_text_that_shows_on_another_ground_alone_goes(tmp_path: Path, mode: str) -> None:
    """Black letters on a transparent margin: black on black, where text is looked for, and there for whoever lays it on white."""
    picture = Image.fromarray(np.pad(photograph(40, 60), ((20, 0), (0, 0), (0, 0))))
    seen = np.full((60, 60), 255, np.uint8)
    seen[:20] = np.asarray(writing((40, 80)))[20:40, 20:80]
    picture.putalpha(Image.fromarray(seen))
    picture.convert(mode).save(tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))[:20, :, 3].any()
    out = cleaned(tmp_path / "a.png")
    assert out.notes == ("compressed anew: as it looks on black, without transparency",)
    assert Image.open(io.BytesIO(out.content)).mode in ("L", "RGB")
    assert b"tRNS" not in out.content


def test_an_animated_png_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(photograph(20, 30) // n) for n in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ScanError, match="animated"):
        cleaned(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_keeps_its_geometry(tmp_path: Path, kind: Any, name: str) -> None:
    affine = np.diag([0.01, 0.02, 0.3, 1.0])
    image = kind(np.arange(3 * 8 * 10, dtype=np.int16).reshape(10, 8, 3), affine)
    for field in ("descrip", "aux_file", "intent_name", *(("db_name",) if kind is nibabel.Nifti1Image else ())):
        image.header[field] = WHO.encode()
    image.header["dim"][5:], image.header["pixdim"][4:] = 4711, 19540302
    image.header["intent_p1"] = 4711
    image.header["qform_code"], image.header["qoffset_x"] = 0, 4711
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, WHO.encode()))
    nibabel.save(image, tmp_path / name)
    if name == "a.nii":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + WHO.encode())
    before = open_scan(tmp_path / name).geometry
    out = cleaned(tmp_path / name)
    assert {"descriptions", "extensions", "numbers that mean nothing"} <= set(out.removed)
    head = nibabel.load(tmp_path / f"again{out.suffix}").header
    assert (list(head["dim"][5:]), list(head["pixdim"][4:]), head["intent_p1"], head["qoffset_x"]) == ([1] * 3, [1] * 4, 0, 0)
    np.testing.assert_array_equal(open_scan(tmp_path / f"again{out.suffix}").geometry.affine, before.affine)


def test_a_vol_file_keeps_lines_scales_and_eye(tmp_path: Path) -> None:
    device = spectralis()
    device.patient = WHO.encode()
    path = device.save(tmp_path / "a.vol")
    data = bytearray(path.read_bytes())
    data[258 : 258 + len(WHO)] = WHO.encode()  # the spare bytes of the header
    path.write_bytes(bytes(data) + WHO.encode())
    out = cleaned(path, "retain-longitudinal-modified")
    before, after = open_scan(path), open_scan(tmp_path / "again.vol", pseudonyms=NAMES)
    assert (after.geometry.spacing_mm, after.geometry.laterality) == (before.geometry.spacing_mm, before.geometry.laterality)
    for name, line in read_surfaces(path).items():
        np.testing.assert_array_equal(read_surfaces(tmp_path / "again.vol")[name], line)
    (visit,) = struct.unpack_from("<d", out.content, 200)
    assert visit == 36526 + NAMES.shift(NAMES.patient(WHO))
    assert struct.unpack_from("<d", out.content, 164) == (0.0,)


@pytest.mark.parametrize("where", ["b-scan", "laser"])
def test_text_in_any_picture_of_a_vol_file_is_found_and_blackened(tmp_path: Path, where: str) -> None:
    device = spectralis(2, 60, 220)
    device.stored *= 0
    said = np.asarray(writing((60, 220)))
    device.slo = (220, 60)
    data = bytearray(device.bytes())
    data[2048 : 2048 + said.size] = (said if where == "laser" else 0 * said).tobytes()
    if where == "b-scan":
        data[-len(b"thickness grid") - 4 * said.size : -len(b"thickness grid")] = (said / 255).astype("<f4").tobytes()
    path = tmp_path / "a.vol"
    path.write_bytes(data)
    with pytest.raises(ScanError, match="burned into"):
        clean_file(path, replace(job(tmp_path), burned_in="refuse"))
    out, _ = clean_file(path, replace(job(tmp_path), burned_in="black"))
    path.write_bytes(out.content)
    assert ("frame 2: " if where == "b-scan" else "the scanning laser's picture: ") in out.notes[0]
    with path.open("rb") as file:
        assert max(open_scan(path).pixels.max(), laser_picture(file, 100_000).max()) < 60


def test_a_vol_file_without_the_laser_s_picture_is_cleaned(tmp_path: Path) -> None:
    device = spectralis()
    device.slo = (0, 0)
    cleaned(device.save(tmp_path / "a.vol"))


def writing(shape: tuple[int, int]) -> Image.Image:
    image = Image.new("L", shape[::-1])
    ImageDraw.Draw(image).text((20, 20), "MEIER-4711 F", fill=255, font=ImageFont.load_default(20))
    return image


def test_heyex_exports_become_nifti(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    for path in (E2E(powers()).save(tmp_path / "a.e2e"), xml_export(tmp_path / "xml")):
        out = cleaned(path)
        assert out.suffix == ".nii.gz"
        assert {"the lines that the device drew are left out", "written as NIfTI, with the same voxels"} <= set(out.notes)
        before, after = (open_scan(one).geometry for one in (path, path.parent / "again.nii.gz"))
        assert after.spacing_mm == pytest.approx(before.spacing_mm)


def test_vendors_files_that_are_not_cleaned_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.fda").write_bytes(b"FOCT" + bytes(2000))
    with pytest.raises(ScanError, match=r"\.fda .*are not cleaned") as caught:
        clean_file(tmp_path / "a.fda", job(tmp_path))
    assert caught.value.code == "unsupported"


def test_a_metaimage_becomes_nifti(tmp_path: Path) -> None:
    head = (
        f"ObjectType = Image\nNDims = 3\nDimSize = 10 8 3\nElementSpacing = 0.01 0.02 0.3\nPatientName = {WHO}\nElementType = MET_UCHAR\n"
    )
    voxels = np.arange(240, dtype=np.uint8).tobytes()
    (tmp_path / "a.mha").write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + voxels)
    out = cleaned(tmp_path / "a.mha")
    assert (out.suffix, len(out.notes)) == (".nii.gz", 1)

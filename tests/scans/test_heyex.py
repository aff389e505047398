"""Heidelberg .e2e and .xml exports, written here by the formats that eyepy describes: no file of an instrument is among them."""

from __future__ import annotations

import datetime
import random
import struct
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.folder import scan_files
from pipeline.scans.heyex_e2e import read_e2e_surfaces
from pipeline.scans.heyex_xml import read_xml_surfaces
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Listing
from pipeline.scans.open import case_by_tags, content_sha256, open_scan
from pipeline.scans.raster import write_png
from pipeline.scans.record import Opened
from pipeline.scans.walk import walk
from pipeline.scans.wire import pack, unpack
from tests.scans.test_vendor import LARGEST, refusal
from tests.scans.test_vendor import volume as spectralis

NAMES = Pseudonyms(b"a key of sixteen")
PATIENT, EYE, META, TIME, LINE, IMAGE = 9, 11, 10004, 10005, 10019, 1073741824
AT = (datetime.datetime(2000, 1, 1, 18) - datetime.datetime(1601, 1, 1)) // datetime.timedelta(microseconds=1) * 10


def stored(reflectivity: float) -> int:
    """As the float of six bits exponent and ten bits mantissa of an .e2e file."""
    mantissa, exponent = np.frexp(np.float64(reflectivity))
    return (int(exponent) - 1 + 63) << 10 | int((2 * float(mantissa) - 1) * 1024)


@dataclass
class E2E:
    """An .e2e file: its directory is one chunk; ``grey`` (B-scans, rows, columns) in powers of two that are stored exactly."""

    powers: npt.NDArray[np.int64]
    eye: int = ord("L")
    lines: Mapping[int, float] = field(default_factory=lambda: {0: 1.0, 1: 4.0})
    series: tuple[int, ...] = (5,)
    pattern: int = 3
    padding: int = 0
    """Of the empty folder that fills the directory up: how large it says that it is."""

    def folders(self) -> list[tuple[tuple[int, int, int, int, int, int], bytes]]:
        """((patient, study, series, slice, ind, type), data)"""
        patient = struct.pack("<31s66sI1s25s", b"Nobody", b"MEIER", 0, b"F", b"MEIER-4711")
        out = [((1, -1, -1, -1, 0, PATIENT), patient)]
        slices, rows, columns = self.powers.shape
        for series in self.series:
            out.append(((1, 2, series, -1, 0, EYE), struct.pack("<14sB12s", b"", self.eye, b"")))
            out.append(((1, 2, series, -1, 0, TIME), struct.pack("<16sQ", b"", AT)))
            slo = struct.pack("<5I", 6, 33620481, 6, 2, 3) + b"\x50" * 6
            out.append(((1, 2, series, -1, 0, IMAGE), slo))
            for index in reversed(range(slices)):  # the order is that of the slices, not of the file
                where = (1, 2, series, 2 * index)
                out.append(((*where, 0, META), self.meta(index)))
                values = np.array([stored(2.0**power) if power < 1 else 0xFFFF for power in self.powers[index].ravel()], "<u2")
                head = struct.pack("<5I", 2 * values.size, 35652097, values.size, rows, columns)
                out.append(((*where, 1, IMAGE), head + values.tobytes()))
                for number, depth in self.lines.items():
                    line = np.full(columns, depth, "<f4")
                    line[0] = LARGEST
                    out.append(((*where, 1, LINE), struct.pack("<5I", 0, number, 0, columns, 0) + line.tobytes()))
        return out

    def meta(self, index: int) -> bytes:
        slices, rows, columns = self.powers.shape
        head = struct.pack("<3I4fIfffI2fI", 0, rows, columns, -5.0, index, 5.0, index, 0, 0.0, 0.00390625, 0.0, 0, 0.0, 0.0, 0)
        head += struct.pack("<4I2fIQI", columns, slices, index, self.pattern, 0.0, index, 0, AT, 9)
        return head.ljust(428, b"\0")

    def bytes(self) -> bytes:
        folders = self.folders()
        start = 36 + 52 + 52 + 44 * (len(folders) + 1)
        heads, data = b"", b""
        for (*ids, ind, kind), content in folders:
            at = start + len(data)
            heads += struct.pack("<4I4iHHII", 140 + len(heads), at, len(content), 0, *ids, ind, 0, kind, 0)
            data += struct.pack("<12s5I4iHHII", b"MDbData", 0, 0, at, len(content), 0, *ids, ind, 0, kind, 0) + content
        heads += struct.pack("<4I4iHHII", 0, 0, self.padding, 0, -1, -1, -1, -1, 0, 0, 0, 0)
        version = struct.pack("<12sI20s", b"CMDb", 100, b"")
        chunk = struct.pack("<12sI20s4I", b"MDbDir", 100, b"", len(folders) + 1, 88, 0, 0)
        return version + struct.pack("<12sI20s4I", b"MDbMDir", 100, b"", len(folders), 88, 88, 0) + chunk + heads + data

    def save(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path


def powers(slices: int = 3, rows: int = 6, columns: int = 11) -> npt.NDArray[np.int64]:
    out = -(np.arange(slices * rows * columns).reshape(slices, rows, columns) % 24)
    out[..., -1] = 1  # nothing is stored there
    return out


def test_an_e2e_file_is_read_like_a_vol_file(tmp_path: Path) -> None:
    made = E2E(powers())
    path = made.save(tmp_path / "named.png")
    scan = open_scan(path, pseudonyms=NAMES)
    expected = np.where(made.powers < 1, np.rint(255 * 2.0 ** (np.minimum(made.powers, 0) / 4)), 0)
    np.testing.assert_array_equal(scan.pixels[0], expected)
    assert (scan.modality, scan.pattern, scan.slices_run, scan.warnings) == ("oct", "raster", "unknown", ())
    assert scan.geometry.spacing_mm == (None, 0.00390625, None)  # degrees are no millimetres
    assert (scan.geometry.spacing_source, scan.geometry.laterality, scan.geometry.laterality_source) == ("tag", "L", "tag")
    vol = open_scan(spectralis().save(tmp_path / "same.vol"), pseudonyms=NAMES)
    assert (scan.case.patient, scan.case.visit, scan.day) == (vol.case.patient, vol.case.visit, vol.day)
    assert case_by_tags(path, pseudonyms=NAMES) == scan.case
    assert "MEIER" not in repr(scan.case)
    surfaces = read_e2e_surfaces(path, 1_000_000)
    assert list(surfaces) == ["ILM", "BM"]
    again = unpack(*pack(Opened(scan=scan)), path).scan
    assert again is not None
    np.testing.assert_array_equal(again.lines["BM"], surfaces["BM"])
    assert np.isnan(surfaces["BM"][:, 0]).all()
    assert (surfaces["BM"][:, 1:] == 4).all()


def test_a_single_b_scan_and_a_second_volume(tmp_path: Path) -> None:
    single = open_scan(E2E(powers(1), eye=0, series=(9, 5), pattern=2).save(tmp_path / "x_OD.e2e"), pseudonyms=NAMES)
    assert single.pixels.shape == (1, 6, 11)
    assert single.geometry.spacing_mm == (0.00390625, None)
    assert (single.geometry.laterality, single.geometry.laterality_source, single.pattern) == ("R", "filename", "unknown")
    assert single.warnings == ("the file holds 2 OCT volumes, and only the first is read; export each as a file of its own",)


def test_an_e2e_file_that_is_cut_or_too_large(tmp_path: Path) -> None:
    content = E2E(powers()).bytes()
    for length in (40, 300, 1500, len(content) - 1):
        (tmp_path / "a").write_bytes(content[:length])
        assert refusal(tmp_path / "a").code == "truncated"
    (tmp_path / "a").write_bytes(content)
    assert refusal(tmp_path / "a", max_pixels=197).code == "too_large"


def test_a_directory_that_leads_back_to_itself_ends(tmp_path: Path) -> None:
    path = E2E(powers(), padding=88 - 60).save(tmp_path / "a.e2e")
    assert open_scan(path).geometry.shape == (3, 6, 11)


def test_whatever_is_changed_in_an_e2e_file_it_is_read_or_refused(tmp_path: Path) -> None:
    content, chance = E2E(powers(2)).bytes(), random.Random(0)
    for _ in range(40):
        hostile = bytearray(content)
        for _ in range(chance.randrange(1, 9)):
            hostile[chance.randrange(36, 1400)] = chance.choice((0, 1, 2, 127, 255))
        (tmp_path / "a").write_bytes(hostile)
        with suppress(ScanError):
            assert open_scan(tmp_path / "a", max_pixels=100_000).modality == "oct"


XML = """<?xml version="1.0" encoding="UTF-8"?>
<HEDX><BODY><SWVersion><Version>1.9</Version></SWVersion><Patient><ID>1</ID><LastName>MEIER</LastName><PatientID>MEIER-4711</PatientID>
<Study><ID>2</ID><StudyDate><Date><Year>2000</Year><Month>1</Month><Day>1</Day></Date></StudyDate>
<Series><ID>3</ID><Laterality>L</Laterality>
<Image><ImageType><Type>LOCALIZER</Type></ImageType><ImageData><ExamURL>E:\\x\\slo.png</ExamURL></ImageData></Image>
{images}</Series></Study></Patient></BODY></HEDX>"""
IMAGE_XML = """<Image><ImageType><Type>OCT</Type></ImageType><OphthalmicAcquisitionContext><Width>11</Width><Height>6</Height>
<ScaleX>0.0125</ScaleX><ScaleY>0.00390625</ScaleY><Start><Coord><X>0</X><Y>{y}</Y></Coord></Start>
<End><Coord><X>2</X><Y>{y}</Y></Coord></End></OphthalmicAcquisitionContext>
<Segmentation><SegLine><Name>ILM</Name><Array>{line}</Array></SegLine></Segmentation>
<ImageData><ExamURL>{url}</ExamURL></ImageData></Image>"""


def xml_export(folder: Path, heights: tuple[float, ...] = (1.0, 0.75, 0.5), url: str = "E:\\x\\b{n}.png") -> Path:
    """An export whose B-scans begin at these heights of the scanning laser picture; lines 1 px deep, unknown in the first column."""
    images = ""
    for number, y in enumerate(heights):
        write_png(folder / f"b{number}.png", np.arange(66, dtype=np.uint8).reshape(6, 11) + np.uint8(number))
        images += IMAGE_XML.format(y=y, url=url.format(n=number), line="3.0e+38 " + "1.0 " * 10)
    path = folder / "export.xml"
    path.write_text(XML.format(images=images))
    return path


def test_an_xml_export_is_read_with_its_pictures(tmp_path: Path) -> None:
    path = xml_export(tmp_path)
    scan = open_scan(path, pseudonyms=NAMES)
    np.testing.assert_array_equal(scan.pixels[0], np.arange(66).reshape(6, 11) + np.arange(3)[:, None, None])
    assert scan.geometry.spacing_mm == (0.25, 0.00390625, 0.0125)
    assert (scan.modality, scan.pattern, scan.slices_run, scan.geometry.laterality) == ("oct", "raster", "up", "L")
    vol = open_scan(spectralis().save(tmp_path / "same.vol"), pseudonyms=NAMES)
    assert (scan.case.patient, scan.case.visit) == (vol.case.patient, vol.case.visit)
    assert case_by_tags(path, pseudonyms=NAMES) == scan.case
    assert scan.sha256 == content_sha256(path)
    write_png(tmp_path / "b1.png", np.zeros((6, 11), np.uint8))
    assert scan.sha256 != content_sha256(path)
    surfaces = read_xml_surfaces(path)
    assert np.isnan(surfaces["ILM"][:, 0]).all()
    np.testing.assert_array_equal(scan.lines["ILM"], surfaces["ILM"])
    assert (surfaces["ILM"][:, 1:] == 1).all()


def test_the_pictures_of_an_xml_export_are_listed_once(tmp_path: Path) -> None:
    xml_export(tmp_path)
    for name in ("slo.png", "other.png"):
        write_png(tmp_path / name, np.eye(20, dtype=np.uint8) * 255)
    (tmp_path / "note.xml").write_text("<note>b.png</note>")
    found = {path.name: problem and (problem.code, "the Heidelberg .xml file" in str(problem)) for path, problem in walk(tmp_path)}
    theirs = dict.fromkeys(("b0.png", "b1.png", "b2.png"), ("in_export", True))
    assert found == theirs | dict.fromkeys(("export.xml", "note.xml", "other.png", "slo.png"))
    with closing(Listing(tmp_path, tmp_path, NAMES)) as listing:
        records = {file.path.name: record.status for file, record in scan_files(listing, tmp_path, pseudonyms=NAMES, workers=0)}
    assert [records[name] for name in ("export.xml", "b0.png", "slo.png")] == ["read", "not_an_image", "read"]
    named = [tmp_path / name for name in ("b1.png", "slo.png", "export.xml")]  # by --input-list, as in the whole folder
    with closing(Listing(tmp_path, tmp_path, NAMES, chosen=named)) as listing:
        assert {file.path.name: file.problem and file.problem.code for file in listing} == {
            "b1.png": "in_export",
            "export.xml": None,
            "slo.png": None,
        }


def test_uneven_distances_stay_unknown(tmp_path: Path) -> None:
    assert open_scan(xml_export(tmp_path, (1.0, 0.75, 0.1)), pseudonyms=NAMES).geometry.spacing_mm == (None, 0.00390625, 0.0125)
    assert open_scan(xml_export(tmp_path, (1.0,)), pseudonyms=NAMES).geometry.spacing_mm == (0.00390625, 0.0125)


def test_an_xml_export_cannot_lead_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_png(tmp_path / "b0.png", np.zeros((6, 11), np.uint8))
    path = xml_export(folder, url="../b{n}.png")
    assert open_scan(path, pseudonyms=NAMES).pixels[0, 0, 0, 1] == 1  # the one beside it, not the one above
    (folder / "b1.png").unlink()
    assert "does not lie beside it" in str(refusal(path))
    (folder / "b1.png").symlink_to(tmp_path / "b0.png")
    assert refusal(path).code == "unreadable"
    whole = xml_export(folder).read_text()
    path.write_text(whole.replace("<HEDX>", '<!DOCTYPE x [<!ENTITY a "MEIER">]><HEDX>'))
    assert refusal(path).code == "malformed"
    path.write_text(whole[:900])
    assert refusal(path).code == "malformed"
    path.write_text(whole.replace("<Height>6<", "<Height>7<"))
    assert refusal(path).code == "malformed"
    path.write_text(whole)
    assert refusal(path, max_pixels=197).code == "too_large"

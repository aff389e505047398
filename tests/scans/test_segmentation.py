"""DICOM segmentations: what highdicom writes is read back pixel by pixel, and what belongs to another image is not taken."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from pipeline.errors import ScanError
from pipeline.scans.open import open_scan
from pipeline.scans.segmentation import LABEL_MAP, SEGMENTATION, read_segmentation, segment_labels
from pipeline.types import Geometry, NiftiFrame
from tests.scans.make import dicom, item, saved, sequence

ROWS, COLUMNS = 20, 36


def described(*labels: str) -> Any:
    """One highdicom segment description a label."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Eye,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(labels, 1)
    ]


def written(sources: list[Dataset], pixels: np.ndarray, path: Path, *labels: str, **options: Any) -> Path:
    import highdicom as hd

    made = hd.seg.Segmentation(sources, pixels, "BINARY", described(*labels), hd.UID(), 1, hd.UID(), 1, "none", "none", "0", "0", **options)
    made.save_as(path)
    made._db_con.close()  # highdicom leaves its table of frames to the garbage collector, of which Python 3.13 warns
    return path


def bits(frames: np.ndarray, places: list[tuple[int, str | None, int | None]], labels: tuple[str, ...] = ("disc", "cup")) -> Dataset:
    """A binary segmentation made by hand: of each frame its segment, and the image and frame that it refers to (None: says nothing)."""
    out = dicom(np.packbits(frames.astype(bool).reshape(-1), bitorder="little")[None], sop_class=SEGMENTATION, modality="SEG")
    out.NumberOfFrames, out.Rows, out.Columns = frames.shape
    out.BitsAllocated = out.BitsStored = 1
    out.HighBit = 0
    out.SegmentationType = "BINARY"
    out.SegmentSequence = sequence(*(item(SegmentNumber=n, SegmentLabel=label) for n, label in enumerate(labels, 1)))
    groups = []
    for number, uid, frame in places:
        group = item(SegmentIdentificationSequence=sequence(item(ReferencedSegmentNumber=number)))
        if uid is not None:
            source = item(ReferencedSOPInstanceUID=uid)
            if frame is not None:
                source.ReferencedFrameNumber = frame
            group.DerivationImageSequence = sequence(item(SourceImageSequence=sequence(source)))
        groups.append(group)
    out.PerFrameFunctionalGroupsSequence = sequence(*groups)
    return out


@pytest.fixture
def layers() -> np.ndarray:
    """bool (2 segments, rows, columns): a disc with a cup in it."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([(y - 9) ** 2 + (x - 20) ** 2 < 50, (y - 9) ** 2 + (x - 21) ** 2 < 12])


def test_a_segmentation_of_a_photograph_as_highdicom_writes_it(tmp_path: Path, layers: np.ndarray) -> None:
    from pipeline.phantoms.hospital import write_hospital

    write_hospital(tmp_path, 1, 3, fundus_shape=(200, 220), oct_shape=(3, 64, 72), truth=False)
    scans = {file: open_scan(file) for file in sorted((tmp_path / "scans").rglob("*.dcm"))}
    photograph = next(file for file, scan in scans.items() if scan.modality == "fundus" and scan.pixels.shape[0] == 3)
    shape = scans[photograph].geometry.shape
    wanted = np.zeros((2, *shape), dtype=bool)
    wanted[:, 30 : 30 + ROWS, 40 : 40 + COLUMNS] = layers
    source = copy.deepcopy(dcmread(photograph))
    source.NumberOfFrames = 1
    source.SharedFunctionalGroupsSequence = sequence(
        item(PixelMeasuresSequence=sequence(item(PixelSpacing=[0.01, 0.01], SliceThickness=1.0)))
    )
    if "FrameOfReferenceUID" in source:
        del source.FrameOfReferenceUID
    path = written([source], np.moveaxis(wanted, 0, -1)[None].astype(np.uint8), tmp_path / "seg.dcm", "disc", "cup")
    first, second = read_segmentation(path, scans[photograph].geometry, scans[photograph].sop_instance_uid)
    assert (first.number, first.label, second.number, second.label) == (1, "disc", 2, "cup")
    for segment, layer in ((first, wanted[0]), (second, wanted[1])):
        assert list(segment.planes) == [0]
        assert np.array_equal(segment.planes[0], layer)


def test_a_segmentation_of_a_volume_as_highdicom_writes_it(tmp_path: Path) -> None:
    from pipeline.phantoms.hospital import write_hospital

    write_hospital(tmp_path, 1, 3, fundus_shape=(200, 220), oct_shape=(3, 64, 72), truth=False)
    scans = {file: open_scan(file) for file in sorted((tmp_path / "scans").rglob("*.dcm"))}
    volume, scan = next((file, scan) for file, scan in scans.items() if scan.modality == "oct")
    wanted = np.zeros((1, 3, 64, 72), dtype=bool)
    wanted[0, 0, 5:9, 7:20] = wanted[0, 2, 40:50, 60:] = True  # and nothing on the slice between
    path = written([dcmread(volume)], np.moveaxis(wanted, 0, -1).astype(np.uint8), tmp_path / "seg.dcm", "fluid")
    (fluid,) = read_segmentation(path, scan.geometry, scan.sop_instance_uid)
    assert sorted(fluid.planes) == [0, 2]
    assert all(np.array_equal(plane, wanted[0, place]) for place, plane in fluid.planes.items())


def test_frames_find_their_slices_and_images(tmp_path: Path, layers: np.ndarray) -> None:
    frames = np.stack([layers[0], layers[1], layers[0] ^ layers[1], layers[1]])
    places = [(1, "1.2.3", 3), (2, "1.2.3", 3), (1, "1.2.3", 1), (1, "9.9.9", 2)]
    path = saved(bits(frames, places), tmp_path / "seg.dcm")
    disc, cup = read_segmentation(path, Geometry((5, ROWS, COLUMNS)), "1.2.3")
    assert sorted(disc.planes) == [0, 2]
    assert np.array_equal(disc.planes[0], frames[2])
    assert np.array_equal(disc.planes[2], frames[0])
    assert list(cup.planes) == [2]
    # The image may have become a PNG, whose identity nobody knows: then what was drawn on two images is nobody's.
    with pytest.raises(ScanError, match="refers to several images, and this file does not say which of them it is"):
        read_segmentation(path, Geometry((5, ROWS, COLUMNS)))
    anywhere, _ = read_segmentation(saved(bits(frames[:3], places[:3]), tmp_path / "own.dcm"), Geometry((5, ROWS, COLUMNS)))
    assert sorted(anywhere.planes) == [0, 2]


def test_what_a_segmentation_leaves_out_is_empty(tmp_path: Path, layers: np.ndarray) -> None:
    path = saved(bits(layers[:1], [(2, "1.2.3", None)]), tmp_path / "seg.dcm")
    disc, cup = read_segmentation(path, Geometry((ROWS, COLUMNS)), "1.2.3")
    assert disc.planes == {}
    assert np.array_equal(cup.planes[0], layers[0])
    path = saved(bits(layers, [(1, None, None), (2, None, None)]), tmp_path / "free.dcm")
    assert all(list(segment.planes) == [0] for segment in read_segmentation(path, Geometry((ROWS, COLUMNS)), "1.2.3"))


@pytest.mark.parametrize(
    ("shape", "uid", "places", "changes", "said"),
    [
        ((ROWS, COLUMNS), "4.5.6", [(1, "1.2.3", None)], {}, "refers to another image"),
        ((COLUMNS, ROWS), None, [(1, "1.2.3", None)], {}, "is 20 x 36, but the image is 36 x 20"),
        ((3, ROWS, COLUMNS), None, [(1, "1.2.3", None)], {}, "which slice"),
        ((3, ROWS, COLUMNS), None, [(1, None, None)], {}, "which slice"),
        ((3, ROWS, COLUMNS), None, [(1, "1.2.3", 4)], {}, "frame 4 of an image with 3"),
        (
            (ROWS, COLUMNS),
            None,
            [(1, "1.2.3", None)],
            {"SegmentationType": "OTHER"},
            "does not say that it is BINARY, FRACTIONAL or LABELMAP",
        ),
        ((ROWS, COLUMNS), None, [(1, "1.2.3", None)], {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not a DICOM segmentation"),
        ((ROWS, COLUMNS), None, [(7, "1.2.3", None)], {}, "cannot be decoded"),
        ((ROWS, COLUMNS), None, [(1, "1.2.3", None)], {"Rows": 60_000, "Columns": 60_000}, "declares 3,600,000,000 pixels"),
    ],
)
def test_segmentations_that_do_not_fit(
    tmp_path: Path, layers: np.ndarray, shape: tuple[int, ...], uid: str | None, places: Any, changes: dict[str, Any], said: str
) -> None:
    dataset = bits(layers[:1], places)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    with pytest.raises(ScanError, match=said):
        read_segmentation(saved(dataset, tmp_path / "seg.dcm"), Geometry(shape), uid)


def other_type(layers: np.ndarray, kind: str, pixels: np.ndarray, **changes: Any) -> Dataset:
    """The hand-made segmentation of another type, with ``pixels`` uint8 (frames, rows, columns)."""
    out = bits(layers, [(number + 1, "1.2.3", None) for number in range(len(pixels))])
    out.SegmentationType = kind
    out.NumberOfFrames = len(pixels)
    out.BitsAllocated = out.BitsStored = 8
    out.HighBit = 7
    out.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        setattr(out, keyword, value)
    return out


def test_a_fractional_segmentation_is_cut_where_it_is_asked(tmp_path: Path, layers: np.ndarray) -> None:
    pixels = np.where(layers, 100, 40).astype(np.uint8)
    path = saved(other_type(layers, "FRACTIONAL", pixels, MaximumFractionalValue=200), tmp_path / "seg.dcm")
    disc, cup = read_segmentation(path, Geometry((ROWS, COLUMNS)), "1.2.3")
    assert np.array_equal(disc.planes[0], layers[0])
    assert np.array_equal(cup.planes[0], layers[1])
    assert all(segment.planes[0].all() for segment in read_segmentation(path, Geometry((ROWS, COLUMNS)), at_least=0.2))
    assert not any(segment.planes[0].any() for segment in read_segmentation(path, Geometry((ROWS, COLUMNS)), at_least=0.51))


def test_a_label_map_is_read_by_its_values(tmp_path: Path, layers: np.ndarray) -> None:
    pixels = (layers[0].astype(np.uint8) + layers[1])[None]
    made = other_type(layers[:1], "LABELMAP", pixels, SOPClassUID=LABEL_MAP)
    del made.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence
    made.SegmentSequence.insert(0, item(SegmentNumber=0, SegmentLabel="Background"))
    path = saved(made, tmp_path / "seg.dcm")
    ring, cup = read_segmentation(path, Geometry((ROWS, COLUMNS)), "1.2.3")
    assert (ring.label, cup.label) == ("disc", "cup")
    assert np.array_equal(ring.planes[0], layers[0] & ~layers[1])
    assert np.array_equal(cup.planes[0], layers[1])
    assert segment_labels(path) == {1: "disc", 2: "cup"}
    made.SegmentSequence = made.SegmentSequence[:2]
    with pytest.raises(ScanError, match="holds 2, which is no segment of it"):
        read_segmentation(saved(made, tmp_path / "cut.dcm"), Geometry((ROWS, COLUMNS)))


def test_a_file_that_is_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "seg.dcm").write_bytes(b"not at all" * 40)
    with pytest.raises(ScanError):
        read_segmentation(tmp_path / "seg.dcm", Geometry((ROWS, COLUMNS)))


STEP, ROW_MM, COLUMN_MM = 0.12, 0.004, 0.011
CORNER = np.array([4.0, -2.0, 1.0])
AFFINE = np.array([[COLUMN_MM, 0, 0, 4.0], [0, 0, STEP, -2.0], [0, -ROW_MM, 0, 1.0], [0, 0, 0, 1.0]])  # B-scans, rows run down


def planes(frames: np.ndarray, places: list[tuple[Any, list[int]]], uid: str | None = None, numbers: list[int] | None = None) -> Dataset:
    """A segmentation of one segment without references: of each frame its position and orientation."""
    out = bits(frames, [(1, uid, None if numbers is None else numbers[index]) for index in range(len(frames))], ("fluid",))
    out.SharedFunctionalGroupsSequence = sequence(item(PixelMeasuresSequence=sequence(item(PixelSpacing=[ROW_MM, COLUMN_MM]))))
    for group, (position, orientation) in zip(out.PerFrameFunctionalGroupsSequence, places, strict=True):
        group.PlanePositionSequence = sequence(item(ImagePositionPatient=[round(float(v), 6) for v in position]))
        group.PlaneOrientationSequence = sequence(item(ImageOrientationPatient=orientation))
    return out


@pytest.fixture
def volume() -> np.ndarray:
    """bool (5, rows, columns), nothing alike in any two slices or directions."""
    return np.random.default_rng(5).random((5, ROWS, COLUMNS)) < 0.3


def read_volume(path: Path, image: Geometry, uid: str | None = None) -> np.ndarray:
    (fluid,) = read_segmentation(path, image, uid)
    out = np.zeros(image.shape, dtype=bool)
    for index, plane in fluid.planes.items():
        out[index] = plane
    return out


@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_frames_lie_where_their_planes_are(
    flip_rows: bool, flip_columns: bool, transposed: bool, volume: np.ndarray, tmp_path: Path
) -> None:
    image = Geometry(volume.shape, (STEP, ROW_MM, COLUMN_MM), "tag", AFFINE)
    frames, places = [], []
    for index in (3, 0, 4, 2, 1):  # in no order
        frame, across, down, corner = volume[index], np.array([1, 0, 0]), np.array([0, 0, -1]), np.add(CORNER, [0, index * STEP, 0])
        if flip_columns:
            frame, corner, across = frame[:, ::-1], corner + across * COLUMN_MM * (COLUMNS - 1), -across
        if flip_rows:
            frame, corner, down = frame[::-1], corner + down * ROW_MM * (ROWS - 1), -down
        if transposed:
            frame, across, down = frame.T, down, across
        frames.append(frame)
        places.append((corner, [*across.tolist(), *down.tolist()]))
    dataset = planes(np.stack(frames), places)
    if transposed:
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [COLUMN_MM, ROW_MM]
    path = saved(dataset, tmp_path / "seg.dcm")
    assert np.array_equal(read_volume(path, image), volume)
    # The same image as dcm2niix stores it: rows from the bottom up.
    upward = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, ROWS - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert np.array_equal(read_volume(path, Geometry(volume.shape, None, "unknown", upward)), volume[:, ::-1])


def test_frames_across_the_slices_and_parts_of_them(volume: np.ndarray, tmp_path: Path) -> None:
    image = Geometry(volume.shape, (STEP, ROW_MM, COLUMN_MM), "tag", AFFINE)
    part = volume[1, 4:12, 10:30]
    path = saved(planes(part[None], [(np.add(CORNER, [10 * COLUMN_MM, STEP, -4 * ROW_MM]), [1, 0, 0, 0, 0, -1])]), tmp_path / "part.dcm")
    wanted = np.zeros_like(volume)
    wanted[1, 4:12, 10:30] = part
    assert np.array_equal(read_volume(path, image), wanted)
    en_face = planes(volume[:, 7][None], [(CORNER - [0, 0, 7 * ROW_MM], [1, 0, 0, 0, 1, 0])])
    en_face.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [STEP, COLUMN_MM]
    wanted = np.zeros_like(volume)
    wanted[:, 7] = volume[:, 7]
    assert np.array_equal(read_volume(saved(en_face, tmp_path / "en_face.dcm"), image), wanted)


@pytest.mark.parametrize(
    ("shift", "orientation", "numbers", "said"),
    [
        ([0, STEP / 2, 0], [1, 0, 0, 0, 0, -1], None, "does not lie on the image.* apart"),
        ([0, -STEP, 0], [1, 0, 0, 0, 0, -1], None, "does not lie on the image.* apart"),
        ([3 * COLUMN_MM, 0, 0], [1, 0, 0, 0, 0, -1], None, "does not lie on the image.* apart"),
        ([0, 0, 0], [0.866, 0.5, 0, 0, 0, -1], None, "turned by 30 degrees"),
        ([0, 0, 0], [1, 0, 0, 0, 0, -1], [2], "refers to slice 2 of the image, but its position is that of slice 1"),
    ],
)
def test_a_frame_beside_the_image(
    shift: list[float], orientation: list[float], numbers: list[int] | None, said: str, volume: np.ndarray, tmp_path: Path
) -> None:
    image = Geometry(volume.shape, (STEP, ROW_MM, COLUMN_MM), "tag", AFFINE)
    path = saved(planes(volume[:1], [(CORNER + shift, orientation)], numbers and "1.2.3", numbers), tmp_path / "seg.dcm")
    with pytest.raises(ScanError, match=said):
        read_segmentation(path, image, "1.2.3")


def test_a_single_b_scan_takes_no_frame_of_its_neighbour(volume: np.ndarray, tmp_path: Path) -> None:
    alone = AFFINE.copy()
    alone[:3, 2] = (0, 1, 0)  # a picture's normal says nothing of a thickness
    image = Geometry((ROWS, COLUMNS), (ROW_MM, COLUMN_MM), "tag", alone)
    own = saved(planes(volume[:1], [(CORNER, [1, 0, 0, 0, 0, -1])]), tmp_path / "own.dcm")
    assert np.array_equal(read_segmentation(own, image)[0].planes[0], volume[0])
    beside = saved(planes(volume[:1], [(np.add(CORNER, [0, STEP / 2, 0]), [1, 0, 0, 0, 0, -1])]), tmp_path / "beside.dcm")
    with pytest.raises(ScanError, match="does not lie on the image"):
        read_segmentation(beside, image)


def test_a_segmentation_without_positions_over_rows_that_run_up(layers: np.ndarray, tmp_path: Path) -> None:
    path = saved(bits(layers[:1], [(1, "1.2.3", None)]), tmp_path / "seg.dcm")
    srow = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0 - ROWS), (0.0, 0.0, 1.0, 0.0))
    converted = Geometry((ROWS, COLUMNS), nifti=NiftiFrame((1.0, 1.0, 1.0, 1.0), 2, 0, 0, (0.0,) * 6, srow))
    with pytest.raises(ScanError, match="give the DICOM image itself"):
        read_segmentation(path, converted)

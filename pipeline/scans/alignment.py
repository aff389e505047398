"""One array brought onto the grid of another by the affines of both: flips and orders of axes, exactly. Nothing is resampled.

An image without an affine (PNG, TIFF, JPEG, DICOM without positions) lies as ITK, and so ITK-SNAP, 3D Slicer and SimpleITK, place
it: columns run to the patient's left, rows to the back, slices upwards, the first pixel is at the origin; its pixel size is the
label's. nibabel centres an image whose NIfTI header has no codes; a label placed that way is accepted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.types import Geometry

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]
Indices = tuple[int, int, int]

_WITHIN = 0.25
"""Corners may miss their pixels by this fraction of one: rounded decimals and float32 miss them by far less, another grid by more."""


@dataclass(frozen=True)
class GridMap:
    """How a box of pixels lies on an image, in array order (slices, rows, columns).

    ``order``: the box's axis along each axis of the image · ``flipped``: image axes along which it runs backwards · ``start``: where it
    begins, in pixels of the image · ``miss``: the farthest that a corner lies from its pixel's centre, in pixels.
    """

    order: Indices
    flipped: tuple[int, ...]
    start: Indices
    miss: float

    @property
    def exact(self) -> bool:
        return self.miss <= _WITHIN

    def apply(self, box: Array) -> Array:
        """The box, (slices, rows, columns, ...), as it lies on the image."""
        return np.flip(np.transpose(box, (*self.order, *range(3, box.ndim))), self.flipped)


def grid_map(own: Matrix, box: Indices, onto: Matrix, image: Indices) -> GridMap:
    """The best of the 48 ways to lay an array of shape ``box`` with affine ``own`` along the axes of an image with affine ``onto``."""
    # Array order; a single slice has no thickness that could be missed: its pixels' size is what counts across it.
    theirs = onto[:, [2, 1, 0, 3]].copy()
    lengths = np.linalg.norm(theirs[:3, :3], axis=0)
    for axis in range(3):
        if image[axis] == 1:
            theirs[:3, axis] *= min(lengths[k] for k in range(3) if k != axis) / lengths[axis]
    to_image = np.linalg.inv(theirs) @ own[:, [2, 1, 0, 3]]
    corners = np.array(list(product(*((0, n - 1) for n in box))), dtype=np.float64)
    wanted = corners @ to_image[:3, :3].T + to_image[:3, 3]
    best: GridMap | None = None
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            laid = corners[:, order] * signs
            shift = np.rint((wanted - laid).mean(axis=0))
            miss = float(np.abs(wanted - laid - shift).max())
            if best is None or miss < best.miss - 1e-9:
                start = (laid + shift).min(axis=0)
                flipped = tuple(k for k in range(3) if signs[k] < 0)
                best = GridMap((order[0], order[1], order[2]), flipped, (int(start[0]), int(start[1]), int(start[2])), miss)
    assert best is not None
    return best


def align(array: Array, own: Geometry, onto: Geometry) -> Array:
    """``array`` of the geometry ``own``, ([slices,] rows, columns[, 3]), as an array of the image ``onto``.

    An array without an affine, or with a different number of pixels along its axes, is returned as stored, for the caller to check
    its shape; a single slice counts as a picture.

    Raises
    ------
    ScanError: ``misplaced``: its pixels do not coincide with the image's; the message says by how much.
    """
    volume = array if len(own.shape) == 3 else array[None]
    box, image = _three(own.shape), _three(onto.shape)
    if sorted(box) == sorted(image):
        if own.affine is not None:
            volume = _laid(volume, own.affine, box, onto, image)
        elif (own.nifti is None) != (onto.nifti is None) and (rows_run_up(own) or rows_run_up(onto)):
            raise ScanError(
                "misplaced",
                "the header of either the label or the image has no codes, and its offset is that of dcm2niix, which stores rows from the "
                "bottom up; write place: rows_up in the card if rows run the other way in the label, or place: array if they run alike",
            )
    return volume[0] if len(onto.shape) == 2 and volume.shape[0] == 1 else volume if len(onto.shape) == 3 else array


def _laid(volume: Array, own: Matrix, box: Indices, onto: Geometry, image: Indices) -> Array:
    maps = [(frame, grid_map(own, box, frame, image)) for frame in _frames(onto, own, box)]
    for _, laid in maps:
        if laid.exact and laid.start == (0, 0, 0) and tuple(box[axis] for axis in laid.order) == image:
            return laid.apply(volume)
    raise ScanError(
        "misplaced",
        f"the label does not lie on its image: {difference(own, box, maps[0][0], image)}; draw it on this image, or write "
        "place: array in the card if the arrays correspond as they are stored",
    )


def difference(own: Matrix, box: Indices, onto: Matrix, image: Indices) -> str:
    """How far two grids lie from each other, in words: rotation, voxel size, distance of the centres."""
    laid = grid_map(own, box, onto, image)
    axes, theirs = own[:3, [2, 1, 0]], onto[:3, [2, 1, 0]]
    turns, sizes = [], []
    for axis in range(3):
        ours, its = axes[:, laid.order[axis]] * (-1 if axis in laid.flipped else 1), theirs[:, axis]
        lengths = np.linalg.norm(ours), np.linalg.norm(its)
        if image[axis] > 1:
            turns.append(float(np.degrees(np.arccos(np.clip(ours @ its / (lengths[0] * lengths[1]), -1, 1)))))
            sizes.append(lengths)
    said = [f"it is turned by {max(turns):.3g} degrees"] if turns and max(turns) > 0.05 else []
    if any(abs(ours / its - 1) > 1e-3 for ours, its in sizes):
        voxels = [" x ".join(f"{length:.4g}" for length in side) for side in zip(*sizes, strict=True)]
        said.append(f"its voxels measure {voxels[0]} mm, the image's {voxels[1]} mm")
    middles = [affine @ [*((n - 1) / 2 for n in shape[::-1]), 1] for affine, shape in ((own, box), (onto, image))]
    said.append(f"their centres lie {float(np.linalg.norm(middles[0] - middles[1])):.3g} mm apart")
    return ", ".join(said)


def _frames(onto: Geometry, own: Matrix, box: Indices) -> list[Matrix]:
    """Where the image may lie: by its affine; without one, as ITK and, of NIfTI, as nibabel place it."""
    if onto.affine is not None:
        return [onto.affine]
    # Of pixels whose size nobody states, the label says it: the size of its own along the same axis.
    sizes = np.diag(np.append(np.abs(own[:3, :3]).max(axis=1), 1.0))
    if onto.nifti is None:
        return [sizes]
    centred = sizes.copy()
    centred[1, 1] *= -1  # nibabel flips columns against NIfTI's axes, and so rows against DICOM's
    centred[:3, 3] = -centred[:3, :3] @ [(n - 1) / 2 for n in _three(onto.shape)[::-1]]
    return [sizes, centred]


def rows_run_up(geometry: Geometry) -> bool:
    """Whether a NIfTI header without codes has the offset that dcm2niix writes for a picture without a position."""
    rows = geometry.plane[0]
    return geometry.affine is None and geometry.nifti is not None and rows > 1 and geometry.nifti.srow[1] == (0.0, 1.0, 0.0, 1.0 - rows)


def _three(shape: tuple[int, ...]) -> Indices:
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])

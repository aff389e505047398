"""A hospital's image folder that never was: many patients, both eyes, several visits, every file format, and the truth beside it.

``OUT/scans/<patient>/<visit>/`` is what a hospital would hand over (and, on request, what goes wrong there);
``OUT/card/`` is the same data ready for training, see ``data_cards/phantom.md``.
"""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.phantoms.broken import write_trouble
from pipeline.phantoms.dicom import Syntax, VisitRecord, photograph, tomography, write_dicom
from pipeline.phantoms.fundus import FUNDUS_SHAPE, FundusPhantom, draw_fundus
from pipeline.phantoms.lesions import LESIONS
from pipeline.phantoms.oct import OCT_SHAPE, draw_oct
from pipeline.phantoms.oct_set import scan_frame
from pipeline.phantoms.vessels import stream
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import Laterality, ProgressCallback

_PHOTOGRAPHS: tuple[Syntax | None, ...] = ("explicit", "implicit", "rle", "jpeg2000", "jpegls", "jpeg", None)  # None: a PNG
_VOLUMES: tuple[Syntax | None, ...] = ("explicit", None, "jpeg2000", "rle", None, "implicit", "jpegls")  # None: a NIfTI
_EYES: tuple[tuple[Laterality, str], ...] = (("R", "OD"), ("L", "OS"))


@dataclass(frozen=True)
class _Visit:
    """One patient on one day."""

    seed: int
    patient: int
    visit: int
    record: VisitRecord

    @property
    def folder(self) -> str:
        return f"{self.record.patient_id}/{self.record.date}"


def write_hospital(
    out: Path,
    patients: int,
    seed: int,
    *,
    broken: bool = False,
    truth: bool = True,
    progress: ProgressCallback | None = None,
    first_patient: int = 1,
    fundus_shape: tuple[int, int] = FUNDUS_SHAPE,
    oct_shape: tuple[int, int, int] = OCT_SHAPE,
) -> dict[str, int]:
    """Write phantom patients. Equal arguments give equal bytes, and a patient does not depend on how many others there are.

    Patient N has 1 + N mod 3 visits. Each visit has a photograph of both eyes, in turn through all transfer syntaxes and PNG; odd patients
    also have OCT volumes (OPT or NIfTI) at each visit and a 16-bit red-free photograph at the first.

    Parameters
    ----------
    broken: add files as they go wrong in practice to the first patient, see :mod:`pipeline.phantoms.broken`.
    truth: also write ``OUT/card``: ``images``, ``vessels`` (0 / 255), ``arteries_veins`` (bits: 1 artery, 2 vein), ``disc_cup`` (bits: 1
        disc, 2 cup), ``lesions`` (bits: 1 microaneurysm, 2 haemorrhage, 4 exudate), ``lesion_instances`` (uint16, a lesion's number,
        the same at all visits), ``fov`` (0 / 255), each ``<patient>_<eye>_<visit>.png``; ``oct`` and ``oct_labels`` (values of
        ``phantom_oct.OCT_LABELS``), each ``.nii.gz``.
    progress: called with (eyes drawn so far, eyes in all).
    first_patient: number of the first patient, so that a second folder can hold other patients.
    fundus_shape, oct_shape: (rows, columns), (slices, rows, columns).

    Returns
    -------
    Counts: patients, visits, photographs, red_free, volumes, broken, duplicates, and files (all of them, in ``OUT/scans``).

    Raises
    ------
    ConfigError: no patients asked for, or one of them is already in ``out``; nothing is overwritten.
    """
    numbers = range(first_patient, first_patient + patients)
    if patients < 1 or first_patient < 1 or seed < 0 or numbers.stop > 10_000:
        raise ConfigError(
            f"patients {patients} from number {first_patient} with seed {seed}: at least 1, up to number 9999, and a seed of 0 or more"
        )
    for number in numbers:
        if (out / "scans" / f"P{number:04}").exists():
            raise ConfigError(f"{out} already holds phantom patient P{number:04}; choose an empty folder or another first patient")
    visits = [visit for number in numbers for visit in _visits(seed, number)]
    counts: Counter[str] = Counter(patients=patients, visits=len(visits), photographs=0, red_free=0, volumes=0, broken=0, duplicates=0)
    for done, visit in enumerate(visits):
        for eye_index in range(2):
            _write_eye(out, visit, eye_index, truth, fundus_shape, oct_shape, counts)
            if progress is not None:
                progress(2 * done + eye_index + 1, 2 * len(visits))
    if broken:
        counts.update(write_trouble(out / "scans" / visits[0].folder, visits[0].record, (seed, visits[0].patient, 0), fundus_shape))
    counts["files"] = sum(counts[kind] for kind in ("photographs", "red_free", "volumes", "broken", "duplicates"))
    return dict(counts)


def _visits(seed: int, patient: int) -> list[_Visit]:
    rng = stream((seed, patient), 40)
    born = datetime.date(1935, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 20_000)))
    day = datetime.date(2022, 1, 3) + datetime.timedelta(days=int(rng.integers(0, 400)))
    sex = "F" if rng.random() < 0.5 else "M"
    out = []
    for index in range(1 + patient % 3):
        clock = f"{int(rng.integers(8, 17)):02}{int(rng.integers(0, 60)):02}00"
        name, key = f"P{patient:04}", (seed, patient, index)
        record = VisitRecord(key, name, f"PHANTOM^{patient:04}", f"{born:%Y%m%d}", "F" if sex == "F" else "M", f"{day:%Y%m%d}", clock)
        out.append(_Visit(seed, patient, index, record))
        day += datetime.timedelta(days=int(rng.integers(120, 260)))
    return out


def _write_eye(
    out: Path,
    visit: _Visit,
    eye_index: int,
    truth: bool,
    fundus_shape: tuple[int, int],
    oct_shape: tuple[int, int, int],
    counts: Counter[str],
) -> None:
    eye, short = _EYES[eye_index]
    eye_seed = (visit.seed, visit.patient, eye_index)
    folder = out / "scans" / visit.folder
    folder.mkdir(parents=True, exist_ok=True)
    turn = 5 * visit.patient + 2 * visit.visit + eye_index
    # Hospital systems often export DICOM without any extension.
    ending = ".dcm" if visit.patient % 2 else ""
    case = f"{visit.record.patient_id}_{eye}_V{visit.visit + 1}"

    fundus = draw_fundus(eye_seed, eye, fundus_shape, visit=visit.visit)
    syntax = _PHOTOGRAPHS[turn % len(_PHOTOGRAPHS)]
    if syntax is None:
        write_png(folder / f"{short}_photo.png", fundus.image)
    else:
        dataset = photograph(fundus.image, visit.record, eye, fundus.spacing_mm, eye_index + 1, syntax)
        write_dicom(dataset, folder / f"{short}_photo{ending}")
    counts["photographs"] += 1
    if truth:
        _write_fundus_truth(out / "card", case, fundus)
    if visit.patient % 2 == 0:
        return
    if visit.visit == 0 and eye == "R":
        # What a green filter passes, in the sixteen bits of a scientific camera.
        green = np.rint((0.9 * fundus.image[..., 1] + 0.1 * fundus.image[..., 0]) * 257).astype(np.uint16)
        syntax = "explicit" if visit.patient % 4 == 1 else "jpeg2000"
        write_dicom(photograph(green, visit.record, eye, fundus.spacing_mm, 3, syntax), folder / f"{short}_redfree{ending}")
        counts["red_free"] += 1
    volume = draw_oct(eye_seed, eye, *oct_shape, visit=visit.visit)
    syntax = _VOLUMES[turn % len(_VOLUMES)]
    if syntax is None:
        write_nifti(folder / f"{short}_macula.nii.gz", volume.volume, scan_frame(volume))
    else:
        dataset = tomography(volume.volume, visit.record, eye, volume.spacing_mm, eye_index + 1, syntax)
        write_dicom(dataset, folder / f"{short}_macula{ending}")
    counts["volumes"] += 1
    if truth:
        for kind, array in (("oct", volume.volume), ("oct_labels", volume.labels)):
            (out / "card" / kind).mkdir(parents=True, exist_ok=True)
            write_nifti(out / "card" / kind / f"{case}.nii.gz", array, scan_frame(volume))


def _write_fundus_truth(card: Path, case: str, fundus: FundusPhantom) -> None:
    masks = fundus.masks

    def bits(*names: str) -> npt.NDArray[np.uint8]:
        return np.asarray(np.sum([masks[name].astype(np.uint8) << bit for bit, name in enumerate(names)], axis=0, dtype=np.uint8))

    instances = np.sum([fundus.instances[kind] for kind in LESIONS], axis=0).astype(np.uint16)
    pictures = {
        "images": fundus.image,
        "vessels": bits("vessel") * np.uint8(255),
        "arteries_veins": bits("artery", "vein"),
        "disc_cup": bits("disc", "cup"),
        "lesions": bits(*LESIONS),
        "lesion_instances": instances,
        "fov": fundus.field_of_view.astype(np.uint8) * np.uint8(255),
    }
    for kind, picture in pictures.items():
        (card / kind).mkdir(parents=True, exist_ok=True)
        write_png(card / kind / f"{case}.png", picture)

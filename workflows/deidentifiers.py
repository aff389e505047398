"""What other de-identifiers leave: an identity in every attribute of PS3.15 Table E.1-1, at the top and in a sequence, cleaned by each.

Run in the repository, with dicognito, deid and dicom-anonymizer in a folder of their own (none of them is a dependency):

    pip install --target PEERS --no-deps dicognito==0.19.0 deid==0.4.13 dicom-anonymizer==2.1.0 python-dateutil tqdm
    PYTHONPATH=.:PEERS python workflows/deidentifiers.py
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom

from pipeline.cli.console import script
from pipeline.deidentify.file import clean_file
from tests.deidentify.test_dicom import BORN_NUMBER, WHO, job, planted
from tests.scans.make import dicom, photograph, saved, sequence

TOLD = (WHO.lower(), "mrn-0042", "19540302", "047y", f"1.2.3.{BORN_NUMBER}")


def written(folder: Path) -> Path:
    """A photograph with the identity in every attribute of the table, twice."""
    dataset = dicom(photograph(24, 36), PatientID="MRN-0042", PatientName="Quagmire^Zebulon", StudyDate="20240301")
    inner = planted()
    del inner.EncapsulatedDocument
    for element in planted():
        if element.keyword not in ("PatientID", "StudyDate", "SOPInstanceUID", "EncapsulatedDocument"):
            dataset.add(element)
    dataset.AnatomicRegionSequence = sequence(inner)
    return saved(dataset, folder / "scan.dcm")


def left(dataset: Any) -> tuple[int, int]:
    """How many attributes still tell something, at the top and in sequences."""
    found: tuple[set[int], set[int]] = (set(), set())

    def walk(items: Any, deep: bool) -> None:
        for element in items:
            if element.VR == "SQ":
                for item in element.value or ():
                    walk(item, True)
            elif element.keyword != "PixelData" and any(told in str(element.value).lower() for told in TOLD):
                found[deep].add(int(element.tag))

    walk(dataset, False)
    return len(found[0]), len(found[1])


def by_dicognito(path: Path) -> Any:
    from dicognito.anonymizer import Anonymizer

    dataset = pydicom.dcmread(path)
    Anonymizer(seed="one").anonymize(dataset)
    return dataset


def by_deid(path: Path) -> Any:
    from deid.config import DeidRecipe
    from deid.dicom import replace_identifiers

    (dataset,) = replace_identifiers([str(path)], deid=DeidRecipe(), save=False, remove_private=True, strip_sequences=False)
    return dataset


def by_dicom_anonymizer(path: Path) -> Any:
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions

    dataset = pydicom.dcmread(path)
    anonymize_dataset(dataset, base_rules_gen=lambda: initialize_actions("dicomfields_2026c"))
    return dataset


def by_ocuseg(path: Path) -> Any:
    return pydicom.dcmread(io.BytesIO(clean_file(path, job(path.parent))[0].content))


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    tools: list[tuple[str, Callable[[Path], Any]]] = [
        ("before", pydicom.dcmread),
        ("dicognito", by_dicognito),
        ("deid", by_deid),
        ("dicom-anonymizer", by_dicom_anonymizer),
        ("ocuseg", by_ocuseg),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder))
        for name, clean in tools:
            top, deep = left(clean(path))
            print(f"{name}: {top} attributes at the top, {deep} in a sequence")


if __name__ == "__main__":
    script(main)

"""One distinctive identity in every field, name, table and card that goes in, and in nothing that comes out."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import sqlite3
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin
from pyarrow import parquet
from typer.testing import CliRunner

from pipeline.cards.card import load_card
from pipeline.cards.check import check_card
from pipeline.cli import app
from pipeline.inference.folder import predict_folder
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.tracking.mlflow_store import connect
from tests.scans.make import OPT, dicom, item, ramp, saved, sequence
from tests.scans.test_vendor import volume as spectralis
from tests.training.tiny import weights

WHO = "Quagmire-Zebulon"
WHEN = 1_234_567_891_123_456_789

CARD = f"""---
name: planted
title: Eyes of {WHO}
modality: fundus
identifiers: private
device: the camera of {WHO}
licence: asked {WHO}
citation: {WHO} et al.
source: {WHO}'s disk
how_to_get: ask {WHO}
known_faults: ["{WHO}1 moved"]
classes:
  - {{name: blob, colour: [213, 94, 0]}}
images: {{file: "list/{{patient}}_{{eye:[LR]}}.png", table: list.csv, columns: {{patient: who}}}}
labels:
  - {{kind: threshold, file: "masks/{{patient}}_{{eye}}.png", means: blob, at_least: 1}}
parts:
  patients: {{train: [{WHO}0, {WHO}1], validation: [{WHO}2], test: [{WHO}3]}}
---
{WHO} came on a Monday.
"""


def _training_set(root: Path) -> None:
    random, rows = np.random.default_rng(0), ["who,eye,note"]
    for folder in ("list", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        for eye in "LR":
            image = random.integers(0, 90, (40, 56, 3), dtype=np.uint8)
            mask = np.zeros((40, 56), np.uint8)
            top, left = random.integers(4, 24, 2)
            mask[top : top + 12, left : left + 9] = 255
            image[mask > 0] += 120
            said = PngImagePlugin.PngInfo()
            said.add_text("Comment", WHO)
            Image.fromarray(image).save(root / "list" / f"{WHO}{number}_{eye}.png", pnginfo=said)
            Image.fromarray(mask).save(root / "masks" / f"{WHO}{number}_{eye}.png")
            rows.append(f"{WHO}{number},{eye},{WHO}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    (root / f"{WHO}.md").write_text(CARD)


def _hospital(root: Path) -> None:
    """A scan of each format, and what is none, with the identity wherever the format has a place for words."""
    folder = root / WHO / f"visit of {WHO}"
    folder.mkdir(parents=True)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    said = PngImagePlugin.PngInfo()
    said.add_text("Author", WHO)
    said.add_itxt("Description", WHO, zip=True)
    picture.save(folder / f"{WHO}_OD.png", pnginfo=said)
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x8298] = WHO
    picture.rotate(180).save(folder / f"{WHO}_OS.jpg", exif=exif, comment=WHO.encode())
    picture.rotate(90, expand=True).save(folder / f"{WHO}.tif", tiffinfo={270: WHO, 315: WHO, 305: WHO})
    tags = dict.fromkeys(
        ("PatientName", "StudyDescription", "SeriesDescription", "OperatorsName", "PatientComments", "InstitutionName"), WHO
    )
    words = {"PatientID": WHO, "AccessionNumber": WHO[:16], "ImageComments": WHO, "DeviceSerialNumber": WHO, **tags}
    plane, deep = ramp(40, 56), item(**tags, RequestAttributesSequence=sequence(item(**tags)))
    for dataset, name in (
        (dicom(plane, **words), f"{WHO}.dcm"),
        (dicom(np.stack([plane, plane[::-1]]), sop_class=OPT, modality="OPT", **words), f"{WHO}_OD_volume.dcm"),
    ):
        block = dataset.private_block(0x0011, WHO, create=True)
        block.add_new(1, "LO", WHO)
        block.add_new(2, "SQ", [item(**tags)])
        dataset.RequestAttributesSequence = sequence(deep)
        dataset.AnatomicRegionSequence = sequence(item(CodeValue="5665001", CodingSchemeDesignator="SCT", CodeMeaning=f"Retina of {WHO}"))
        saved(dataset, folder / name)
    volume = nibabel.Nifti1Image(np.arange(3 * 40 * 56, dtype=np.int16).reshape(56, 40, 3), np.eye(4))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        volume.header[name] = WHO.encode()
    nibabel.save(volume, folder / f"{WHO}.nii.gz")
    device = spectralis()
    device.patient = WHO.encode()
    device.save(folder / f"{WHO}.vol")
    picture.crop((0, 0, 50, 38)).save(folder / f"{WHO}.bmp")
    with (folder / f"{WHO}.bmp").open("ab") as bitmap:
        bitmap.write(WHO.encode())
    with zipfile.ZipFile(folder / f"{WHO}.zip", "w") as archive:
        archive.write(folder / f"{WHO}_OD.png", f"{WHO}/{WHO}.png")
    for name, content in (
        ("notes.txt", WHO.encode()),
        ("broken.dcm", b"\0" * 128 + b"DICM" + WHO.encode()),
        ("cut.png", b"\x89PNG\r\n\x1a\n"),
    ):
        (folder / f"{WHO}-{name}").write_bytes(content)
    (folder / f"{WHO}-link.png").symlink_to(folder / f"{WHO}_OD.png")
    for path in sorted(root.rglob("*")):
        os.utime(path, ns=(WHEN, WHEN))


def _objects(root: Path) -> Path:
    """A private card whose objects stand in a COCO file that names the images, and what it says of itself."""
    random = np.random.default_rng(2)
    (root / "images").mkdir(parents=True)
    images, objects = [], []
    for number in range(8):
        image, name = random.integers(0, 90, (40, 56, 3), dtype=np.uint8), f"{WHO}{number}_{'LR'[number % 2]}.png"
        top, left = (int(n) for n in random.integers(4, 24, 2))
        image[top : top + 12, left : left + 9] += 120
        Image.fromarray(image).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": 56, "height": 40, "license": WHO})
        objects.append({"id": number, "image_id": number, "category_id": 1, "bbox": [left, top, 9, 12], "area": 108, "note": WHO})
    text = {"info": {"contributor": WHO}, "images": images, "annotations": objects, "categories": [{"id": 1, "name": "spot"}]}
    (root / "objects.json").write_text(json.dumps(text))
    front = yaml.safe_load(CARD.split("---")[1]) | {
        "name": "planted_objects",
        "classes": [{"name": "spot", "colour": [240, 228, 66]}],
        "images": {"file": "images/{patient}_{eye:[LR]}.png"},
        "labels": [{"kind": "coco", "file": "objects.json", "categories": {"spot": "spot"}}],
        "parts": None,
    }
    (root / "card.md").write_text(f"---\n{yaml.safe_dump(front)}---\n")
    return root / "card.md"


def _contents(data: bytes) -> Iterator[bytes]:
    """A file's bytes, and what is packed in them."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield from _contents(gzip.decompress(data))
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from _contents(archive.read(name))
    if data.startswith(b"\x89PNG") and (place := data.find(b"zTXt")) >= 0:
        yield zlib.decompressobj().decompress(data[data.index(b"\0\0", place) + 2 :])
    if data.startswith(b"%PDF"):
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(stream)
    if data.startswith(b"PAR1"):
        table = parquet.read_table(io.BytesIO(data))
        yield repr((table.schema.metadata, table.to_pylist())).encode()
    if data[128:132] == b"DICM":
        dataset = pydicom.dcmread(io.BytesIO(data))
        yield repr(dataset.to_json_dict(bulk_data_threshold=1 << 20)).encode()
        if "EncapsulatedDocument" in dataset:
            yield from _contents(bytes(dataset.EncapsulatedDocument))


def _needles() -> dict[str, bytes]:
    """The identity as it may be written, in lower case throughout."""
    named = {encoding: WHO.lower().encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be")}
    coded = {f"base64 at {n}": base64.b64encode(b"x" * n + WHO.encode())[4 if n else 0 : -4].lower() for n in range(3)}
    quoted = {"quoted": urllib.parse.quote(WHO, safe="").lower().encode(), "percent": "".join(f"%{b:02x}" for b in WHO.encode()).encode()}
    time = {"ns": str(WHEN).encode(), "int64": WHEN.to_bytes(8, "little").lower(), "int64 be": WHEN.to_bytes(8, "big").lower()}
    return {**named, "hex": WHO.encode().hex().encode(), **coded, **quoted, **time, "surname": b"zebulon"}


def _leaks(folder: Path) -> list[str]:
    needles, found, searched = _needles(), [], set()
    for path in sorted(folder.rglob("*")):
        texts = [path.name.encode()]
        if path.is_file():
            data = path.read_bytes()
            texts += _contents(data)
            if data.startswith(b"SQLite format 3"):
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                    texts.append("\n".join(database.iterdump()).encode("utf-8", "surrogateescape"))
        for text in texts:
            if text in searched:  # bundles hold the same weights again
                continue
            searched.add(text)
            found += [f"{path.relative_to(folder)}: {name}" for name, needle in needles.items() if needle in text.lower()]
    return found


def _said(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """What a command prints, in lower case, but for the paths that it was given."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in codes, (result.output, result.exception)
    said = result.output
    for argument in arguments:
        said = said.replace(str(argument), "") if isinstance(argument, Path) else said
    return said.lower()


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(f"x {WHO.upper()}".encode()))
    (tmp_path / "b").write_bytes(b"..." + base64.b64encode(f"ab{WHO} and more".encode()))
    np.savez_compressed(tmp_path / "c.npz", **{WHO: np.zeros(1)})
    with closing(sqlite3.connect(tmp_path / "d.db")) as database:
        database.executescript(f"CREATE TABLE t (a, b); INSERT INTO t VALUES ({WHEN}, '{WHO.encode('utf-16-le').hex()}');")
    assert {leak[0] for leak in _leaks(tmp_path)} == set("abcd") - set()


def test_nobodys_name_is_in_anything_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, hospital, out = tmp_path / WHO / "set", tmp_path / WHO / "scans", tmp_path / "out"
    _training_set(data)
    _hospital(hospital)
    key = out / "site.key"
    names = Pseudonyms.load_or_create(key)
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(key))
    assert check_card(load_card(str(data / f"{WHO}.md")), data) == []
    run_file = data / "planted.yaml"
    run_file.write_text(
        f"""
        name: planted
        data: {{card: "{data / f"{WHO}.md"}", normalise: {{field_of_view: whole}}, crop: [32, 32], crops_per_image: 1,
               split: {{source: official, train_patients: [{WHO}0, {WHO}1]}}}}
        task: {{name: semantic}}
        model: {{name: unet, widths: [4, 8], residual_units: 1}}
        train: {{epochs: 1, batch_size: 2, precision: float32}}
        """
    )
    on = ("--root", data, "--device", "cpu")
    printed = _said("train", run_file, *on, "--out", out / "runs")
    (run_dir,) = (out / "runs").glob("planted-*")
    assert names.patient(f"{WHO}0") in (run_dir / "card.md").read_text()
    assert names.patient(f"{WHO}0") in (run_dir / "config.yaml").read_text()
    store = f"sqlite:///{out / 'runs' / 'mlflow.db'}"
    client = connect(store)
    (trained,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    repeated = _said("train", "--from-run", trained.info.run_id, "--tracking-uri", store, *on, "--out", out / "runs")
    assert "data: same (8 images)" in repeated
    assert "(weights identical)" in repeated
    (repetition,) = (folder for folder in (out / "runs").glob("planted-*") if folder != run_dir)
    trained_weights, repeated_weights = weights(run_dir), weights(repetition)
    assert trained_weights.keys() == repeated_weights.keys()
    assert all(torch.equal(trained_weights[name], repeated_weights[name]) for name in trained_weights)
    printed += repeated + _said("evaluate", run_dir / "bundle", "--card", data / f"{WHO}.md", *on)
    assert any(name.startswith("values/test/planted_test/") for name in client.get_run(trained.info.run_id).data.metrics)
    index_folder(hospital, out / "catalogue.sqlite", pseudonyms=names, workers=1)
    counts = predict_folder(run_dir / "bundle", hospital, out / "predicted", device="cpu", pseudonyms=names, workers=1)
    assert counts["done"] >= 3
    printed += _said("report", out / "predicted", "--pdf", "all")
    printed += _said("export", out / "predicted", "--out", out / "exported", "--format", "seg,sr,sc,pdf,nifti,png,coco", codes=(0, 3))
    assert {path.suffix for path in (out / "exported").rglob("*")} >= {".dcm", ".gz", ".png", ".json"}
    printed += _said(
        "deidentify", hospital, "--out", out / "handed_on", "--burned-in", "report", "--option", "clean-descriptors", codes=(3,)
    )
    assert {path.suffix for path in (out / "handed_on").rglob("*.*")} >= {".dcm", ".gz", ".png", ".jpg", ".tif", ".bmp", ".vol", ".csv"}
    assert _leaks(out) == []
    assert "zebulon" not in printed
    assert "zebulon" not in caplog.text.lower()


def test_nor_is_it_where_objects_are_learnt_and_what_the_commands_print_is_for_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A card drafted, checked and explained, detectors compared and cross-validated, a folder predicted and reported."""
    data, hospital, out = tmp_path / WHO / "set", tmp_path / WHO / "scans", tmp_path / "out"
    card = _objects(data)
    _hospital(hospital)
    out.mkdir()
    monkeypatch.chdir(out)
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(out / "site.key"))
    (out / "small.yaml").write_text(
        "name: small\n"
        "data: {card: planted, normalise: {field_of_view: whole}, crop: [32, 32], crops_per_image: 1, "
        "split: {source: random, validation: 0.25, test: 0.25, near_duplicates: drop_from_train}}\n"
        "task: {name: detection}\n"
        "model: {name: ssd, variant: vgg16, width: 0.125}\n"
        "train: {epochs: 1, batch_size: 2, precision: float32}\n"
    )
    _said("card", "new", data, "--out", out / "draft.md")
    assert [source.kind for source in load_card(str(out / "draft.md")).labels] == ["coco"]
    assert _leaks(out) == []
    _said("card", "check", card, "--root", data)  # both name files for whoever sits in front of the screen, and write nothing
    _said("card", "explain", card, "--root", data)
    printed = _said("schema", "--out", out / "schema.json")
    printed += _said("compare", "small.yaml", "--set", f"data.card={card}", "--root", data, "--out", out / "runs")
    printed += _said("crossvalidate", "small.yaml", "--set", f"data.card={card}", "--root", data, "--folds", 3, "--out", out / "runs")
    printed += _said("index", hospital, "--workers", 1, "--out", out / "catalogue.sqlite", codes=(0, 3))
    bundle = next((out / "runs").glob("*/bundle"))
    printed += _said("predict", bundle, hospital, "--out", out / "predicted", codes=(0, 3))
    printed += _said("report", out / "predicted")
    assert _leaks(out) == []
    assert "zebulon" not in printed
    assert "zebulon" not in caplog.text.lower()

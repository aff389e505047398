"""A bundle from anywhere: whatever its folder holds, one sentence at once, and nothing is waited for, followed or built."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.bundles import sealed
from pipeline.bundles.bundle import load_bundle
from pipeline.errors import BundleError
from tests.bundles.test_bundle import save

WEIGHTS, RECORD, CARD = "weights.safetensors", "bundle.json", "MODEL_CARD.md"


def seal(folder: Path, **changes: Any) -> None:
    """Write bundle.json anew with right hashes, as anybody can."""
    record = json.loads((folder / RECORD).read_text())
    record["files"] = {name: sealed.sha256(folder / name) for name in (WEIGHTS, CARD) if (folder / name).is_file()}
    record |= changes
    (folder / RECORD).write_text(json.dumps(record | {"sha256": sealed.own_hash(record)}))


def reshaped(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        seal(folder)

    return spoil


def widths(folder: Path) -> None:
    config = json.loads((folder / RECORD).read_text())["config"]
    config["model"]["widths"] = [2_000_000, 2_000_000]  # tens of terabytes
    seal(folder, config=config)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def long_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((2**60).to_bytes(8, "little") + b"{}")
    seal(folder)


HOSTILE = {
    "a pipe for the record": (instead(RECORD, os.mkfifo), "not a file"),
    "a pipe for the weights": (instead(WEIGHTS, os.mkfifo), "not a file"),
    "a folder for the card": (instead(CARD, lambda path: path.mkdir()), "not a file"),
    "a link to a device": (instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), "weights.safetensors is a link"),
    "a record that is a link": (instead(RECORD, lambda path: path.symlink_to("/dev/zero")), "bundle.json is a link"),
    "files elsewhere": (lambda folder: seal(folder, files={"../../other": "0" * 64}), "files"),
    "files by an absolute path": (lambda folder: seal(folder, files={"/etc/hostname": "0" * 64}), "files"),
    "no weights among the files": (lambda folder: seal(folder, files={}), "knows no weights.safetensors"),
    "no label map": (lambda folder: seal(folder, label_map=None), "label_map"),
    "deep nesting": (lambda folder: (folder / RECORD).write_text('{"a":' * 100_000 + "1" + "}" * 100_000), "bundle.json"),
    "a number of 6,000 digits": (lambda folder: (folder / RECORD).write_text('{"format": ' + "9" * 6000 + "}"), "cannot be read"),
    "a list": (lambda folder: (folder / RECORD).write_text("[]"), "format"),
    "not text": (lambda folder: (folder / RECORD).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a network of any size": (widths, "where the network of its config has"),
    "another shape": (reshaped(lambda t: t.update({min(t): torch.zeros(3, 1, 4)})), "where the network of its config has"),
    "a weight too many": (reshaped(lambda t: t.update(extra=torch.zeros(1))), "extra"),
    "a weight too few": (reshaped(lambda t: t.pop(min(t))), "do not fit"),
    "a weight that is no number": (reshaped(lambda t: t[min(t)].view(-1)[0].fill_(float("nan"))), "not all finite"),
    "a header without end": (long_header, "do not fit"),
    "weights that are no tensors": (lambda folder: ((folder / WEIGHTS).write_bytes(b"abc"), seal(folder)), "do not fit"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_in_one_sentence(tmp_path: Path, what: str) -> None:
    spoil, said = HOSTILE[what]
    save(tmp_path / "bundle")
    spoil(tmp_path / "bundle")
    with pytest.raises(BundleError) as caught:
        load_bundle(tmp_path / "bundle")
    text = str(caught.value)
    assert said in text
    assert "\n" not in text
    assert len(text) < 500


def test_a_file_in_the_place_of_the_folder_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("")
    for path in (tmp_path / "bundle", tmp_path / "absent"):
        with pytest.raises(BundleError, match="is not a bundle"):
            load_bundle(path)


def test_a_folder_that_is_a_link_to_a_bundle_is_one(tmp_path: Path) -> None:
    identity, _ = save(tmp_path / "bundle")
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    assert load_bundle(tmp_path / "link").id == identity

"""A PACS file that is wrong is one sentence, which holds no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.pacs.settings import Secret, load_pacs, pacs_schema

WEB = {"url": "https://pacs.example.org/dicom-web"}
DIMSE = {"host": "pacs.example.org", "called_ae": "PACS"}


def load(folder: Path, settings: Any, name: str | None = None) -> Any:
    path = folder / "pacs.yaml"
    path.write_text(yaml.safe_dump({"pacs": settings}), encoding="utf-8")
    return load_pacs(path, name)


def test_a_file_says_how_each_pacs_is_reached(tmp_path: Path) -> None:
    name, pacs = load(tmp_path, {"one": {"dicomweb": WEB, "dimse": DIMSE}})
    assert (name, pacs.dicomweb.url, pacs.dimse.port, pacs.dimse.calling_ae) == ("one", WEB["url"], 104, "OCUSEG")
    with pytest.raises(ConfigError, match="several PACS; name one of them: one, two"):
        load(tmp_path, {"one": {"dimse": DIMSE}, "two": {"dimse": DIMSE}})
    with pytest.raises(ConfigError, match="unknown 'tow'; did you mean 'two'"):
        load(tmp_path, {"one": {"dimse": DIMSE}, "two": {"dimse": DIMSE}}, "tow")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "pacs.one: a PACS is reached over DICOMweb or DIMSE"),
        ({"dicomweb": WEB | {"pasword": "hunter2"}}, "pacs.one.dicomweb.pasword: unknown key"),
        ({"dicomweb": {"url": "https://user:hunter2@pacs.example.org"}}, "pacs.one.dicomweb.url: a URL holds no user and password"),
        ({"dicomweb": WEB | {"basic": "user:hunter2"}}, "pacs.one.dicomweb.basic: the PACS file holds no secret"),
        ({"dicomweb": WEB | {"basic": {"env": "A", "file": "b"}}}, "env or file, and not both"),
        ({"dicomweb": WEB | {"basic": {"env": "A"}, "bearer": {"env": "B"}}}, "one login is enough"),
        ({"dimse": DIMSE | {"called_ae": "SEVENTEEN LETTERS"}}, "pacs.one.dimse.called_ae: an AE title has 1 to 16 plain characters"),
        ({"dimse": DIMSE | {"port": 70000}}, "pacs.one.dimse.port"),
        ({"dimse": DIMSE | {"retrieve": "move"}}, "retrieve: move needs a port"),
        ({"dimse": DIMSE | {"tls": {"key": "key.pem"}}}, "a key without a certificate"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, settings: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {"one": settings})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_secret_is_in_the_environment_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PACS_LOGIN", " user:hunter2\n")
    assert Secret(env="PACS_LOGIN").read(tmp_path, "basic") == "user:hunter2"
    (tmp_path / "token").write_text("hunter2\n", encoding="utf-8")
    (tmp_path / "token").chmod(0o644)
    assert Secret(file="token").read(tmp_path, "bearer") == "hunter2"
    assert "its mode should be 0600" in caplog.text
    with pytest.raises(ConfigError, match="environment variable PACS_ABSENT is not set"):
        Secret(env="PACS_ABSENT").read(tmp_path, "basic")
    with pytest.raises(ConfigError, match="cannot be read"):
        Secret(file="absent").read(tmp_path, "basic")
    assert "hunter2" not in caplog.text


def test_the_schema_and_the_documented_file_are_fresh(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    assert (root / "configs/pacs_schema.json").read_text(encoding="utf-8") == pacs_schema(), (
        "run: ocuseg schema --pacs --out configs/pacs_schema.json"
    )
    (shown,) = re.findall(r"```yaml\n(.*?)```", (root / "docs/pacs.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "pacs.yaml").write_text(shown, encoding="utf-8")
    assert load_pacs(tmp_path / "pacs.yaml", "clinic")[1].dimse is not None
    jsonschema.validate(yaml.safe_load(shown), json.loads(pacs_schema()))

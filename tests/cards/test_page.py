"""The page on cards names every field with an example that is right; the schema for editors is fresh; a card can be explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from pipeline.cards.card import list_cards, parse_card
from pipeline.cards.explain import card_schema, explain_card
from pipeline.cli import app
from tests.cards.conftest import FRONT, SmallSet, card_text

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", (TOP / "docs" / "cards.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
SCHEMA = json.loads(card_schema())


def keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from keys(value)
    elif isinstance(node, list):
        for value in node:
            yield from keys(value)


def example(text: str) -> dict[str, Any]:
    """An example as a whole card: what it leaves out is a small set's, whose labels fit no other images."""
    own = yaml.safe_load(text)
    rest = dict(FRONT) | ({"images": {"file": "images/{name}.png"}, "labels": []} if "images" not in own else {})
    return {**rest, **({"labels": []} if "images" in own and "labels" not in own else {}), **own}


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0][:40])
def test_every_example_is_a_card(text: str) -> None:
    front = example(text)
    parse_card(f"---\n{yaml.safe_dump(front)}---\n")
    Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(front)))


def test_every_field_has_an_example() -> None:
    models = {"CardFields": SCHEMA, **SCHEMA["$defs"]}
    fields = {(model, name) for model, said in models.items() for name in said.get("properties", {})}
    shown = {key for text in EXAMPLES for key in keys(yaml.safe_load(text))}
    assert {name for name in fields if name[1] not in shown} == set()
    kinds = {said["properties"]["kind"]["const"] for said in models.values() if "kind" in said.get("properties", {})}
    assert {kind for kind in kinds if not any(f"kind: {kind}" in text for text in EXAMPLES)} == set()
    assert len(fields) > 40


def test_the_schema_for_editors_is_fresh_and_takes_the_cards() -> None:
    assert (TOP / "configs" / "card_schema.json").read_text(encoding="utf-8") == card_schema(), (
        "run: ocuseg schema --card --out configs/card_schema.json"
    )
    assert CliRunner().invoke(app, ["schema", "--card"]).stdout == card_schema()
    check = Draft202012Validator(SCHEMA)
    for card in list_cards():
        text = next(path for path in (TOP / "data_cards").glob("*.md") if path.stem == card.name).read_text(encoding="utf-8")
        check.validate(json.loads(json.dumps(yaml.safe_load(text.split("\n---")[0]), default=str)))
    assert list(check.iter_errors({**FRONT, "licens": "none"}))


def test_a_card_is_explained(small_set: SmallSet, tmp_path: Path) -> None:
    (small_set.root / "labels" / "f_R.png").unlink()
    (small_set.root / "labels" / "z_L.png").write_bytes(b"")
    (small_set.root / "notes.txt").write_text("x")
    told = explain_card(small_set.card, small_set.root, examples=2)
    assert [(p["role"], p["files"]) for p in told["patterns"]] == [("images", 12), ("labels (values)", 12)]
    assert told["patterns"][0]["examples"][0] == ("images/a_L.png", {"patient": "a", "eye": "L"})
    assert (told["cases"], told["patients"], told["both_eyes"]) == (11, 6, 5)
    assert told["eyes"] == {"L": 6, "R": 5}
    assert [file for file, _ in told["left_over"]] == ["images/f_R.png", "labels/z_L.png"]
    assert told["other"] == {".txt": {"files": 1, "examples": ["notes.txt"]}}
    (tmp_path / "card.md").write_text(card_text(), encoding="utf-8")
    result = CliRunner().invoke(app, ["card", "explain", str(tmp_path / "card.md"), "--root", str(small_set.root)])
    assert result.exit_code == 0, result.output
    for line in (
        "    images/a_L.png: patient a, eye L",
        "eyes: L 6, R 5",
        "    images/f_R.png: no label fits 'labels/{patient}_{eye}.png'",
    ):
        assert line in result.stdout.splitlines()
    result = CliRunner().invoke(app, ["card", "explain", str(tmp_path / "card.md"), "--root", str(small_set.root / "labels")])
    assert result.exit_code == 4

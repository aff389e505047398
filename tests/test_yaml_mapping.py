"""YAML that is odd or hostile ends in one sentence, in run files, cards and --set alike."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.cards.card import load_card
from pipeline.config import load_config, parse_config
from pipeline.errors import CardError, ConfigError
from pipeline.yaml_mapping import read_mapping

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))

HOSTILE = [
    (
        "description: 2026-13-45",
        "line 1, column 14: month must be in 1..12",
    ),
    ("description: 2026-02-30 25:61:00", "line 1"),
    ("seed: " + "9" * 6000, "line 1, column 7"),
    ("seed: 0x" + "f" * 6000, "a number too large for any setting"),
    ("seed: -0b" + "1" * 90, "a number too large for any setting"),
    ("a: " + "[" * 500 + "]" * 500, "brackets are too deep"),
    ("a: " + "{b: " * 500 + "}" * 500, "brackets are too deep"),
    ("a:\n" + "".join(" " * n + "- \n" for n in range(1, 600)), ""),
    (BOMB, "aliases stand for more than 1,000,000 values"),
    (MERGED, "grows without end by merging"),
    ("a: &a [*a]", "an alias holds itself"),
    ("a: &a {b: *a}", "an alias holds itself"),
    ("name: one\nname: two", "line 2, column 1: the key 'name' stands twice"),
    ("train: {epochs: 1, seed: 2, epochs: 3}", "the key 'epochs' stands twice"),
    ("name: a\0b", "the character U+0000"),
    ("name: a\x1bb", "the character U+001B"),
    ("name: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    ("name: !secret x", "could not determine a constructor"),
    ("? [1, 2]\n: 3", ""),
    ("? {a: 1}\n: 3", "unhashable"),
    ("1: 2", "must hold keys and values"),
    ("- name", "must hold keys and values"),
    ("just text", "must hold keys and values"),
    ("", "must hold keys and values"),
    ("a: 1\n---\nb: 2", "single document|another document"),
    ("a: *nowhere", "undefined alias"),
    ("a: !!set {x, y}", ""),
    ("a: !!binary ====", ""),
    ("a: " + "x" * 1_100_000, "longer than 1,000,000 characters"),
]


@pytest.mark.parametrize(("text", "said"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_one_sentence_in_time(text: str, said: str, tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_config(text, where="run.yaml")
    assert any(part in str(caught.value) for part in said.split("|"))
    assert all(line.startswith("run.yaml: ") and len(line) < 500 for line in str(caught.value).splitlines())
    (tmp_path / "card.md").write_text(f"---\n{text}\n---\n", encoding="utf-8")
    with pytest.raises(CardError) as told:
        load_card(str(tmp_path / "card.md"))
    assert all(len(line) < 500 for line in str(told.value).splitlines())
    assert time.process_time() - start < 60


def test_keys_that_are_merged_are_no_keys_twice() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more\n  <<: *base\n  b: 3\nlast: {<<: [*more, *base], a: 5}\n"
    read = read_mapping(text, "x", "keys", ConfigError)
    assert read["more"] == {"a": 1, "b": 3}
    assert read["last"] == {"a": 5, "b": 3}


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 6000, "[" * 500, "{a: 1, a: 2}", "a\0b", "!!python/name:os.system"])
def test_a_hostile_override_is_one_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set description: the value is not valid YAML") as caught:
        load_config(Path("phantom_little"), [f"description={value}"])
    assert "\n" not in str(caught.value)

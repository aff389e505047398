"""The photographs that come with ocuseg: openly licensed, small, attributed, never trained on, and found by their name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.bundles.leakage import recorded_in
from pipeline.bundles.shipped_models import find_bundle, names
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cli.segment import scans_at
from pipeline.resources import EXAMPLES

MOST_BYTES = 1_000_000
PHOTOGRAPHS = sorted((EXAMPLES / "photographs").iterdir())


def test_they_are_small_attributed_and_labelled() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    card = load_card(str(EXAMPLES / "card.md"))
    assert card.licence.startswith("CC BY 4.0")
    assert {Path(case.image).name for case in find_cases(card, EXAMPLES)} == {path.name for path in PHOTOGRAPHS}
    text = (EXAMPLES / "card.md").read_text(encoding="utf-8")
    for photograph in PHOTOGRAPHS:
        assert f"| `{photograph.stem}` |" in text  # whose it is, and what was changed
        with Image.open(EXAMPLES / "vessels" / f"{photograph.stem}.png") as mask, Image.open(photograph) as shown:
            assert mask.size == shown.size
            assert mask.getextrema() == (0, 255)


@pytest.mark.parametrize("model", names())
def test_no_shipped_model_has_seen_them(model: str) -> None:
    seen = recorded_in(find_bundle(model)).seen()
    assert seen
    assert not set(seen) & {hashlib.sha256(path.read_bytes()).hexdigest() for path in PHOTOGRAPHS}


def test_a_folder_of_ones_own_goes_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scans_at(Path("examples")) == EXAMPLES / "photographs"
    (tmp_path / "examples").mkdir()
    assert scans_at(Path("examples")) == Path("examples")

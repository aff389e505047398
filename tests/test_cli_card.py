"""``ocuseg card``: what a person is told of a folder, and the exit code a program goes by."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app, cards
from pipeline.scans.raster import write_png
from tests.cards.conftest import card_text, picture

RUN = CliRunner()


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.fixture
def unlabelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(card, root) of two photographs of one patient; the labels are still to come."""
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    root = tmp_path / "set"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for seed, eye in enumerate("RL"):
        write_png(root / "images" / f"a_{eye}.png", picture(seed))
    write_png(tmp_path / "label.png", np.repeat(np.array([[0, 255]], np.uint8), 42, axis=1).repeat(60, axis=0))
    (tmp_path / "small.md").write_text(card_text(), encoding="utf-8")
    return tmp_path / "small.md", root


@pytest.mark.parametrize("as_json", [False, True])
def test_a_card_that_fits_nothing_lists_the_files_and_is_exit_code_4(unlabelled: tuple[Path, Path], as_json: bool) -> None:
    card, root = unlabelled
    result = RUN.invoke(app, ["card", "check", str(card), "--root", str(root), *(["--json"] if as_json else [])])
    assert result.exit_code == 4, result.output
    for said in ("images/a_L.png", "images/a_R.png", "no label fits", "no image with its label"):
        assert said in result.stdout
    if as_json:
        assert json.loads(result.stdout)["cases"] == 0
    else:
        assert lines(result.stdout)[-1] == "0 cases, 3 problems"


def test_card_check_counts_what_is_there(unlabelled: tuple[Path, Path]) -> None:
    card, root = unlabelled
    arguments = ["card", "check", str(card), "--root", str(root)]
    (root / "labels" / "a_R.png").write_bytes((root.parent / "label.png").read_bytes())
    assert RUN.invoke(app, arguments).exit_code == 3
    (root / "labels" / "a_L.png").write_bytes((root.parent / "label.png").read_bytes())
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert lines(result.stdout) == [
        "patients: 1",
        "parts: none 2",
        "sizes: 60 x 84 2",
        "roles: vessel vessel",
        "fraction of pixels: vessel 50.00 %",
        "objects: vessel 2",
        "2 cases, 0 problems",
    ]
    statistics = json.loads(RUN.invoke(app, [*arguments, "--json"]).stdout)["statistics"]
    assert statistics["fraction_of_pixels"] == {"vessel": 0.5}


def test_card_new_says_how_far_it_is(unlabelled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def watched(description: str) -> Iterator[Any]:
        yield lambda done, total=None, note="": seen.append((description, done))

    monkeypatch.setattr(cards, "progress", watched)
    _, root = unlabelled
    out = root.parent / "My card.md"
    result = RUN.invoke(app, ["card", "new", str(root), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert seen == [("reading", 1), ("checking", 1), ("checking", 2)]
    assert "name: my_card\n" in out.read_text(encoding="utf-8")


@pytest.fixture
def unsure(tmp_path: Path) -> Path:
    """Photographs with two masks each that mark the same pixels: nobody but a person knows which one is meant."""
    for seed in range(3):
        mask = np.zeros((60, 84), np.uint8)
        mask[10 + seed : 30, 20:40] = 255
        for folder, array in (("images", picture(seed)), ("vessels", mask), ("arteries", mask)):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            write_png(tmp_path / "set" / folder / f"{seed}.png", array)
    return tmp_path / "set"


def test_card_new_asks_where_nobody_answers_by_exit_code_2_and_the_options(unsure: Path) -> None:
    result = RUN.invoke(app, ["card", "new", str(unsure)])
    assert result.exit_code == 2
    assert "--take 'vessels/*.png=labels' --take 'arteries/*.png=nothing'" in result.stderr
    for said in (["--labels", "vessels"], ["--take", "vessels/*.png=labels", "--take", "arteries/*.png=nothing"]):
        result = RUN.invoke(app, ["card", "new", str(unsure), *said])
        assert result.exit_code == 0, result.output
        assert "file: vessels/{name}.png" in result.stdout
        assert "checked: 3 cases, 0 problems" in result.stderr
    for said in (["--take", "vessels"], ["--take", "vessels=mask"], ["--missing", "none"]):
        assert RUN.invoke(app, ["card", "new", str(unsure), *said]).exit_code == 2


def test_card_new_asks_on_a_terminal(unsure: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_on_a_terminal", lambda: True)
    out = unsure.parent / "mine.md"
    result = RUN.invoke(app, ["card", "new", str(unsure), "--out", str(out)], input="9\n2\n")
    assert result.exit_code == 0, result.output
    assert "mark the same pixels: which are the labels?" in result.stderr
    assert "file: vessels/{name}.png" in out.read_text(encoding="utf-8")

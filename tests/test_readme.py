"""What the README shows is what ocuseg takes."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.cards.card import parse_card
from pipeline.config import parse_config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_card_and_the_run_file_of_the_readme_are_read() -> None:
    card, run = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert parse_card(f"---\n{card}---\n").label_map.names == ("vessel",)
    assert parse_config(run).data.card == "my_card.md"


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / name).exists(), name

"""What the documentation shows is there, and is what ocuseg takes: links, files, commands and runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline.cards.card import parse_card
from pipeline.cli import app
from pipeline.config import load_config, parse_config, run_files
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_RUNS = {"train": "config", "compare": "configs", "crossvalidate": "config"}
"""Commands that take runs or studies by name, and what they call them."""
PLACEHOLDER = re.compile(r"[A-Z_]+|<.*>|\.\.\.|my_\w+(\.yaml|/\w+)?")
"""What stands for something of the reader's own."""


def test_the_card_and_the_run_file_of_the_readme_are_read() -> None:
    card, run = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert parse_card(f"---\n{card}---\n").label_map.names == ("vessel",)
    assert parse_config(run).data.card == "my_card.md"


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_a_page_names_only_what_is_there(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert list(faults(page.read_text(encoding="utf-8"), page.parent)) == []


def faults(text: str, folder: Path) -> Iterator[str]:
    """What a page in ``folder`` names that does not exist."""
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link and not (folder / link).exists():
            yield f"link {link}"
    for file in re.findall(r"\b(?:python|pytest)\s+([\w.-]+\.py|[\w.-]+(?:/[\w.-]*)+)", text):
        if not (ROOT / file).exists():
            yield f"file {file}"
    for words in commands(text):
        name, options = words[0], words[1:]
        command = COMMANDS.get(name)
        if hasattr(command, "commands"):  # card new
            name, options = " ".join(words[:2]), words[2:]
            usual = command.commands.get(getattr(command, "usual", ""))  # type: ignore[union-attr]  # review PREDICTIONS
            command = command.commands.get(words[1], usual) if len(words) > 1 else command  # type: ignore[union-attr]
        if command is None:
            yield f"command {name}"
        elif name in OF_RUNS:
            yield from (f"run {run}" for run in runs(command, name, options) if not PLACEHOLDER.fullmatch(run) and not known(run))


def commands(text: str) -> Iterator[list[str]]:
    """The words after each ``ocuseg`` in a page's code, but for ``ocuseg COMMAND`` and ``ocuseg --option``."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)
    for code in (*(line for block in blocks for line in block.splitlines()), *re.findall(r"`([^`]+)`", prose), *indented):
        words = re.sub(r"(^|\s)#.*", "", code).split()
        for place, word in enumerate(words[:-1]):
            if Path(word).name == "ocuseg" and re.match("[a-z]", words[place + 1]):
                yield words[place + 1 :]


def runs(command: Any, name: str, words: list[str]) -> list[str]:
    """The runs and studies that a command line names; fails at an option that the command does not have."""
    with command.context_class(command, info_name=name) as context:
        given, _, _ = command.make_parser(context).parse_args(list(words))
    found = given.get(OF_RUNS[name])
    return [found] if isinstance(found, str) else [run for run in found or () if isinstance(run, str)]


def known(run: str) -> bool:
    try:
        return all(load_config(path).name for path in run_files(Path(run)))
    except ConfigError:
        return False


def test_a_page_that_names_what_is_not_there_is_found() -> None:
    text = """
[a](docs/absent.md) [b](docs/cli.md#here) `python absent/speed.py` `.venv/bin/python -m pytest tests/test_readme.py`

```yaml
base: absent
```

    .venv/bin/ocuseg trian my_run.yaml      # ocuseg this
    ocuseg card nwe FOLDER
    ocuseg train my_run.yaml --root FOLDER

`ocuseg train phantom_litle --set train.epochs=2`, `ocuseg compare phantom_little cross_camera idrid_detectors/ssd
cross_kamera RUN --root A`, `ocuseg crossvalidate --folds 5 --root A my_run.yaml`; ocuseg does more.
"""
    assert list(faults(text, ROOT)) == [
        "link docs/absent.md",
        "file absent/speed.py",
        "run phantom_litle",
        "run idrid_detectors/ssd",
        "run cross_kamera",
        "command trian",
        "command card nwe",
    ]

"""Data cards: ``card check``, ``card new``, ``card explain``, ``card list``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import command, emit, progress, table
from pipeline.cli.data import AsJson, FollowLinks, Root, existing_folder, follow, printable, words
from pipeline.errors import EXIT_NOTHING_USABLE, EXIT_SOME_REJECTED, ConfigError

if TYPE_CHECKING:
    from pipeline.cards.card import DataCard
    from pipeline.cards.check import Problem
    from pipeline.cards.draft_roles import Question

CardName = Annotated[str, typer.Argument(help="A card's name, or a path to one.")]


def add_to(app: typer.Typer) -> None:
    card = typer.Typer(no_args_is_help=True, help="Check, draft, explain and list data cards.", rich_markup_mode=None)
    card.command("check")(command(card_check))
    card.command("new")(command(card_new))
    card.command("explain")(command(card_explain))
    card.command("list")(command(card_list))
    app.add_typer(card, name="card")


def _card_of(name: str, root: Path, follow_links: bool) -> DataCard:
    """The card, after checking that the folder exists."""
    from pipeline.cards.card import load_card

    card = load_card(name)
    existing_folder(root, "root")
    follow(follow_links)
    return card


def card_check(
    name: CardName,
    root: Root,
    follow_links: FollowLinks = False,
    as_json: AsJson = False,
) -> None:
    """Check the files under ROOT against the card, list the faults by file, and count what is there."""
    from pipeline.cards.check import card_statistics, check_card

    card = _card_of(name, root, follow_links)
    with progress("checking") as advance:
        found = check_card(card, root, progress=advance)
    with progress("counting") as advance:
        statistics = card_statistics(card, root, progress=advance)
    cases = statistics["cases"]

    def said(severity: str) -> list[dict[str, str]]:
        return [{"file": p.file, "message": p.message} for p in found if p.severity == severity]

    lines = _problem_lines(found)
    lines += [f"{words(name)}: {_counted(value)}" for name, value in statistics.items() if value and name != "cases"]
    faults = said("problem")
    emit(
        {"cases": cases, "statistics": statistics, "problems": faults, "warnings": said("warning"), "to_complete": said("to complete")},
        as_json,
        [*lines, _verdict(cases, found)],
    )
    if faults or not cases:
        raise typer.Exit(EXIT_SOME_REJECTED if cases else EXIT_NOTHING_USABLE)


def _problem_lines(found: Sequence[Problem]) -> list[str]:
    prefix = {"problem": "", "warning": "warning: ", "to complete": "to complete: "}
    return [f"{printable(Path(p.file)) if p.file else 'the set'}: {prefix[p.severity]}{p.message}" for p in found]


def _verdict(cases: int, found: Sequence[Problem]) -> str:
    warnings, left = (sum(p.severity == severity for p in found) for severity in ("warning", "to complete"))
    text = f"{cases} cases, {len(found) - warnings - left} problems" + (f", {warnings} warnings" if warnings else "")
    return text + (f", {left} points to complete" if left else "")


def _counted(value: Any) -> str:
    """A count, or counts by name, on one line; a fraction of pixels as a percentage."""
    if not isinstance(value, dict):
        return str(value)
    shown = {name: f"{100 * n:.2f} %" if isinstance(n, float) else "unknown" if n is None else str(n) for name, n in value.items()}
    return ", ".join(f"{name} {text}" for name, text in shown.items())


def card_new(
    folder: Annotated[Path, typer.Argument(help="A folder with scans and labels.")],
    out: Annotated[Path | None, typer.Option(help="Write the draft here instead of printing it.")] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="Folder of the labels (once for each), or a CSV with columns image,label.")
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(
            help="What a folder or the files of a pattern are: FOLDER=images, labels, classes, objects (numbered), agreement (of readers), "
            "second_reader, field_of_view or nothing. May be repeated."
        ),
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="Images without a label: empty (nothing is there) or skip (nobody has labelled them).")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="File and folder names identify nobody and may appear in the card.")] = False,
    follow_links: FollowLinks = False,
) -> None:
    """Draft a card for a folder of your own, named like the file OUT, and check it; read it through and complete it."""
    from pipeline.cards.check import check_draft, draft_card
    from pipeline.cards.draft_groups import Looks
    from pipeline.cards.draft_roles import OpenQuestionError

    existing_folder(folder, "folder")
    follow(follow_links)
    if out is not None and out.exists():
        raise ConfigError(f"{str(out)!r} exists; give a new name, so that nothing is overwritten")
    takes, looks, text = _takes(take or (), missing), Looks(), None
    name = out.stem if out else None
    while text is None:
        try:
            with progress("reading") as advance:
                text = draft_card(folder, labels=labels, name=name, takes=takes, public=public, looks=looks, progress=advance)
        except OpenQuestionError as error:
            if not _on_a_terminal():
                raise
            takes |= _answer(error.question)
    with progress("checking") as advance:
        cases, problems = check_draft(text, folder, progress=advance)
    lines = [*_problem_lines(problems), f"checked: {_verdict(cases, problems)}"]
    if out is None:
        print(text, end="")
        typer.echo("\n".join(lines), err=True)
    else:
        out.write_text(text, encoding="utf-8")
        print("\n".join([f"drafted {out}", *lines, f"complete it, then: ocuseg card check {out} --root {folder}"]))
    if not cases or any(p.severity == "problem" for p in problems):
        raise typer.Exit(EXIT_SOME_REJECTED if cases else EXIT_NOTHING_USABLE)


def _takes(said: Sequence[str], missing: str | None) -> dict[str, str]:
    if missing not in (None, "empty", "skip"):
        raise ConfigError(f"--missing: unknown {missing!r}; known: empty, skip")
    takes = {"--missing": missing} if missing else {}
    for text in said:
        place, separator, role = text.rpartition("=")
        if not separator or not place:
            raise ConfigError(f"--take {text!r}: write it as FOLDER=ROLE, such as --take masks=labels")
        takes[place] = role
    return takes


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _answer(question: Question) -> dict[str, str]:
    """Asks a question on the terminal until one of its answers is chosen; returns the options that the answer stands for."""
    lines = ["", question.text, *(f"  {number}: {words}" for number, (words, _) in enumerate(question.answers, 1))]
    typer.echo("\n".join(lines), err=True)
    numbers = [str(number) for number in range(1, len(question.answers) + 1)]
    while (chosen := typer.prompt("number", err=True).strip()) not in numbers:
        typer.echo(f"a number from 1 to {numbers[-1]}", err=True)
    return question.answers[int(chosen) - 1][1]


def card_explain(
    name: CardName,
    root: Root,
    examples: Annotated[int, typer.Option(min=0, help="Example files to show for each pattern.")] = 3,
    follow_links: FollowLinks = False,
    as_json: AsJson = False,
) -> None:
    """Show what the card's patterns match under ROOT: fields, patients, eyes, parts, and what is left over and why. Opens no image."""
    from pipeline.cards.explain import explain_card

    told = explain_card(_card_of(name, root, follow_links), root, examples=examples)
    lines = []
    for entry in told["patterns"]:
        lines.append(f"{entry['role']}: {entry['pattern']}: {entry['files']} files")
        for file, fields in entry["examples"]:
            said = ", ".join(f"{key} {value}" for key, value in fields.items() if key != "stem")
            lines.append(f"    {printable(Path(file))}" + (f": {said}" if said else ""))
    counted = ("cases", "unlabelled", "patients", "both_eyes", "visits", "eyes", "parts", "patient_from")
    lines += [f"{words(key)}: {_counted(told[key])}" for key in counted if told[key]]
    left = told["left_over"]
    lines += [f"left over: {len(left)} files that do not fit together"] if left else []
    lines += [f"    {printable(Path(file))}: {why}" for file, why in left[: 10 * examples]]
    lines += ["    ..."] if len(left) > 10 * examples else []
    for ending, some in told["other"].items():
        shown = ", ".join(printable(Path(file)) for file in some["examples"])
        lines.append(f"no pattern fits {some['files']} files ({ending})" + (f": {shown}" if shown else ""))
    emit(told, as_json, lines)
    if not told["cases"]:
        raise typer.Exit(EXIT_NOTHING_USABLE)


def card_list(as_json: AsJson = False) -> None:
    """List the cards that come with ocuseg."""
    from pipeline.cards.card import list_cards

    cards = list_cards()
    rows = [[c.name, c.modality, ", ".join(c.label_map.names), c.licence] for c in cards]
    emit(
        [dict(zip(("name", "modality", "classes", "licence"), row, strict=True)) for row in rows],
        as_json,
        table(["name", "modality", "classes", "licence"], rows),
    )

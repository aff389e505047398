"""A department's review of predictions: ``review``, its accounts, and whether its log is whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from pipeline.cli import review_labels
from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, existing_folder
from pipeline.errors import EXIT_SOME_REJECTED, ConfigError

Predictions = Annotated[Path, typer.Argument(help="Folder that `ocuseg predict` or `segment` wrote.")]
AccountsFile = Annotated[
    Path | None, typer.Option("--accounts", help="File of local accounts (default: OCUSEG_ACCOUNTS, or .config/ocuseg/accounts.json).")
]


class _ServesByDefault(TyperGroup):
    """``ocuseg review PREDICTIONS`` is ``ocuseg review serve PREDICTIONS``."""

    usual = "serve"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.usual, *args]
        return super().parse_args(ctx, args)


def add_to(app: typer.Typer) -> None:
    review = typer.Typer(
        cls=_ServesByDefault,
        no_args_is_help=True,
        help="Let reviewers accept, reject and correct what was predicted: `ocuseg review PREDICTIONS`.",
        rich_markup_mode=None,
    )
    accounts = typer.Typer(no_args_is_help=True, help="Local accounts of reviewers who log in.", rich_markup_mode=None)
    review.command("serve")(command(serve))
    review.command("status")(command(status))
    review.command("verify")(command(verify))
    review_labels.add_to(review)
    accounts.command("add")(command(add))
    accounts.command("remove")(command(remove))
    accounts.command("list")(command(listed))
    review.add_typer(accounts, name="accounts")
    app.add_typer(review, name="review")


def serve(
    predictions: Predictions,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8800,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine reviewers must log in.")] = "127.0.0.1",
    allowed_host: Annotated[list[str] | None, typer.Option(help="A further name that browsers know the server by (repeatable).")] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Who reviews, for the log, where nobody logs in (default: the account of the operating system).")
    ] = None,
    login: Annotated[bool, typer.Option("--login", help="Local accounts log in on this machine, too.")] = False,
    accounts: AccountsFile = None,
    proxy_header: Annotated[
        str | None, typer.Option(help="Header in which a reverse proxy names who has logged in, such as X-Remote-User.")
    ] = None,
    proxy_from: Annotated[
        list[str] | None,
        typer.Option(help="Address of the reverse proxy, the only one answered (repeatable; default: this machine)."),
    ] = None,
    second: Annotated[list[str] | None, typer.Option(help="Name of a second reader (repeatable).")] = None,
    adjudicator: Annotated[list[str] | None, typer.Option(help="Name of who ends a disagreement (repeatable).")] = None,
    blinded: Annotated[bool, typer.Option("--blinded", help="Two readers see each other's work after their own verdict.")] = False,
    order: Annotated[
        Literal["needs", "doubt", "typical", "disagreement", "random"],
        typer.Option(help="What is shown first: what needs eyes, as the worklist has it, or what teaches a network most (docs/review.md)."),
    ] = "needs",
    seed: Annotated[int, typer.Option(help="Of --order random.")] = 0,
    labels: Annotated[
        Path | None, typer.Option(help="At the end add what was reviewed to this labelled set, as `ocuseg review export` does.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of a TLS certificate, with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
) -> None:
    """Serve the report with a bar for verdicts and corrections; Ctrl-C ends. Needs ocuseg[review], and neither a network nor a GPU."""
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key go together")
    try:
        from pipeline.review.server import Wishes, started
    except ImportError as error:
        raise ConfigError(f"the review server needs the package {error.name}: pip install 'ocuseg[review]'") from None

    wishes = Wishes(
        host=host,
        port=port,
        allowed_hosts=allowed_host or (),
        reviewer=reviewer,
        login=login,
        accounts=accounts,
        proxy_header=proxy_header,
        proxies=proxy_from or (),
        second=second or (),
        adjudicators=adjudicator or (),
        blinded=blinded,
        certificate=None if certificate is None or key is None else (certificate, key),
    )
    existing_folder(predictions, "predictions")
    with progress("report") as advance:
        serving = started(predictions, wishes, order=_ordered(predictions, order, seed), progress=advance)
    shown = f"[{host}]" if ":" in host else host
    with serving:
        typer.echo(f"review: {'https' if certificate else 'http'}://{shown}:{serving.port}/   (Ctrl-C ends)", err=True)
        try:
            serving.wait()
        except KeyboardInterrupt:  # how a review ends; each verdict was stored when it was given
            typer.echo("review ended; every verdict is in the log", err=True)
    if labels is not None:
        from pipeline.review.labelled_set import export_set

        with progress("exporting") as advance:
            made = export_set(predictions, labels, progress=advance)
        typer.echo("\n".join(made.lines()))


def _ordered(
    predictions: Path, order: Literal["needs", "doubt", "typical", "disagreement", "random"], seed: int
) -> Callable[[Sequence[str]], list[str]]:
    """Names in the order of the worklist -> as they are to be reviewed."""
    from pipeline.review.order import in_order

    return list if order == "needs" else lambda names: in_order(predictions, names, order, seed)


def status(predictions: Predictions, as_json: AsJson = False) -> None:
    """Count verdicts, reasons, disagreements and reviewers."""
    from pipeline.review.audit import status as counted

    folder = existing_folder(predictions, "predictions")
    told = counted(folder, sum(path.is_dir() and not path.name.startswith(".") for path in (folder / "cases").glob("*")))
    lines = [f"{told['cases']} cases: " + ", ".join(f"{told[kind]} {kind}" for kind in ("accepted", "edited", "rejected", "unreviewed"))]
    lines += [f"reasons: {', '.join(f'{code} {count}' for code, count in told['reasons'].items())}"] if told["reasons"] else []
    lines += [f"read twice: {told['read_twice']}, verdicts differ: {told['disagreements']}"] if told["read_twice"] else []
    lines += [f"verdicts by {name}: {count}" for name, count in told["reviewers"].items()]
    lines += [f"newest event: {told['head']}"] if told["head"] else []
    emit(told, as_json, lines)


def verify(
    predictions: Predictions,
    head: Annotated[str | None, typer.Option(help="Hash of an event noted elsewhere; the log must hold it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that log, corrections and masks are what they were; exit code 3 where something is not."""
    from pipeline.review.audit import audit

    found = audit(existing_folder(predictions, "predictions"), head)
    whole = f"{found.events} events and {found.corrections} corrections are as they were written; newest event: {found.head}"
    lines = list(found.faults) or [whole]
    if found.unnamed:
        lines.append(f"{found.unnamed} corrections belong to no event: their process ended before it could write one; nothing reads them")
    emit(asdict(found), as_json, lines)
    if found.faults:
        raise typer.Exit(EXIT_SOME_REJECTED)


def add(name: Annotated[str, typer.Argument(help="As it will stand in the log.")], accounts: AccountsFile = None) -> None:
    """Make an account, or give one a new password, which is asked for, or read from standard input."""
    from pipeline.review.accounts import Accounts, default_accounts

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    path = accounts or default_accounts()
    Accounts(path).add(name, password)
    typer.echo(f"account {name}: {path}")


def remove(name: str, accounts: AccountsFile = None) -> None:
    """Remove an account; its sessions end."""
    from pipeline.review.accounts import Accounts, default_accounts

    Accounts(accounts or default_accounts()).remove(name)


def listed(accounts: AccountsFile = None, as_json: AsJson = False) -> None:
    """List the accounts."""
    from pipeline.review.accounts import Accounts, default_accounts

    names = Accounts(accounts or default_accounts()).names()
    emit(names, as_json, names)

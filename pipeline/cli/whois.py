"""``whois``: at the site, from a pseudonym back to the file and the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, progress
from pipeline.cli.data import AsJson, FollowLinks, SiteKey, existing_folder, follow, printable
from pipeline.errors import NothingUsableError

SOURCES = {"tag": "from the file's header", "folder": "from the folder's name", "file": "from the file's name"}


def add_to(app: typer.Typer) -> None:
    app.command("whois")(command(whois))


def whois(
    token: Annotated[str, typer.Argument(help="A pseudonym of a patient, visit, image or file, or a case's whole name.")],
    root: Annotated[Path, typer.Option(help="The folder of scans, as it was given to `segment`, `predict` or `index`.")],
    results: Annotated[Path | None, typer.Option(help="The folder of results: its key is compared with this one first.")] = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Lead from a pseudonym back to the files and the patient: at the site, with its key, on the screen alone."""
    from pipeline.scans.identity import Pseudonyms, default_key_path
    from pipeline.scans.whois import who_is

    existing_folder(root, "--root")
    follow(follow_links)
    names = Pseudonyms.load(site_key or default_key_path())
    if results is not None:
        from pipeline.inference.out_folder import check_key

        check_key(existing_folder(results, "--results"), names)
    with progress("looking") as advance:
        found = list(who_is(token, root, names, advance))
    if not found:
        raise NothingUsableError(
            f"no file below the folder has the pseudonym {token}: it was made with another site key, or its file is not (or no longer) in "
            "this folder, which must be the one that was given to ocuseg; --results OUT tells whether the key is the right one"
        )
    rows = [
        {
            "file": printable(one.path),
            "patient": one.whose.patient,
            "patient_source": SOURCES[one.whose.source],
            "visit": one.whose.visit,
            "eye": one.whose.case.eye,
            "case": str(one.whose.case),
        }
        for one in found
    ]
    lines = [
        f"{row['file']}\n  patient {row['patient']} ({row['patient_source']}), visit {row['visit'] or 'not stated'}, eye {row['eye']}"
        for row in rows
    ]
    emit(rows, as_json, lines)

"""A run file from the data: ``plan``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, program, progress
from pipeline.cli.data import AsJson, FollowLinks, SiteKey, existing_folder, follow
from pipeline.cli.runs import Device, WeightsDir, use_weights
from pipeline.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    app.command("plan")(command(plan))


def plan(
    card: Annotated[str, typer.Option(help="Card of the labelled data: a name, or a path.")],
    root: Annotated[Path, typer.Option(help="Folder that holds the data set.")],
    out: Annotated[Path | None, typer.Option(help="Write the run file here instead of printing it.")] = None,
    device: Device = "auto",
    weights_dir: WeightsDir = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a run file for a data set from what data and machine are, each setting with its reason; read it, change it, train."""
    from pipeline.planning.plan import facts_lines, make_plan

    existing_folder(root, "--root")
    follow(follow_links)
    use_weights(weights_dir)
    if out is not None and out.exists():
        raise ConfigError(f"{str(out)!r} exists; give a new name, so that nothing is overwritten")
    with progress("planning") as advance:
        made = make_plan(card, root, device=device, key_path=site_key, progress=advance)
    if out is None:
        return emit({"config": made.config.model_dump(mode="json"), "plan": made.text}, as_json, [made.text.rstrip()])
    out.write_text(made.text, encoding="utf-8")
    facts = facts_lines(made.facts)
    next_step = f"planned {out}; read it, then: {program('ocuseg')} train {shlex.quote(str(out))} --root {shlex.quote(str(root))}"
    emit({"plan": str(out), "config": made.config.model_dump(mode="json"), "facts": facts}, as_json, [*facts, next_step])

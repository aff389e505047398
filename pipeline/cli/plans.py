"""A run without a run file of one's own: ``plan``, ``finetune``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import command, emit, program, progress
from pipeline.cli.data import AsJson, FollowLinks, Root, SiteKey, existing_bundle, existing_folder, follow
from pipeline.cli.runs import (
    BundlePath,
    Card,
    Device,
    Override,
    Plugin,
    Runs,
    SameClasses,
    WeightsDir,
    same_classes,
    use_weights,
)
from pipeline.errors import ConfigError
from pipeline.plugins import load_plugin


def add_to(app: typer.Typer) -> None:
    app.command("plan")(command(plan))
    app.command("finetune")(command(finetune))


def plan(
    card: Card,
    root: Root,
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
    if out is not None:
        existing_folder(out.parent, "--out: its folder")
    with progress("planning") as advance:
        made = make_plan(card, root, device=device, key_path=site_key, progress=advance)
    if out is None:
        return emit({"config": made.config.model_dump(mode="json"), "plan": made.text}, as_json, [made.text.rstrip()])
    out.write_text(made.text, encoding="utf-8")
    facts = facts_lines(made.facts)
    next_step = f"planned {out}; read it, then: {program('ocuseg')} train {shlex.quote(str(out))} --root {shlex.quote(str(root))}"
    emit({"plan": str(out), "config": made.config.model_dump(mode="json"), "facts": facts}, as_json, [*facts, next_step])


def finetune(
    bundle: BundlePath,
    card: Card,
    root: Root,
    out: Runs = Path("runs"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser, about.")] = 300,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Train on at most so many patients (default: all of the training part).")
    ] = None,
    classes: SameClasses = None,
    override: Override = None,
    device: Device = "auto",
    plugin: Plugin = None,
    follow_links: FollowLinks = False,
    site_key: SiteKey = None,
    as_json: AsJson = False,
) -> None:
    """Teach a bundle's network further on a few labelled images, and tell its scores on the test part before and after."""
    bundle = existing_bundle(bundle)
    existing_folder(root, "--root")
    for path in plugin or []:
        load_plugin(path)
    follow(follow_links)
    from pipeline.studies.finetune import finetune, prepare
    from pipeline.training.platform import choose_device

    choose_device(device)
    todo = prepare(
        bundle, card, root, same=same_classes(classes or ()), steps=steps, patients=patients, overrides=override or (), key_path=site_key
    )
    with progress("finetuning") as advance:
        found = finetune(todo, out, device=device, key_path=site_key, plugins=plugin or (), progress=advance)
    emit(found.to_json(), as_json, found.lines())

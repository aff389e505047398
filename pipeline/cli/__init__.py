"""The command line. Nothing heavy is imported until a command needs it, so ``ocuseg --help`` answers at once.

Exit codes: 0 all well; 2 wrong usage or configuration, or a path that the system refuses; 3 finished, but some cases were
rejected; 4 nothing usable; 75 the time of --stop-after is over, 130 interrupted (what was done is saved by both). Anything else
is a fault of ocuseg and shows its traceback.
"""

from __future__ import annotations

import typer

from pipeline.cli import (
    about,
    cards,
    data,
    deidentify,
    demo,
    export,
    live,
    merge,
    pacs,
    plans,
    predict,
    report,
    review,
    runs,
    segment,
    studies,
    whois,
    workflow,
)

app = typer.Typer(
    name="ocuseg",
    help="Segments ophthalmology scans: from a hospital folder to reviewable overlay reports. Research use, not for diagnosis.",
    epilog="Exit codes: 0 all well, 2 wrong usage or config, 3 finished but some cases were rejected, 4 nothing usable, "
    "75 stopped by --stop-after, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
segment.add_to(app)
data.add_to(app)
whois.add_to(app)
deidentify.add_to(app)
cards.add_to(app)
plans.add_to(app)
runs.add_to(app)
predict.add_to(app)
merge.add_to(app)
report.add_to(app)
review.add_to(app)
export.add_to(app)
pacs.add_to(app)
live.add_to(app)
studies.add_to(app)
workflow.add_to(app)
about.add_to(app)
demo.add_to(app)


def main() -> None:
    """Entry point of the ``ocuseg`` command."""
    app()

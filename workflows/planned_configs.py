"""What `ocuseg plan` is worth: its run file beside the hand-made one, and beside phantom_little with another card, at equal steps.

    .venv/bin/python workflows/planned_configs.py --steps 3000 --weights-dir WEIGHTS --root chase_db1=CHASE --root hrf=HRF \\
        --root drishti_gs=DRISHTI --root idrid_codras=IDRID --root rossa_octa=ROSSA --root drive=DRIVE \\
        --root phantom_oct_layers=PHANTOMS/card

One study a data set, below OUT: the same split (the hand-made config's), seed and steps for each network, tested on the test part, with
paired differences. DRIVE has no config of its own and takes that of CHASE_DB1. Run the same command again to continue an interrupted one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cli.console import progress, script
from pipeline.cli.runs import use_weights
from pipeline.cli.studies import split_root
from pipeline.config import RunConfig, load_config
from pipeline.datasets.splits import make_split
from pipeline.errors import ConfigError
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.schedule import epochs_for
from pipeline.studies.study import run_study

HAND_MADE = {
    "chase_db1": "chase_vessels_little",
    "hrf": "cross_camera/hrf",
    "rossa_octa": "cross_camera/rossa",
    "drive": "chase_vessels_little",
    "drishti_gs": "drishti_networks/mobilenet_unet",
    "idrid_codras": "idrid_detectors/mask_rcnn",
    "phantom_oct_layers": "phantom_oct_layers",
}
SIMPLE = "phantom_little"
VALIDATIONS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", action="append", required=True, metavar="CARD=DIR", help="a data set; may be repeated")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the optimiser, of each network")
    parser.add_argument("--out", type=Path, default=Path("studies") / "planned_configs")
    parser.add_argument("--weights-dir", type=Path, help="folder with ImageNet weights")
    parser.add_argument("--device", default="auto", help="what trains: auto, cpu or cuda; plans are made for it")
    options = parser.parse_args()
    use_weights(options.weights_dir)
    for card, root in map(split_root, options.root):
        if card not in HAND_MADE:
            raise ConfigError(f"--root {card}={root}: there is no hand-made config of that card; known: {', '.join(HAND_MADE)}")
        folder = options.out / card
        folder.mkdir(parents=True, exist_ok=True)
        plan = make_plan(card, root, device=options.device)
        (folder / "planned.yaml").write_text(plan.text, encoding="utf-8")
        chosen = configs(plan, root, options.steps)
        with progress(f"comparing on {card}") as advance:
            done = run_study(card, chosen, root, folder, device=options.device, keep_going=True, progress=advance)
        print("\n".join([f"== {card}", *done.lines(), ""]))


def configs(plan: Plan, root: Path, steps: int) -> Sequence[RunConfig]:
    """The planned config, the hand-made one and, where there are masks, the simple one: all on the plan's card, split and steps alike."""
    card = plan.config.data.card
    named = {"planned": plan.config, "hand_made": load_config(Path(HAND_MADE[card]), [f"data.card={card}"])}
    if plan.facts.labels != "boxes":
        named["simple"] = load_config(Path(SIMPLE), [f"data.card={card}"])
    split = named["hand_made"].data.split
    own = load_card(card)
    images = len(make_split(own, find_cases(own, root), split, 0).train) * plan.facts.slices
    equal = {name: with_steps(_changed(config, "data", split=split), images, steps) for name, config in named.items()}
    return [config.model_copy(update={"name": name}) for name, config in equal.items()]


def with_steps(config: RunConfig, images: int, steps: int) -> RunConfig:
    """``config`` with so many steps, instead of its time or epochs, over ``images`` training images (slices)."""
    samples = math.ceil(images / (config.data.slices or 1)) * config.data.crops_per_image
    epochs = epochs_for(steps, samples, config.train.batch_size, config.train.accumulate)
    validate_every = max(round(epochs / VALIDATIONS), 1)
    return _changed(config, "train", epochs=epochs, minutes=None, patience=None, validate_every=validate_every)


def _changed(config: RunConfig, section: str, **changes: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


if __name__ == "__main__":
    script(main)

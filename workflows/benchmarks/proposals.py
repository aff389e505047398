"""How many true objects proposals cover, by how many are looked at: selective search, OpenCV's, and detectors' own.

    .venv/bin/python workflows/benchmarks/proposals.py [--bundle RUN/bundle ...] [--root DIR] [--images 66] [--write docs/results]

On the test photographs of IDRiD at full size (1072 x 712). OpenCV's selective search (`pip install 'ocuseg[live]'` brings it) is given the
picture that ours reduces the photograph to, with superpixels of the same smallest scale; its number of boxes follows from its settings.
``--bundle``: two-stage detectors whose proposals are drawn beside, such as those of studies/rcnn_lineage. Seconds are CPU seconds of
one photograph on one thread. With --write the chart goes to FOLDER/proposals.png.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from photographs import SHARED

COUNTS = (10, 30, 100, 300, 1000, 2000)
OVERLAPS = (0.5, 0.7)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))
Boxes = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=SHARED / "data" / "idrid_codras_boxes")
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--images", type=int, default=66)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not there; give --root with the folder that data_cards/idrid_codras.md describes")
    logging.disable(logging.WARNING)
    import torch

    from pipeline.cards.card import load_card, read_scan
    from pipeline.cards.find_cases import find_cases
    from pipeline.cards.targets import read_truth
    from pipeline.drawing.curves import draw_curves
    from pipeline.metrics.proposals import recall
    from pipeline.scans.raster import write_png

    torch.set_num_threads(1)
    card = load_card("idrid_codras")
    sides = dict(proposers(options.bundle))
    found: dict[str, list[Boxes]] = {name: [] for name in sides}
    seconds = dict.fromkeys(sides, 0.0)
    truths = []
    for case in [case for case in find_cases(card, options.root) if case.part == "test"][: options.images]:
        scan = read_scan(card, case)
        objects = read_truth(card, case, objects=True, scan=scan).objects
        assert objects is not None
        truths.append((objects[0].boxes, objects[0].labels))
        for name, propose in sides.items():
            began = time.process_time()
            found[name].append(propose(scan))
            seconds[name] += time.process_time() - began
    print(f"{len(truths)} photographs, {sum(len(boxes) for boxes, _ in truths)} objects; recall by the number of proposals")
    print("| proposals | a picture | CPU s | IoU | " + " | ".join(map(str, COUNTS)) + " |\n|" + "---|" * (4 + len(COUNTS)))
    curves: dict[str, Any] = {}
    for name, boxes in found.items():
        for iou in OVERLAPS:
            every = recall(boxes, truths, len(card.label_map), COUNTS, iou).every
            values = [every[count] or 0.0 for count in COUNTS]
            number = np.mean([len(part) for part in boxes])
            spent = f"{number:.0f} | {seconds[name] / len(truths):.2f} | {iou}"
            print(f"| {name} | {spent} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
            curves[f"{name}, IoU {iou}"] = COUNTS, values
    if options.write:
        colours = [colour for colour in COLOURS[: len(found)] for _ in OVERLAPS]
        picture = draw_curves(curves, "objects covered by proposals", "proposals a photograph", "recall", colours, ticks=COUNTS)
        options.write.mkdir(parents=True, exist_ok=True)
        write_png(options.write / "proposals.png", picture)


def proposers(bundles: list[Path]) -> Iterator[tuple[str, Callable[[Any], Boxes]]]:
    """What proposes, by name: a scan -> boxes (P, 4) in its pixels, the likeliest first."""
    from pipeline.bundles.bundle import load_bundle
    from pipeline.inference.predict import Predictor
    from pipeline.inference.proposals import check_proposals, proposals_of
    from pipeline.models.selective_search import selective_search

    yield "selective search", lambda scan: selective_search(scan.pixels)
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed and left out: pip install 'ocuseg[live]'")
    else:
        cv2.setNumThreads(1)
        yield "OpenCV's", lambda scan: opencv(cv2, scan.pixels)
    for path in bundles:
        predictor = Predictor(load_bundle(path))
        check_proposals(predictor)
        config: Any = predictor.bundle.config
        # As many as its configuration keeps, at most proposals.MOST.
        yield config.model.name, lambda scan, predictor=predictor: next(proposals_of(predictor, predictor.ready(scan)))


def opencv(cv2: Any, pixels: npt.NDArray[np.uint8]) -> Boxes:
    """OpenCV's fast mode on (3, H, W), reduced as ours reduces it."""
    from pipeline.models.selective_search import SelectiveSearchConfig

    config = SelectiveSearchConfig()
    rows, columns = pixels.shape[1:]
    size = round(columns * config.side / min(rows, columns)), round(rows * config.side / min(rows, columns))
    picture = cv2.resize(np.ascontiguousarray(np.moveaxis(pixels[::-1], 0, -1)), size, interpolation=cv2.INTER_AREA)
    cv2.setRNGSeed(0)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(picture)
    smallest = round(min(config.scales))
    search.switchToSelectiveSearchFast(smallest, smallest)
    boxes = search.process().astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    boxes *= np.array([columns / size[0], rows / size[1]] * 2, np.float32)
    return np.asarray(boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= config.min_side], np.float32)


if __name__ == "__main__":
    main()

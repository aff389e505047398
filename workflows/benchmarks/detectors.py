"""Our Mask R-CNN beside torchvision's reference recipe, on the same photographs in one run.

    .venv/bin/python workflows/benchmarks/detectors.py [--steps 10] [--root ../shared/data/idrid_codras_boxes]

The peer is what torchvision's references/detection has its users write: a data set of PIL images with one mask an object, PILToTensor, a
horizontal flip, DataLoader, MaskRCNN on mobilenet_backbone("mobilenet_v2") or resnet_fpn_backbone with a pyramid of five levels, whose own
transform normalises and resizes, SGD, and masks pasted into the photograph. Both get the same IDRiD photographs with an ellipse in each
box, the same input size, batch, anchors a place, numbers of proposals and samples, frozen first layers, ImageNet weights (where the file is
there) and optimiser. Training steps include loading, which is also told apart: ours decodes each photograph once, before the first step.
Inference goes from the file to boxes and boolean masks in the photograph's own frame, and in both pastes the same number of masks, so that
neither is fast by finding less; ours then drops what lies outside the field of view.

Steps of the two alternate, and the median of the ratios of neighbours is told, because other work on the machine comes and goes;
CPU seconds are told beside, which it touches less. The memory allocator is set as every ocuseg run sets it, for both; that is worth
much to the peer, so the comparison is on the cautious side.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from photographs import SHARED

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = SHARED / "data" / "idrid_codras_boxes"
WEIGHTS = SHARED / "weights" / "mobilenet_v2-b0353104.pth"
FROZEN = 2  # first stages of the encoder (strides 2 and 4) that are not trained where there are ImageNet weights
Seconds = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the photographs, as data_cards/idrid_codras.md describes it")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="torchvision's MobileNetV2; without the file both start at random")
    parser.add_argument(
        "--backbone", default="mobilenet_v2", choices=("mobilenet_v2", "resnet50"), help="without ImageNet weights if resnet50"
    )
    parser.add_argument("--images", type=int, default=16, help="photographs used, at least a batch")
    parser.add_argument("--size", type=int, nargs=2, default=(448, 672), metavar=("ROWS", "COLUMNS"), help="input, multiples of 32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed training steps of each; two more go before")
    parser.add_argument("--predictions", type=int, default=10, help="timed photographs of each at inference; one more goes before")
    parser.add_argument("--objects", type=int, default=100, help="objects that both keep of a photograph at inference")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not there; give --root with the folder that data_cards/idrid_codras.md describes")

    logging.disable(logging.WARNING)
    import torch

    from pipeline.training.platform import prepare_machine

    device = prepare_machine(options.device)
    torch.manual_seed(0)
    ours = Ours(options, device)
    sides: dict[str, Any] = {"ocuseg": ours, "torchvision": Peer(options, device, [case.image for case in ours.cases])}
    training = alternate({name: side.train for name, side in sides.items()}, warm_up=2, rounds=options.steps)
    for side in sides.values():
        side.start_predicting()
    inference = alternate({name: side.predict for name, side in sides.items()}, warm_up=1, rounds=options.predictions)

    rows, columns = options.size
    where = f"{torch.get_num_threads()} threads, {device}"
    print(f"Mask R-CNN, {options.backbone} with a pyramid, {rows} x {columns}, batch {options.batch}, {where}")
    report("training step, s", training, "seconds")
    report("  loading", training, "loading")
    report("  computing", training, "computing")
    report("  CPU seconds", training, "cpu")
    report("inference, s / image", inference, "seconds")
    report("  CPU seconds", inference, "cpu")
    for name, side in sides.items():
        speed = 1 / statistics.median(inference[name]["seconds"])
        found = statistics.mean(side.found)
        print(f"{name}: {speed:.2f} images / s, {found:.0f} objects an image, {side.parameters / 1e6:.1f} M parameters")
    slower = [what for what, seconds in (("training", training), ("inference", inference)) if ratio(seconds, "seconds") < 1]
    print("ocuseg is no slower" if not slower else f"ocuseg is SLOWER in {' and '.join(slower)}")


def alternate(runs: dict[str, Callable[[], dict[str, float]]], warm_up: int, rounds: int) -> dict[str, Seconds]:
    """Seconds of each run by what they were spent on; the runs take turns, and so does who begins."""
    out: dict[str, Seconds] = {name: {} for name in runs}
    for number in range(warm_up + rounds):
        for name in list(runs) if number % 2 else reversed(runs):
            spent = runs[name]()
            for what, seconds in spent.items() if number >= warm_up else ():
                out[name].setdefault(what, []).append(seconds)
    return out


def ratio(seconds: dict[str, Seconds], what: str) -> float:
    """How many times as fast ours is: the median over pairs of neighbours."""
    pairs = zip(seconds["torchvision"][what], seconds["ocuseg"][what], strict=True)
    return statistics.median(peer / max(ours, 1e-9) for peer, ours in pairs)


def report(title: str, seconds: dict[str, Seconds], what: str) -> None:
    ours, peer = (statistics.median(seconds[name][what]) for name in ("ocuseg", "torchvision"))
    print(f"{title:22} ocuseg {ours:7.3f}   torchvision {peer:7.3f}   ocuseg is {ratio(seconds, what):.2f} x as fast")


def clock(device: str) -> tuple[float, float]:
    """(wall, this process's CPU time) in seconds."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class Ours:
    """The product's own parts, in the order in which training/loop.py and inference/predict.py use them."""

    def __init__(self, options: Any, device: str) -> None:
        import torch

        from pipeline.bundles.bundle import build_task
        from pipeline.cards.card import load_card
        from pipeline.cards.find_cases import find_cases
        from pipeline.config import parse_config
        from pipeline.datasets.loader import CaseStore, TrainingLoader
        from pipeline.models.base import memory_format
        from pipeline.models.precision import choose_precision
        from pipeline.training.compiling import record_dense_parts
        from pipeline.training.optimise import make_optimizer
        from pipeline.training.platform import channels_last_suits

        rows, columns = options.size
        weights = str(options.weights) if pretrained(options) else "none"
        config = parse_config(
            f"""
            name: benchmark
            data:
              card: idrid_codras
              weak_masks: ellipse
              crop: null
              crops_per_image: 1
              workers: {options.workers}
              normalise: {{working_size: [{rows}, {columns}]}}
              augment: {{vertical_flip: 0, quarter_turns: false}}
            task: {{name: detection, score_threshold: 0, detections: {options.objects}}}
            model:
              {{name: mask_rcnn, backbone: {options.backbone}, weights: "{weights}", frozen_stages: {FROZEN}}}
            train: {{batch_size: {options.batch}, optimizer: sgd, learning_rate: {rate(options.batch)}, weight_decay: 0.0001}}
            """,
            where="benchmark",
        )
        self.card = load_card(config.data.card)
        self.cases = [case for case in find_cases(self.card, options.root) if case.part == "train"][: options.images]
        store = CaseStore(self.card, self.cases, config.data.normalise, need="objects", weak_masks=config.data.weak_masks)
        model = config.model.with_fitted_anchors(store.box_sizes(store.keys()))  # type: ignore[attr-defined]
        self.config, self.device, self.channels = config.model_copy(update={"model": model}), device, store.channels
        self.task = build_task(self.config, store.channels, self.card.label_map)
        if weights != "none":
            self.task.network.load_encoder(weights)
        self.task.to(device)
        if config.train.channels_last and channels_last_suits(self.task, device):
            self.task.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.task, config.train)
        if device == "cuda":
            blank = torch.zeros(options.batch, store.channels, rows, columns, device=device)
            blank = blank.contiguous(memory_format=memory_format(self.task.network))
            record_dense_parts(self.task.train().network, blank, choose_precision(config.train.precision, device))
        self.batches = itertools.chain.from_iterable(
            TrainingLoader(store, store.keys(), config.data, options.batch, 0, epoch, device=device) for epoch in itertools.count()
        )
        self.files: Iterator[Any] = itertools.cycle(self.cases)
        self.found: list[int] = []
        self.parameters = sum(p.numel() for p in self.task.parameters())

    def train(self) -> dict[str, float]:
        import torch

        from pipeline.models.precision import autocast, choose_precision

        self.task.train()
        start = clock(self.device)
        batch = next(self.batches)
        loaded = clock(self.device)
        with autocast(self.device, choose_precision(self.config.train.precision, self.device)):
            losses = self.task(batch)
        torch.stack(list(losses.values())).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.config.train.clip_norm or math.inf)
        if not math.isfinite(norm.item()):
            raise RuntimeError("ocuseg: the gradient is not finite")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return spent(start, loaded, clock(self.device))

    def start_predicting(self) -> None:
        from pipeline.bundles.bundle import Bundle
        from pipeline.inference.predict import Predictor

        known = ("benchmark", self.config, self.card.label_map, {}, {}, self.card.modality, self.channels, None, "")
        bundle = Bundle(Path(), *known, build=lambda: self.task)
        self.predictor = Predictor(bundle, self.device)

    def predict(self) -> dict[str, float]:
        from pipeline.cards.card import read_scan

        case = next(self.files)
        start = clock(self.device)
        prediction = self.predictor.predict(read_scan(self.card, case))
        end = clock(self.device)
        self.found.append(0 if prediction.scores is None else len(prediction.scores))
        return {"seconds": end[0] - start[0], "cpu": end[1] - start[1]}


class Peer:
    """torchvision's references/detection: presets.py, coco_utils.py and engine.py, without what they print."""

    def __init__(self, options: Any, device: str, images: list[Path]) -> None:
        import torch
        from torchvision.models.detection import MaskRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        self.data = photographs(images)
        rows, columns = options.size
        anchors = AnchorGenerator(tuple((2**k,) for k in range(5, 10)), ((0.5, 1.0, 2.0),) * 5)
        self.model = MaskRCNN(
            peer_backbone(options),
            num_classes=4,
            rpn_anchor_generator=anchors,
            box_score_thresh=0.0,
            box_detections_per_img=options.objects,
            fixed_size=(columns, rows),
        ).to(device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=rate(options.batch), momentum=0.9, weight_decay=1e-4, nesterov=True)
        # The recipe's warm-up, without which a network from scratch diverges.
        self.warm_up = torch.optim.lr_scheduler.LinearLR(self.optimizer, start_factor=1e-3, total_iters=1000)
        loader = torch.utils.data.DataLoader(
            self.data,
            options.batch,
            shuffle=True,
            drop_last=True,  # ours has full batches only
            num_workers=options.workers,
            collate_fn=lambda rows: tuple(zip(*rows, strict=True)),
        )
        self.batches = itertools.chain.from_iterable(loader for _ in itertools.count())
        self.device = device
        self.found: list[int] = []
        self.files = itertools.cycle(self.data.images)
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def train(self) -> dict[str, float]:
        self.model.train()
        start = clock(self.device)
        images, targets = next(self.batches)
        images = [image.to(self.device) for image in images]
        targets = [{name: value.to(self.device) for name, value in target.items()} for target in targets]
        loaded = clock(self.device)
        losses = sum(self.model(images, targets).values())
        if not math.isfinite(losses.item()):
            raise RuntimeError("torchvision: the loss is not finite")
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()
        self.warm_up.step()
        return spent(start, loaded, clock(self.device))

    def start_predicting(self) -> None:
        self.model.eval()

    def predict(self) -> dict[str, float]:
        import torch

        path = next(self.files)
        start = clock(self.device)
        with torch.inference_mode():
            (found,) = self.model([self.data.tensor(path).to(self.device)])
            masks = (found["masks"] > 0.5).cpu()
        end = clock(self.device)
        self.found.append(len(masks))
        return {"seconds": end[0] - start[0], "cpu": end[1] - start[1]}


def pretrained(options: Any) -> bool:
    return options.backbone == "mobilenet_v2" and options.weights.is_file()


def peer_backbone(options: Any) -> Any:
    """torchvision's encoder with its pyramid; trained from end to end where there are no weights."""
    import torch
    from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    if options.backbone == "resnet50":
        return resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5)
    known = pretrained(options)
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v2",
        weights=None,
        fpn=True,
        norm_layer=FrozenBatchNorm2d if known else torch.nn.BatchNorm2d,
        trainable_layers=4 if known else 6,  # of six: the blocks up to stride 4 stay as they are
        returned_layers=[1, 2, 3, 4],
    )
    if known:
        state = torch.load(options.weights, weights_only=True)
        backbone.body.load_state_dict({key: state[f"features.{key}"] for key in backbone.body.state_dict()})
    return backbone


def photographs(files: list[Path]) -> Any:
    """A map-style data set as torchvision's tutorial has it: one photograph with its boxes, labels and masks at native size."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw
    from torchvision.transforms import v2

    labels = [file.parents[1] / "labels_yolo" / f"{file.stem}.txt" for file in files]

    class Photographs(torch.utils.data.Dataset[Any]):
        images = files
        to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])

        def __len__(self) -> int:
            return len(self.images)

        def tensor(self, path: Path) -> torch.Tensor:
            return self.to_tensor(Image.open(path).convert("RGB"))  # type: ignore[no-any-return]

        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            image = self.tensor(self.images[index])
            rows, columns = image.shape[-2:]
            lines = np.loadtxt(labels[index], ndmin=2).reshape(-1, 5)
            half = lines[:, 3:] / 2
            corners = np.concatenate([lines[:, 1:3] - half, lines[:, 1:3] + half], axis=1) * [columns, rows, columns, rows]
            masks = np.zeros((len(lines), rows, columns), np.uint8)
            for mask, corner in zip(masks, corners, strict=True):
                drawn = Image.new("L", (columns, rows))
                ImageDraw.Draw(drawn).ellipse(corner.tolist(), fill=1)
                mask[:] = np.asarray(drawn)
            boxes, stack = torch.as_tensor(corners, dtype=torch.float32), torch.from_numpy(masks)
            if random.random() < 0.5:
                image, stack = image.flip(-1), stack.flip(-1)
                boxes = torch.stack([columns - boxes[:, 2], boxes[:, 1], columns - boxes[:, 0], boxes[:, 3]], dim=1)
            return image, {"boxes": boxes, "labels": torch.as_tensor(lines[:, 0] + 1, dtype=torch.int64), "masks": stack}

    return Photographs()


def rate(batch: int) -> float:
    """The reference's learning rate, 0.02 for 16 images, scaled to this batch."""
    return 0.02 * batch / 16


def spent(start: tuple[float, float], loaded: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    return {"seconds": end[0] - start[0], "loading": loaded[0] - start[0], "computing": end[0] - loaded[0], "cpu": end[1] - start[1]}


if __name__ == "__main__":
    main()

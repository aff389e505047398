"""Train the detector of text that is burned into pictures (pipeline/deidentify/burned_in.py), in about a minute on two cores.

    python workflows/burned_in_text_net.py draw CROPS.npz --shared ../shared [--crops 8000]
    python workflows/burned_in_text_net.py train CROPS.npz --out pipeline/deidentify/burned_in.npz [--steps 1200]

Crops come from pictures with open licences alone (CHASE_DB1, HRF, IDRiD: CC BY 4.0; ROSSA: MIT) and from phantoms of OCT, of the half of
the patients by which the thresholds are chosen, too; DRIVE, Drishti-GS and the set of both eyes are never seen. What is drawn is in
workflows/burned_in_drawing.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from burned_in_drawing import FONTS, Picture, Style, glyphs, paste, some_text, through_jpeg
from burned_in_text import ON_BLACK, ON_EYE, pictures
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from pipeline.cli.console import script

SETS = {
    "CHASE_DB1": 1,
    "HRF (half size)": 1,
    "IDRiD": 1,
    "OCT B-scans (Spectralis)": 1,
    "OCT B-scans (phantoms)": 2,
    "OCT angiography": 4,
}  # and how often each
SIDE = 128
BATCH = 16
ENLARGED = 0.2  # of the crops are half as large and doubled, as small pictures are looked at
CELL = 4  # pixels of a cell of the answer
HEIGHTS = (6.5, 28.0)  # of letters that the network answers for at one size of the picture
TEXT, UNSAID = 1, 2


def crop(random: np.random.Generator, picture: Picture) -> Picture:
    """A piece of a picture, (SIDE, SIDE, 3), made smaller or larger, turned, mirrored, brighter or darker."""
    scale = float(np.exp(random.uniform(np.log(0.4), np.log(1.25))))
    scale = max(scale, SIDE / min(picture.shape[:2]))
    side = min(int(SIDE / scale), *picture.shape[:2])
    # half of the crops at a corner, where text mostly stands
    rows, columns = picture.shape[0] - side, picture.shape[1] - side
    row, column = (int(random.integers(0, room + 1)) for room in (rows, columns))
    if random.random() < 0.4:
        row, column = int(random.choice([0, rows])), int(random.choice([0, columns]))
    piece = Image.fromarray(picture[row : row + side, column : column + side]).convert("RGB")
    out = np.asarray(piece.resize((SIDE, SIDE), Image.Resampling.BOX if side > SIDE else Image.Resampling.BILINEAR))
    out = np.rot90(out, int(random.choice([0, 0, 0, 1, 2, 3])))
    out = out[:, ::-1] if random.random() < 0.5 else out
    if random.random() < 0.5:
        out = np.clip(255 * (out / 255.0) ** random.uniform(0.6, 1.6) * random.uniform(0.6, 1.4), 0, 255).astype(np.uint8)
    return np.array(out)


def shadowed(random: np.random.Generator, picture: Picture) -> Picture:
    """With columns that are darker, as below vessels in OCT, whose shadows cut bright layers into what looks like letters, and speckle."""
    light = np.ones((SIDE, SIDE), np.float32)
    for _ in range(int(random.integers(0, 14))):
        at, width = int(random.integers(SIDE)), int(random.integers(1, 6))
        light[:, at : at + width] *= random.uniform(0.2, 0.9)
    if random.random() < 0.5:
        light *= random.gamma(shape := random.uniform(4, 40), 1 / shape, light.shape).astype(np.float32)
    light = light.T if random.random() < 0.2 else light
    return np.clip(picture * light[..., None], 0, 255).astype(np.uint8)


def scribble(random: np.random.Generator, picture: Picture) -> None:
    """Frames, lines, arrows, ticks of a scale or circles in a crop, in place: what stands on pictures and is no text."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    colour = tuple(int(value) for value in random.choice([[255, 255, 255], [255, 255, 0], [0, 255, 0], [0, 0, 0], [160, 160, 160]]))
    for _ in range(int(random.integers(1, 4))):
        x, y, width, height = (int(random.integers(0, SIDE)) for _ in range(4))
        kind, thick = int(random.integers(5)), int(random.integers(1, 4))
        if kind == 0:
            draw.rectangle((x, y, x + width, y + height), outline=colour, width=thick)
        elif kind == 1:
            draw.line((x, y, width, height), fill=colour, width=thick)
        elif kind == 2:
            draw.ellipse((x, y, x + width, y + height), outline=colour, width=thick)
        elif kind == 3:
            step = int(random.integers(4, 30))
            draw.line((x, y, SIDE, y), fill=colour, width=thick)
            for tick in range(x, SIDE, step):
                draw.line((tick, y - step // 3, tick, y), fill=colour, width=thick)
        else:
            draw.line((x, y, x + width, y), fill=colour, width=thick)
            draw.polygon([(x, y - 4), (x, y + 4), (x - 8, y)], fill=colour)
    picture[:] = np.asarray(image)


def example(random: np.random.Generator, picture: Picture, b_scan: bool) -> tuple[Picture, npt.NDArray[np.uint8]]:
    """A crop with none to four lines of text, and of each cell whether it lies in one: 0, TEXT or UNSAID."""
    out = crop(random, picture)
    if b_scan and random.random() < 0.5:
        out = shadowed(random, out)
    if random.random() < 0.25:
        scribble(random, out)
    grey = (out[..., :1] == out).all()
    heights = np.zeros((SIDE, SIDE))  # of the letters of the line in which a pixel lies
    taken = np.zeros((SIDE, SIDE), bool)
    turns = int(random.choice([0, 0, 0, 0, 1, 3]))
    for _ in range(int(random.choice([0, 0, 1, 2, 3, 4]))):
        height = int(np.exp(random.uniform(np.log(6), np.log(34))))
        mask = glyphs(some_text(random), Style(str(random.choice(FONTS)), height, turns, random.random() < 0.75))
        room = [SIDE - min(size, SIDE) for size in mask.shape]
        mask = mask[:SIDE, :SIDE]
        top, left = (int(random.integers(0, space + 1)) for space in room)
        where = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        if taken[where].any():
            continue
        taken[max(0, top - 3) : top + mask.shape[0] + 3, max(0, left - 3) : left + mask.shape[1] + 3] = True
        below = out[where].astype(int)
        colours = {**ON_BLACK, **ON_EYE, "black": (0, 0, 0)}
        if grey and random.random() < 0.6:
            colours = {str(level): (level, level, level) for level in (0, 40, 150, 180, 220, 240, 255)}
        seen = {name: one for name, one in colours.items() if np.abs(np.median(below, (0, 1)) - one).max() >= 80}
        if not seen:
            continue
        colour = seen[str(random.choice(list(seen)))]
        ink = paste(out, mask, (top, left), colour)
        heights[where] = height if ink.sum() >= 0.6 * (mask > 127).sum() else 1e9
    if random.random() < 0.4:
        out = through_jpeg(out, int(random.integers(60, 96)))
    if random.random() < ENLARGED:
        row, column = (int(random.integers(SIDE // 2 + 1)) for _ in range(2))
        where = np.s_[row : row + SIDE // 2, column : column + SIDE // 2]
        heights = heights[where].repeat(2, 0).repeat(2, 1) * 2
        out = np.asarray(Image.fromarray(out[where]).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    elif random.random() < 0.1:
        out = np.asarray(
            Image.fromarray(out).resize((SIDE * 3 // 4,) * 2, Image.Resampling.BILINEAR).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        )
    readable = (heights >= HEIGHTS[0]) & (heights <= HEIGHTS[1])
    return out, _cells(np.where(readable, TEXT, np.where(heights, UNSAID, 0)))


def _cells(truth: npt.NDArray[np.int_]) -> npt.NDArray[np.uint8]:
    """Cells that lie in a line for three quarters are text, those that it touches are left unsaid."""
    blocks = truth.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL)
    part = (blocks == TEXT).mean(axis=(1, 3))
    some = (blocks > 0).any(axis=(1, 3))
    return np.where(part >= 0.75, TEXT, np.where(some, UNSAID, 0)).astype(np.uint8)


def draw(shared: Path, out: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    sets = {name: [picture for _, picture in pictures(shared, name, "choose")] for name in SETS}
    chances = np.array(list(SETS.values())) / sum(SETS.values())
    images, truths = np.zeros((count, SIDE, SIDE, 3), np.uint8), np.zeros((count, SIDE // CELL, SIDE // CELL), np.uint8)
    for index in range(count):
        name = str(random.choice(list(SETS), p=chances))
        picture = sets[name][int(random.integers(len(sets[name])))]
        images[index], truths[index] = example(random, picture, name.startswith("OCT B-scans"))
    np.savez(out, images=images, truths=truths)


class TextNet(nn.Module):
    """Eight bits in three colours (B, 3, H, W) -> logits (B, H / 4, W / 4): whether a cell lies in a line of text."""

    def __init__(self, widths: tuple[int, ...] = (12, 16, 24, 32)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.layers = nn.ModuleList(
            _conv(*ends) for ends in ((12, a), (a, a), (a, b), (b, b), (b, c), (c, c), (c, d), (d, d), (d + c, c), (c + b, b))
        )
        self.head = nn.Conv2d(b, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two, three, four, five, six, seven, eight, nine, ten = self.layers
        x = two(one(functional.pixel_unshuffle(x, 2)))
        quarter = four(three(functional.max_pool2d(x, 2)))
        eighth = six(five(functional.max_pool2d(quarter, 2)))
        x = eight(seven(functional.max_pool2d(eighth, 2)))
        x = nine(torch.cat((_larger(x), eighth), 1))
        x = ten(torch.cat((_larger(x), quarter), 1))
        out: torch.Tensor = self.head(x)[:, 0]
        return out


def _conv(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


def _larger(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def batches(images: npt.NDArray[np.uint8], truths: npt.NDArray[np.uint8], random: np.random.Generator, size: int) -> Iterator[Any]:
    while True:
        order = random.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            x = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 255 - 0.5
            yield x, torch.from_numpy(truths[chosen])


def train(crops: Path, out: Path, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    loaded = np.load(crops)
    images, truths = loaded["images"], loaded["truths"]
    held = len(images) // 20
    net = TextNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-3)
    began, random = time.monotonic(), np.random.default_rng(seed)
    for step, (x, truth) in zip(range(1, steps + 1), batches(images[held:], truths[held:], random, BATCH), strict=False):
        done = step / steps
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * min(1.0, done / 0.05) * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-6
        logits = net(x.to(memory_format=torch.channels_last))
        said = truth != UNSAID
        loss = functional.binary_cross_entropy_with_logits(logits[said], (truth == TEXT)[said].float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 200 == 0:
            print(f"{step} steps, {time.monotonic() - began:.0f} s, loss {loss.item():.4f}", flush=True)
    save(net.eval(), out)
    with torch.inference_mode():
        x = torch.from_numpy(images[:held]).permute(0, 3, 1, 2).float() / 255 - 0.5
        chance, truth = net(x).sigmoid().numpy(), truths[:held]
    hit = chance >= 0.5
    print(
        f"{steps} steps; of held-out cells: text found {hit[truth == TEXT].mean():.4f}, others taken for text {hit[truth == 0].mean():.5f}"
    )


def save(net: TextNet, out: Path) -> None:
    """Weights with the normalisation folded into them, as (3, 3, in, out) float16 and (out,) float32."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, layer in enumerate(net.layers):
        conv, norm = layer[0], layer[1]  # type: ignore[index]
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = conv.weight * factor[:, None, None, None]
        arrays[f"weight{number}"] = weight.detach().permute(2, 3, 1, 0).numpy().astype(np.float16)
        arrays[f"bias{number}"] = (norm.bias - norm.running_mean * factor).detach().numpy()
    arrays["head"] = net.head.weight.detach()[0, :, 0, 0].numpy()
    assert net.head.bias is not None
    arrays["head_bias"] = net.head.bias.detach().numpy()
    np.savez(out, **arrays)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "train"))
    parser.add_argument("crops", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--crops", dest="count", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("pipeline/deidentify/burned_in.npz"))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "draw":
        draw(given.shared, given.crops, given.count, given.seed)
    else:
        train(given.crops, given.out, given.steps, given.seed)


if __name__ == "__main__":
    script(main)

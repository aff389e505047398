# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # ocuseg from Python
#
# A photograph as a numpy array in, masks with their classes and geometry out, in the photograph's own frame.
# **Research use, not for diagnosis.**
#
# This file is a notebook: VS Code and PyCharm run its cells as they are, Jupyter does so once jupytext is installed
# (`pip install jupytext`, then "Open With > Notebook", or `jupytext --to notebook from_python.py`).

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import evaluate, load_bundle, open_scan, segment
from pipeline.drawing.overlay import draw_overlay
from pipeline.errors import OcusegError
from pipeline.metrics.overlap import Confusion, cldice
from pipeline.resources import EXAMPLES
from pipeline.scans.field_of_view import detect_field_of_view

# %% [markdown]
# ## A picture in
#
# Three photographs come with ocuseg, from CHASE_DB1 and HRF (CC BY 4.0); `EXAMPLES / "card.md"` says whose they are. Any array of numbers
# serves: (H, W, 3) in the order red, green, blue, or (H, W), integers or floats, in any range. Pictures that OpenCV has read are blue,
# green, red: give `array[..., ::-1]`.

# %%
name = "chase_db1_12R"
picture = np.asarray(Image.open(EXAMPLES / "photographs" / f"{name}.jpg"))
picture.shape, picture.dtype

# %% [markdown]
# ## Masks out
#
# `ocuseg models` lists the models that come with it; without names, every one of them that fits looks at the picture. `segment` takes
# paths as well (`segment("eye.dcm")`), whose files may say the size of a pixel; of an array you may say it (`spacing_mm=(0.006, 0.006)`).
# What is unknown stays None.

# %%
found = segment(picture, ["vessels", "disc"])
print(found.label_map.names, found.masks.shape, found.masks.dtype)
print(found.geometry)
print("warnings:", found.warnings)

# %% [markdown]
# ## A look at them
#
# Never believe a mask that you have not seen over its picture.

# %%
overlay = draw_overlay(picture, found.masks, found.label_map, width=2)
Image.fromarray(overlay)

# %% [markdown]
# ## A measure or two
#
# A mask is a boolean array, so numpy measures it. The field of view is where a photograph shows the eye at all.

# %%
vessels, disc = found.mask("vessel"), found.mask("optic_disc")
inside = detect_field_of_view(np.moveaxis(picture, -1, 0))
density = vessels[inside].mean()
disc_diameter = np.sqrt(4 * disc.sum() / np.pi)
rows, columns = np.nonzero(disc)
print(f"vessels cover {density:.1%} of the field of view")
print(f"the disc is {disc_diameter:.0f} px wide, centred on row {rows.mean():.0f}, column {columns.mean():.0f}")

# %% [markdown]
# Probabilities are there for thresholds of your own: a lower one finds more vessels, rightly and wrongly.

# %%
chances = found.probabilities[found.label_map.names.index("vessel")]
for threshold in (0.2, 0.4, 0.6):
    print(f"{threshold:.1f}: {(chances >= threshold)[inside].mean():.1%}")

# %% [markdown]
# ## Against a mask of your own
#
# One picture: count where both masks agree, inside the field of view.

# %%
truth = np.asarray(Image.open(EXAMPLES / "vessels" / f"{name}.png")) > 0
counts = Confusion.of(vessels, truth, inside)
print(f"Dice {counts.dice:.3f}, sensitivity {counts.sensitivity:.3f}, specificity {counts.specificity:.3f}")
print(f"centreline Dice {cldice(vessels, truth, inside):.3f}")

# %% [markdown]
# A data set: a data card says which file belongs to which (`ocuseg card new FOLDER` drafts one, docs/cards.md has every field). `evaluate`
# refuses images that the model was trained on, gives means (with intervals where there are patients enough), and writes a line for each
# image to `out`.

# %%
model = load_bundle("vessels")
out = Path("evaluation")
summary = evaluate(model, EXAMPLES / "card.md", EXAMPLES, part="all", out=out)
dice = summary["classes"]["vessel"]["mean_per_image"]["dice"]
print(f"{summary['images']} images, mean Dice {dice['value']:.3f}")
print((out / "per_image.csv").read_text().splitlines()[0][:60], "...")

# %% [markdown]
# ## Many scans
#
# A loaded model is read once. `open_scan` reads any supported file (DICOM, NIfTI, pictures, ...) with its geometry, laterality and
# warnings. What cannot be read, or is no scan, is told in one sentence. For whole folders `ocuseg segment FOLDER` also keeps a ledger and
# writes a report.

# %%
for path in (EXAMPLES / "photographs" / "hrf_09_h.jpg", EXAMPLES / "card.md"):
    try:
        scan = open_scan(path)
        covered = segment(scan, model).mask("vessel").mean()
    except OcusegError as error:
        print(f"{path.name} is left out: {error}")
    else:
        print(f"{path.name}: {scan.geometry.shape}, {covered:.1%} of the picture are vessels")

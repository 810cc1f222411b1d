"""Writes docs/models.md: what `"auto"` explains in the models of torchvision and timm, and in models of other shapes.

python docs/make_models.py           the whole page, some minutes
python docs/make_models.py shapes    only the last table, two minutes
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.docs.sweep import CLASSIFICATION, TIMM, VIDEO, Found, found, input_for, prepared, torchvision_model
from tests.shapes.page import shapes_row
from tests.shapes.zoo import SHAPES

PAGE = ROOT / "docs" / "models.md"

HEAD = """# What `"auto"` explains

`layers="auto"` takes the last layer whose output is a feature map and not just an earlier map passed on (pooled,
dropped out, permuted). If a class token comes before the grid, it takes the last layer on whose grid the output
depends. Branches that the explained score does not depend on (a decoder, a teacher, an auxiliary head) are skipped,
however long they are. `python docs/make_models.py` makes this page, with random weights: every map is finite, not
constant, and has at least four pixels on each side. `tests/docs/test_models_page.py` compares the page with the results
for torchvision's models.

The grid of tokens is derived from the forward, by measuring which patch of the image, or which location of a
convolution's output, feeds which token. This finds patches of any shape, clips, and other tokens before, after or
between those of the grid (`NLC:1+14x14+4`). Tokens that do not correspond to locations (words, time steps, learned
queries), or are in another order, have no map: Hiera (timm's `hiera_*`) keeps its tokens in the order of its mask units
until the last stage. In a model of images, the output `[N, C, L]` of a 1-D convolution has a map if `L` is such a grid.

In a model of signals, whose first convolution is a `Conv1d`, `"auto"` takes the last layer with an output `[N, C, l]`
whose channels are known to come first; maps are `[N, l]`. In a model that folds frames, slices or patches into the
batch, it takes the last layer with a row for each frame; maps are `[N, T, h, w]`. [Layouts](targets.md#layouts)
explains how both are recognised, and what to set if they are not.

During the search for `"auto"`, and for named layers when a callback logs its first maps, parts of the image are changed
in two forwards of two samples. Each change must show at its own location and in its own sample. A layer that sees the
image rotated, mirrored or shifted (`torch.roll`, by an eighth of a side or more), sorted samples, or a spectrum is
refused with an error. A layer that sees a crop, a wide border or an image resampled by `grid_sample` causes a warning.
If attention or large receptive fields make the result unclear, nothing is reported. `compute_cams` with named layers
and plain feature maps skips this check.
"""


def row(result: Found) -> str:
    """Returns one row of the table."""
    grid = "x".join(map(str, result.grid))
    return f"| {result.model} | {result.size} | `{result.layer}` | {result.layout} | {grid} |"


def timm_model(name: str) -> nn.Module:
    """The model with random weights."""
    import timm

    torch.manual_seed(0)
    return prepared(timm.create_model(name, num_classes=10))


def table(names: list[str], make: Callable[[str], nn.Module], *, video: bool = False) -> list[str]:
    """Returns the rows of several models; one that fails says why."""
    lines = ["| model | input | layer | layout | map |", "|---|---|---|---|---|"]
    for name in names:
        try:
            lines.append(row(found(name, make(name), input_for(name, video=video))))
        except Exception as error:
            lines.append(f"| {name} | | not explained: {type(error).__name__}: {str(error)[:160]} | | |")
        print(lines[-1], flush=True)
        gc.collect()
    return lines


SHAPES_HEAD = """
## Models of other shapes

Small models with random weights, in float64. Each map equals a plain reference, computed with one hook and
`torch.autograd.grad`, within a millionth of its largest value. If nothing can be shown, an error or warning names the
layer and the fix. The models are defined in `tests/shapes`. `.ci/nightly` runs all of them, the slow tests twelve.
Those of Hugging Face, timm and MONAI need these libraries.

| family | model | input | target | layer | layout | map | message |
|---|---|---|---|---|---|---|---|"""


def shapes_table(page: str) -> str:
    """Returns the last table; rows of libraries that are not installed stay as they are on the page."""
    lines = [SHAPES_HEAD]
    for shape in SHAPES:
        lines.append(shapes_row(shape))
        print(lines[-1], flush=True)
    new = {line.split(" | ")[1] for line in lines[1:]}
    lines += [line for line in page.splitlines() if line.startswith("| libraries") and line.split(" | ")[1] not in new]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page."""
    page = PAGE.read_text()
    if sys.argv[1:] != ["shapes"]:
        parts = [HEAD, "## torchvision, classification\n", *table(CLASSIFICATION, torchvision_model)]
        parts += ["\n## torchvision, video\n", *table(VIDEO, torchvision_model, video=True)]
        parts += ["\n## timm, one of each family\n", *table(TIMM, timm_model)]
        before = "\n".join(parts) + "\n"
    else:
        before = page.split(SHAPES_HEAD.splitlines()[1])[0].rstrip("\n") + "\n"
    PAGE.write_text(before + shapes_table(page))


if __name__ == "__main__":
    main()

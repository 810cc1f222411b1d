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

`layers="auto"` picks the last layer whose output is a new feature map rather than an earlier one passed on (pooled,
dropped out, permuted). If a class token precedes the grid, it picks the last layer whose grid still affects the output.
Branches that do not affect the explained score (a decoder, a teacher, an auxiliary head) are skipped, however long they
are. `python docs/make_models.py` generates this page from models with random weights, and checks that every map is
finite, is not constant, and has at least four pixels on each side. `tests/docs/test_models_page.py` checks the page
against the actual results for the torchvision models.

The token grid is derived from the forward pass, by measuring which image patch, or which location in a convolution's
output, feeds each token. This handles patches of any shape, video clips, and extra tokens before, after or between the
grid tokens (`NLC:1+14x14+4`). Tokens that do not correspond to locations (words, time steps, learned queries), or that
are in a different order, have no map. Hiera (timm's `hiera_*`), for example, keeps its tokens in mask-unit order until
the last stage. In an image model, a 1-D convolution's output `[N, C, L]` has a map if `L` is such a grid.

In a signal model (one whose first convolution is a `Conv1d`), `"auto"` picks the last layer with an output `[N, C, l]`
whose channels are known to come first; maps are `[N, l]`. In a model that folds frames, slices or patches into the
batch, it picks the last layer with one row per frame; maps are `[N, T, h, w]`. [Layouts](targets.md#layouts) explains
how both kinds of model are recognised, and what to set if they are not.

Two forward passes on two samples check that a layer's locations match those in the image: parts of the image are
changed, and each change must appear in the layer's output at the same location and in the same sample. This check runs
while `"auto"` searches, and when a callback logs its first maps for named layers. A layer that sees the image rotated,
mirrored or shifted (`torch.roll`, by an eighth of a side or more), the samples reordered, or a spectrum is rejected
with an error. A layer that sees a crop, a wide border or an image resampled by `grid_sample` triggers a warning. If
attention or large receptive fields make the result unclear, nothing is reported. `compute_cams` skips this check for
named layers with plain feature maps.
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

These are small models with random weights, in float64. Each map matches a plain reference (one hook and
`torch.autograd.grad`) to within a millionth of its largest value. If no map can be shown, an error or warning names the
layer and the fix. The models are defined in `tests/shapes`. `.ci/nightly` runs all of them; the slow tests run twelve.
The Hugging Face, timm and MONAI models require those libraries.

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

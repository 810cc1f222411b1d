"""Makes the pictures of photographs in README.md and docs/methods.md, and prints the latter's table; needs `.[photos]`.

python docs/make_photographs.py [methods] [logit] [readme]

"methods" takes some ten minutes of one core: Score-CAM and Ablation-CAM run the network once for each of 320 channels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from photographs import LAYER, PHOTOGRAPHS, load_network, photograph_probes

from lightning_gradcam import Cams, compute_cams, energy_inside, pointing_game

# Fewer channels than the last activation's 1280, for methods that run the network once for each.
NARROWER = "_blocks.15"
METHODS = (
    *("gradcam", "hirescam", "layercam", "gradcam++", "xgradcam", "gradcam_elementwise", "finercam", "shapleycam"),
    *("cam", "smoothgradcam++", "eigengradcam", "eigencam", "fullgrad", "guided_gradcam", "guided_backprop"),
    *("scorecam", "ablationcam", "random"),
)
NETWORK, PROBES = load_network(), photograph_probes()


def maps_of(method: str) -> Tensor:
    """The maps of the objects' classes, ``[4, h, w]``; of guided backpropagation the magnitude."""
    layer = NARROWER if method in ("scorecam", "ablationcam") else LAYER
    cams: Cams = compute_cams(
        NETWORK, PROBES.inputs, layer, methods=method, targets="label", labels=PROBES.labels, batch_size=4
    )
    (maps,) = cams.values()
    return maps.abs() if method == "guided_backprop" else maps


def laid(panel: Axes, number: int, heatmap: Tensor, title: str) -> None:
    """Lays a map over a photograph, as the package's own overlays do."""
    assert PROBES.display is not None
    values = torch.nn.functional.interpolate(heatmap.clamp(min=0)[None, None], (224, 224), mode="bilinear")[0, 0]
    panel.imshow(PROBES.display[number])
    if values.max() > 0:
        panel.imshow(values, cmap="turbo", alpha=0.5, vmin=0, vmax=float(values.max()))
    titled(panel, title)


def titled(panel: Axes, title: str) -> None:
    """Writes a title, and takes the axes away."""
    panel.set_title(title, fontsize=7.5, pad=3)
    panel.axis("off")


def methods() -> None:
    """A row a photograph, a column a method, in two bands; and a table of where the maps are."""
    assert PROBES.boxes is not None
    masks = torch.zeros(len(PROBES.inputs), 224, 224, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, PROBES.boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    shares = masks.float().mean(dim=(1, 2))
    print("share of the picture that the boxes cover:", [round(float(share), 2) for share in shares])
    width = len(METHODS) // 2
    figure = plt.figure(figsize=(width * 1.05, 9.0))
    bands = figure.add_gridspec(2, 1, left=0.005, right=0.995, top=0.975, bottom=0.005, hspace=0.07)
    grids = [band.subgridspec(len(PHOTOGRAPHS), width, wspace=0.03, hspace=0.03) for band in (bands[0], bands[1])]
    for place, method in enumerate(METHODS):
        maps = maps_of(method)
        inside, point = energy_inside(maps, masks), pointing_game(maps, masks)
        numbers = [round(float(value), 2) for value in inside]
        print(f"| `{method}` | {' | '.join(f'{n:.2f}' for n in numbers)} | {int(point.sum())} of 4 |", flush=True)
        for number, heatmap in enumerate(maps):
            panel = figure.add_subplot(grids[place // width][number, place % width])
            laid(panel, number, heatmap, method if number == 0 else "")
    save(figure, "methods.jpg", 68)


def logit() -> None:
    """The same classes explained by their logits, and by their softmax probabilities."""
    names = PROBES.class_names
    assert names is not None
    asked = [(0, "Egyptian cat"), (0, "tabby"), (0, "tiger cat"), (1, "espresso"), (1, "cup"), (1, "coffee mug")]
    figure, rows = plt.subplots(2, len(asked), figsize=(9.6, 3.7))
    for row, (score, said) in zip(rows, (("logit", "logit"), ("probability", "softmax")), strict=True):
        for panel, (number, name) in zip(row, asked, strict=True):
            cams = compute_cams(NETWORK, PROBES.inputs[number, None], LAYER, targets=names.index(name), score=score)
            share = float(cams.confidences[str(names.index(name))][0])
            laid(panel, number, cams[LAYER][0], f"{said}: {name}, {share:.0%}")
    figure.tight_layout(pad=0.4)
    save(figure, "logit.jpg", 85)


def readme() -> None:
    """Four photographs with the map of a class below each."""
    figure, rows = plt.subplots(2, 4, figsize=(8.4, 4.5))
    cams = compute_cams(NETWORK, PROBES.inputs, LAYER, targets="label", labels=PROBES.labels)
    assert PROBES.class_names is not None
    assert cams.likeliest is not None
    assert cams.confidence is not None
    for number, (panels, each) in enumerate(zip(rows.T, PHOTOGRAPHS, strict=True)):
        assert PROBES.display is not None
        panels[0].imshow(PROBES.display[number])
        first = PROBES.class_names[int(cams.likeliest[number, 0])]
        titled(panels[0], f"likeliest: {first} ({float(cams.confidence[number]):.0%})")
        share = float(cams.confidences["label"][number])
        laid(panels[1], number, cams[LAYER][number], f"evidence for {each.shows} ({share:.1%})")
    figure.tight_layout(pad=0.4)
    save(figure, "photographs.jpg", 85)


def save(figure: Figure, name: str, quality: int) -> None:
    """Writes a figure as JPEG into docs/images."""
    path = IMAGES / name
    figure.savefig(path, dpi=100, pil_kwargs={"quality": quality, "optimize": True, "progressive": True})
    plt.close(figure)
    print(path, np.ceil(path.stat().st_size / 1000), "kB")


PICTURES: dict[str, Callable[[], None]] = {"readme": readme, "logit": logit, "methods": methods}


def main(names: Sequence[str]) -> None:
    """Makes the pictures that are named, or all."""
    for name in names:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:] or list(PICTURES))

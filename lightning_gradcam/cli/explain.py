r"""Explains images with a checkpoint's weights, and writes overlays, raw maps and a page.

Example:
  lightning-gradcam explain version_0/checkpoints/last.ckpt photos/ -o maps      # saved by LightningCLI
  lightning-gradcam explain last.ckpt a.jpg b.jpg -o maps --model my_package:Net --mean 0.485 0.456 0.406 \
      --std 0.229 0.224 0.225 --size 224 --layers backbone.layer4 --targets predicted 3 --top 3
  lightning-gradcam explain last.ckpt photos/ -o maps --model train.py:Net --data train.py:Data
  lightning-gradcam explain resnet18.pth cat.jpg -o maps --model torchvision.models:resnet18 \
      --model-args num_classes=10 --size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --targets '{"top": 3}'
  lightning-gradcam explain cat.jpg --model torchvision.models:resnet18 --model-args weights=DEFAULT --size 224 \
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --class-names torchvision.models:ResNet18_Weights --top 5
  lightning-gradcam explain last.ckpt photos/ -o maps --force --layers auto --trust      # your own, from a script

The command writes into maps/: report.html, sheets/ (one for each layer and method), overlays/ (one for each image and
map), and the raw maps, which you can read with lightning_gradcam.Archive.open("maps").
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lightning_gradcam.cli import options
from lightning_gradcam.cli.shared import counted, moving, say


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "create maps for images or a folder, from any checkpoint"
    parser = options.add_command(commands, "explain", what, doc=__doc__)
    add_pictures(parser)
    parser.add_argument(
        "-o", "--output", default="explained", metavar="DIR", help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite the result of an earlier explain in that folder"
    )
    add_reading(parser)
    parser.add_argument("--top", type=int, default=1, metavar="K", help="list the K most likely classes, at most 10")
    parser.add_argument("--boxes", action="store_true", help="draw a box around the largest part of each map")
    parser.add_argument(
        "--box-threshold",
        type=float,
        metavar="SHARE",
        help=(
            "draw the box around pixels above this share of the map's maximum; implies --boxes (default: 0.15; for "
            "7 x 7 maps, try 0.6)"
        ),
    )
    what = "colour scale: run (default; one for all targets of an image), image (one per map), layer or minmax"
    parser.add_argument("--scale", metavar="SCALE", help=what)
    what = "draw evidence for the score in red and evidence against it in blue"
    parser.add_argument("--signed", action="store_true", help=what)
    options.add_progress(parser)
    parser.set_defaults(run=_run)


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds ``CKPT`` and ``IMAGES``; options are allowed between and after them."""
    what = "a Lightning checkpoint, or a state_dict (.pt, .pth); not needed if --model has its own weights"
    parser.add_argument("checkpoint", metavar="CKPT", help=what)
    what = (
        "image files, a folder of images (its sub-folders are the true classes), a saved probe set, or a run's archive"
    )
    parser.add_argument("images", nargs="*", metavar="IMAGES", help=what)
    parse = parser.parse_known_args

    def gathered(*arguments: Any) -> tuple[argparse.Namespace, list[str]]:
        # argparse assigns IMAGES, which may be empty, before an option, and then rejects images after the option.
        chosen, rest = parse(*arguments)
        chosen.images += [text for text in rest if not text.startswith("-")]
        return chosen, [text for text in rest if text.startswith("-")]

    parser.parse_known_args = gathered  # type: ignore[method-assign, assignment]


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds the options for loading model and images, and for what to explain."""
    options.add_checkpoint(parser)
    options.add_preparation(parser)
    options.add_plan(parser, "those of the run if known, otherwise auto")
    parser.add_argument("--device", default="cpu", help="device to compute on, such as cuda (default: %(default)s)")


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.errors import ConfigurationError
    from lightning_gradcam.render.drawing import MOST_LISTED, Drawing

    if not 1 <= chosen.top <= MOST_LISTED:
        raise ConfigurationError(f"--top: got {chosen.top}; pass 1 to {MOST_LISTED}")
    checkpoint, images = sources(chosen)
    from lightning_gradcam.report import REPORT
    from lightning_gradcam.saved_models.explanation import explain

    with moving("images", show=chosen.progress) as moved:
        found = explain(
            checkpoint,
            images,
            # A threshold implies boxes; it would otherwise have no effect.
            drawing=Drawing(
                top=chosen.top if chosen.top > 1 else 0,
                boxes=chosen.boxes or chosen.box_threshold is not None,
                signed=chosen.signed,
                **options.given(chosen, "box_threshold", "scale"),
            ),
            progress=moved,
            **reading(chosen),
            **options.given(chosen, "output", "force"),
            **options.plan_options(chosen),
        )
    for remark in found.remarks:
        say(remark)
    for line in found.lines(chosen.top):
        print(line)
    layers = dict.fromkeys(key.layer for key in found.record.maps)
    print(f"{Path(chosen.output, REPORT)}: {counted(len(found.probes), 'image')}, {', '.join(layers)}")
    return 0


def sources(chosen: argparse.Namespace) -> tuple[str | None, Any]:
    """Returns the checkpoint, or ``None`` if ``--model`` has its own weights, and the images."""
    from lightning_gradcam.errors import ConfigurationError

    alone = _are_pictures(chosen.checkpoint)
    if alone and chosen.model is None:
        chosen.usage_error(
            f"{chosen.checkpoint!r} is not a checkpoint, so there is no model to explain; pass CKPT first, or --model"
        )
    if not alone and not chosen.images:
        if chosen.model is not None and not Path(chosen.checkpoint).exists():
            raise ConfigurationError(
                f"IMAGES: there is no file or folder {chosen.checkpoint!r:.200}; pass images or a folder"
            )
        chosen.usage_error("the following arguments are required: IMAGES")
    paths = [chosen.checkpoint, *chosen.images] if alone else chosen.images
    return None if alone else chosen.checkpoint, _images(paths)


def reading(chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns the options for loading model and images, as arguments for :func:`explain`."""
    same = ("config", "data", "trust", "mean", "std", "size", "mode", "class_names", "device")
    arguments = options.model_arguments(chosen.model_args) or None
    return {"model_class": chosen.model, "model_args": arguments, **options.given(chosen, *same)}


def _are_pictures(path: str) -> bool:
    """Whether the first argument is a folder, an image or saved probes instead of a checkpoint."""
    from lightning_gradcam.probes.folder import SUFFIXES

    return Path(path).is_dir() or path.lower().endswith((*SUFFIXES, ".npz"))


def _images(paths: list[str]) -> Any:
    """Returns a single folder or file unchanged, and several as a list of the files in them."""
    from lightning_gradcam.probes.folder import pictures_in

    if len(paths) == 1:
        return paths[0]
    found: list[Path] = []
    for path in map(Path, paths):
        found += pictures_in(path) if path.is_dir() else [path]
    return found

"""``lightning-gradcam explain``: maps for pictures or folders, from any checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lightning_gradcam.cli.layers import arguments
from lightning_gradcam.cli.shared import EXIT_CODES, add_progress, moving

_EPILOG = f"""\
example:
  lightning-gradcam explain version_0/checkpoints/last.ckpt photos/ -o maps      # saved by LightningCLI
  lightning-gradcam explain last.ckpt a.jpg b.jpg -o maps --model my_package:Net --mean 0.485 0.456 0.406 \\
      --std 0.229 0.224 0.225 --size 224 --layers backbone.layer4 --targets predicted 3 --top 3
  lightning-gradcam explain last.ckpt photos/ -o maps --model train.py:Net --data train.py:Data
  lightning-gradcam explain resnet18.pth cat.jpg -o maps --model torchvision.models:resnet18 \\
      --model-args num_classes=10 --size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --targets '{{"top": 3}}'
  lightning-gradcam explain cat.jpg --model torchvision.models:resnet18 --model-args weights=DEFAULT --size 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --class-names torchvision.models:ResNet18_Weights --top 5
  lightning-gradcam explain last.ckpt photos/ -o maps --force --layers auto --trust      # your own, of a plain script

The folder maps/ gets report.html, sheets/ (one for each layer and method), overlays/ (one for each picture and map) and
the raw maps: lightning_gradcam.Archive.open("maps").

{EXIT_CODES}
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "explain",
        help="maps for pictures or a folder, from any checkpoint",
        description="Explains pictures with the weights of a checkpoint; writes overlays, the raw maps and a page.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pictures(parser)
    parser.add_argument("-o", "--output", default="explained", metavar="DIR", help="folder (default: %(default)s)")
    parser.add_argument(
        "--force", action="store_true", help="replace what an earlier explain has written into that folder"
    )
    add_reading_options(parser)
    parser.add_argument("--top", type=int, default=1, metavar="K", help="list the K most likely classes, 10 at most")
    parser.add_argument("--boxes", action="store_true", help="draw the box around the largest part of each map")
    add_progress(parser)
    parser.set_defaults(run=_run, usage_error=parser.error)


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds ``CKPT`` and ``IMAGES``, which may stand before and behind options."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        help="a checkpoint of Lightning's, or a state_dict (.pt, .pth); may be left out where --model has its weights",
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGES",
        help="pictures; a folder (sub-folders are true classes); saved probes, or a run's",
    )
    parse = parser.parse_known_args

    def gathered(*given: Any) -> tuple[argparse.Namespace, list[str]]:
        # argparse fills IMAGES, which may be none, before an option, and does not know what to do with those behind it.
        chosen, rest = parse(*given)
        chosen.images += [text for text in rest if not text.startswith("-")]
        return chosen, [text for text in rest if text.startswith("-")]

    parser.parse_known_args = gathered  # type: ignore[method-assign, assignment]


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how model and pictures are read, and what is explained."""
    add_checkpoint_options(parser)
    parser.add_argument("--mean", nargs="+", type=float, metavar="X", help="subtracted, of each channel or of all")
    parser.add_argument("--std", nargs="+", type=float, metavar="X", help="divided by, likewise")
    parser.add_argument("--size", nargs="+", type=int, metavar="N", help="resize to this: both sides, or height width")
    parser.add_argument("--mode", choices=("RGB", "L"), help="read pictures in colour or grey (default: as the model)")
    add_class_names(parser, "names of the classes, in order")
    add_plan_options(parser, "the run's, else auto")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda (default: %(default)s)")


def add_class_names(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ``--class-names``, which :func:`~lightning_gradcam.saved_models.class_names.read_class_names` reads."""
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help=f"{what}; or a file with one name a line, a JSON file, or weights: torchvision.models:ResNet18_Weights",
    )


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which class a checkpoint belongs to."""
    parser.add_argument(
        "--model", metavar="CLASS", help="package.module:Class, path/to/file.py:Class, or a function that returns one"
    )
    parser.add_argument(
        "--model-args", nargs="+", default=[], metavar="KEY=VALUE", help="arguments of that class; values are YAML"
    )
    parser.add_argument("--config", metavar="YAML", help="of LightningCLI: the classes and their arguments")
    parser.add_argument("--data", metavar="CLASS", help="the data module's class, for its transform and class names")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read objects and import classes of any kind: the file can run code; for your own",
    )


def add_plan_options(parser: argparse.ArgumentParser, layers: str) -> None:
    """Adds the options that say what is explained.

    Args:
        parser: Gets them.
        layers: Which layers are the default.
    """
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help=f"dotted names or patterns (default: {layers})")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="such as gradcam, layercam (default: gradcam)")
    parser.add_argument(
        "--targets",
        nargs="+",
        type=target,
        metavar="TARGET",
        help='predicted (default), label, classes or their names, {"top": 3}',
    )
    parser.add_argument("--output-key", type=key, metavar="KEY", help="where an output that is a dict has its logits")
    parser.add_argument("--score", choices=("logit", "probability", "sigmoid"), help="what is explained")
    parser.add_argument("--batch-size", type=int, metavar="N", help="how many pictures at once (default: 32)")


def target(text: str) -> Any:
    """Reads a target: a number, a JSON object such as ``{"top": 3}``, or a name.

    Example:
        >>> target("3"), target('{"top": 2}'), target("cat")
        (3, {'top': 2}, 'cat')
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, (int, dict)) and not isinstance(value, bool) else text


def key(text: str) -> Any:
    """Reads a key: a place, or a name.

    Example:
        >>> key("0"), key("out")
        (0, 'out')
    """
    return int(text) if text.isdigit() else text


def plan_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns what was said of what is explained; names that were left out are not in it."""
    found = {
        name: getattr(chosen, name) for name in ("layers", "methods", "targets", "output_key", "score", "batch_size")
    }
    given = {name: value for name, value in found.items() if value is not None}
    if given.get("layers") == ["auto"]:
        given["layers"] = "auto"
    return given


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.errors import ConfigurationError
    from lightning_gradcam.render.drawing import MOST_LISTED, Drawing

    if not 1 <= chosen.top <= MOST_LISTED:
        raise ConfigurationError(f"--top: got {chosen.top}; give 1 to {MOST_LISTED}")
    checkpoint, images = sources(chosen)
    from lightning_gradcam.report import REPORT
    from lightning_gradcam.saved_models.explanation import explain

    with moving("pictures", show=chosen.progress) as moved:
        found = explain(
            checkpoint,
            images,
            **reading_options(chosen),
            drawing=Drawing(top=chosen.top if chosen.top > 1 else 0, boxes=chosen.boxes),
            output=chosen.output,
            force=chosen.force,
            progress=moved,
            **plan_options(chosen),
        )
    for remark in found.remarks:
        print(f"lightning-gradcam: {remark}", file=sys.stderr)
    for line in found.lines(chosen.top):
        print(line)
    layers = list(dict.fromkeys(key.layer for key in found.record.maps))
    count = len(found.probes)
    print(f"{Path(chosen.output, REPORT)}: {count} picture{'' if count == 1 else 's'}, {', '.join(layers)}")
    return 0


def sources(chosen: argparse.Namespace) -> tuple[str | None, Any]:
    """Returns the checkpoint, or ``None`` where ``--model`` has its own weights, and the pictures."""
    from lightning_gradcam.errors import ConfigurationError

    alone = _are_pictures(chosen.checkpoint)
    if alone and chosen.model is None:
        chosen.usage_error(f"{chosen.checkpoint!r} is no checkpoint: whose maps? give CKPT first, or --model")
    if not alone and not chosen.images:
        if chosen.model is not None and not Path(chosen.checkpoint).exists():
            raise ConfigurationError(f"IMAGES: no file or folder {chosen.checkpoint!r:.200}; give pictures or a folder")
        chosen.usage_error("the following arguments are required: IMAGES")
    pictures = [chosen.checkpoint, *chosen.images] if alone else chosen.images
    return None if alone else chosen.checkpoint, _images(pictures)


def reading_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """Returns what was said of how model and pictures are read."""
    return {
        "model_class": chosen.model,
        "model_args": arguments(chosen.model_args) or None,
        "config": chosen.config,
        "data": chosen.data,
        "trust": chosen.trust,
        "mean": chosen.mean,
        "std": chosen.std,
        "size": chosen.size[0] if chosen.size is not None and len(chosen.size) == 1 else chosen.size,
        "mode": chosen.mode,
        "class_names": chosen.class_names,
        "device": chosen.device,
    }


def _are_pictures(path: str) -> bool:
    """Whether the first argument is what is explained, and no checkpoint: a folder, a picture or saved probes."""
    from lightning_gradcam.probes.folder import SUFFIXES

    return Path(path).is_dir() or path.lower().endswith((*SUFFIXES, ".npz"))


def _images(paths: list[str]) -> Any:
    """Returns a folder or file as it is; of several, the files in them."""
    from lightning_gradcam.probes.folder import pictures_in

    if len(paths) == 1:
        return paths[0]
    found: list[Path] = []
    for path in map(Path, paths):
        found += pictures_in(path) if path.is_dir() else [path]
    return found

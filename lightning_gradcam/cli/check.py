"""``lightning-gradcam check``: a verdict on the maps of pictures, for each layer and method."""

from __future__ import annotations

import argparse
import sys

from lightning_gradcam.cli.explain import add_pictures, add_reading_options, plan_options, reading_options, sources
from lightning_gradcam.cli.shared import EXIT_CODES, add_progress, moving

_EPILOG = f"""\
example:
  lightning-gradcam check version_0/checkpoints/last.ckpt photos/ --methods gradcam hirescam -o checked
  lightning-gradcam check cat.jpg dog.jpg --model torchvision.models:resnet18 --model-args weights=DEFAULT --size 224 \\
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --layers layer3 layer4 --methods all --quick

Prints a verdict for each layer and method (blank, backwards, not learnt, class-blind, weak or sound), why, and what to
do. Nothing but the folder of -o is written, which gets check.json and check.html.

{EXIT_CODES}
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="whether the maps of pictures can be trusted, for each layer and method",
        description="Checks maps against random maps, random weights, other classes and noise. Takes 8 or more pictures"
        " that the model is sure of; states its cost before it begins.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_pictures(parser)
    parser.add_argument("-o", "--output", metavar="DIR", help="write check.json and check.html there (default: not)")
    add_reading_options(parser)
    parser.add_argument("--quick", action="store_true", help="fewer steps and no ROAD: about a third of the cost")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random maps and weights (default: 0)")
    add_progress(parser)
    parser.set_defaults(run=_run, usage_error=parser.error)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.saved_models.checking import check_pictures

    (checkpoint, images), plan = sources(chosen), plan_options(chosen)
    if plan.get("methods") == ["all"]:
        plan["methods"] = "all"
    targets = plan.get("targets")
    if isinstance(targets, list) and len(targets) == 1:
        plan["targets"] = targets[0]
    told = False
    with moving("forwards", show=chosen.progress) as moved:

        def tell(done: int, total: int) -> None:
            nonlocal told
            if not told:
                told = True
                print(f"lightning-gradcam: takes about {total:,} forwards of one picture", file=sys.stderr)
            moved(done, total)

        found, remarks = check_pictures(
            checkpoint, images, **reading_options(chosen), **plan, quick=chosen.quick, seed=chosen.seed, progress=tell
        )
    for remark in remarks:
        print(f"lightning-gradcam: {remark}", file=sys.stderr)
    print(found)
    if chosen.output is not None:
        print(found.save(chosen.output))
    return 0

r"""Checks whether maps can be trusted, by comparing them with random maps, random weights, other classes and noise.

Example:
  lightning-gradcam check version_0/checkpoints/last.ckpt photos/ --methods gradcam hirescam -o checked
  lightning-gradcam check cat.jpg dog.jpg --model torchvision.models:resnet18 --model-args weights=DEFAULT --size 224 \
      --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --layers layer3 layer4 --methods all --quick

Pass 8 or more images on which the model is confident. The command prints a verdict for each layer and method (blank,
backwards, not learnt, class-blind, weak or sound) with its reason and advice. It reports the cost before the long part
starts. The only files it writes are check.json and check.html, in the folder passed with -o.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from lightning_gradcam.cli import options
from lightning_gradcam.cli.explain import add_pictures, add_reading, reading, sources
from lightning_gradcam.cli.shared import moving, say


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "test whether maps can be trusted, for each layer and method"
    parser = options.add_command(commands, "check", what, doc=__doc__)
    add_pictures(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder for check.json and check.html (default: not written)"
    )
    add_reading(parser)
    parser.add_argument("--quick", action="store_true", help="fewer steps and no ROAD: about a third of the cost")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the random maps and weights (default: 0)"
    )
    options.add_progress(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.checks.run import check_maps_of
    from lightning_gradcam.errors import TargetError
    from lightning_gradcam.probes.folder import Preparation
    from lightning_gradcam.saved_models.explanation import prepared
    from lightning_gradcam.saved_models.loader import like_weights

    (checkpoint, images), plan = sources(chosen), options.plan_options(chosen)
    if plan.get("methods") == ["all"]:
        plan["methods"] = "all"
    layers, targets, origin = plan.pop("layers", None), plan.pop("targets", ["predicted"]), reading(chosen)
    if len(targets) > 1:
        raise TargetError(f"targets: got {targets!r:.80}; a check explains one class per image: pass one target")
    told = False
    with moving("forwards", show=chosen.progress) as moved:

        def tell(done: int, total: int) -> None:
            nonlocal told
            if not told:
                told = True
                say(f"takes about {total:,} forward passes of one image")
            moved(done, total)

        given = Preparation(**{one.name: origin.pop(one.name) for one in fields(Preparation) if one.name in origin})
        read = prepared(checkpoint, images, layers, given, targets=targets[0], **origin)
        module, inputs = read.loaded.module, read.probes.inputs
        found = check_maps_of(
            module,
            read.probes,
            like_weights(module, inputs),
            read.layers,
            targets=read.targets,
            quick=chosen.quick,
            seed=chosen.seed,
            progress=tell,
            **plan,
        )
    for remark in read.remarks:
        say(remark)
    print(found)
    if chosen.output is not None:
        print(found.save(chosen.output))
    return 0

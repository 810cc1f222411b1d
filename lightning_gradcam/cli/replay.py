"""Rebuilds a training run's maps from its checkpoints, as if the callback had been active.

Example:
  lightning-gradcam replay version_0/checkpoints -o again                   # reads the run's config.yaml
  lightning-gradcam replay e1.ckpt e2.ckpt --config config.yaml -o again
  lightning-gradcam replay checkpoints/ --model train.py:Net --data train.py:Data --layers backbone.layer4
  lightning-gradcam replay checkpoints/ --model train.py:Net --probes pictures/      # without a data module
  lightning-gradcam replay checkpoints/ --trust --data train.py:Data                 # your own, from a script

The callbacks in the config determine what is explained; command-line options take precedence over theirs. On the same
machine with the same number of threads, the maps equal those of a live run bit for bit. The command writes one archive
for each callback into again/, such as again/gradcam/ with report.html, sheets/, film strips and the raw maps.

A damaged checkpoint is reported and skipped; all others are replayed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning_gradcam.cli import options
from lightning_gradcam.cli.shared import counted, moving, quiet_lightning, say, seed_all

if TYPE_CHECKING:
    from lightning_gradcam.callbacks.base import ProbeCallback
    from lightning_gradcam.saved_models.file import Recipe

# Trainer options that affect the maps, unlike loggers, other callbacks and the number of devices.
_TRAINER = ("accelerator", "benchmark", "deterministic", "limit_val_batches", "precision")
# Errors stop the replay, the overhead is not limited, and no experiment tracker receives images of an old run.
_OURS: dict[str, Any] = {"on_error": "raise", "max_overhead": None, "sinks": None, "log_untrained": False}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "rebuild a run's record of maps from its saved checkpoints"
    parser = options.add_command(commands, "replay", what, doc=__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help="checkpoints, or a folder of .ckpt files")
    parser.add_argument("-o", "--output", default="replay", metavar="DIR", help="output folder (default: %(default)s)")
    options.add_checkpoint(parser)
    options.add_plan(parser, "those in the config, otherwise those of the run, otherwise auto")
    parser.add_argument("--probes", metavar="PATH", help="a saved probe set, or a folder of images")
    parser.add_argument("--num-probes", type=int, metavar="N", help="number of probes to draw (default: 8)")
    parser.add_argument("--seed", type=int, metavar="N", help="random seed for the draw (default: 0)")
    parser.add_argument(
        "--name", metavar="NAME", help="the callback's name, which selects its saved state and names the archive"
    )
    parser.add_argument("--precision", metavar="P", help="precision, such as bf16-mixed (default: the config's)")
    parser.add_argument("--accelerator", metavar="A", help="device to compute on, such as cpu (default: the config's)")
    parser.add_argument("--all", action="store_true", help="use every checkpoint, ignoring the config's schedule")
    options.add_progress(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.saved_models.checkpoints import find_checkpoints
    from lightning_gradcam.saved_models.construction import find_class
    from lightning_gradcam.saved_models.file import Recipe, read_checkpoint
    from lightning_gradcam.saved_models.loader import build_module, find_data

    found = find_checkpoints(chosen.checkpoints, trust=chosen.trust)
    for path, why in found.damaged:
        say(f"{path} is skipped: {why}")
    for path in found.repeated:
        say(f"{path} has the same epoch and step as another checkpoint and is skipped")
    for remark in dict.fromkeys(saved.remark for saved in found.checkpoints if saved.remark is not None):
        say(remark)
    last = found.checkpoints[-1].path
    recipe = Recipe.of(
        read_checkpoint(last, trust=chosen.trust, mapped=True),
        last,
        config=chosen.config,
        model=chosen.model,
        model_args=options.model_arguments(chosen.model_args),
        trust=chosen.trust,
    )
    if chosen.data is not None:
        find_class(chosen.data, "data")
    config = recipe.given if recipe.given is not None else recipe.beside or {}
    seed_all(config.get("seed_everything"))
    # Built before the callbacks, to use the Lightning package that the module's class imports.
    module: Any = build_module(recipe)
    from lightning_gradcam.saved_models.replay import replay_all

    callbacks = _callbacks(config, chosen, recipe)
    data, left_out = find_data(recipe, chosen.data, asked=True)
    if left_out is not None:
        say(left_out)
    with moving("checkpoints", show=chosen.progress) as moved, _own_warnings():
        archives = replay_all(
            found,
            module,
            callbacks,
            datamodule=data,
            output=chosen.output,
            trainer=_trainer_options(config, chosen),
            trust=chosen.trust,
            progress=moved,
        )
    total = len(found.checkpoints)
    for archive in archives:
        steps = len(archive.steps)
        rest = f"; the other {total - steps} are not due under the callback's schedule (--all includes them)"
        if steps == total:
            rest = ""
        print(f"{archive.path}: {counted(steps, 'step')} from {counted(total, 'checkpoint')}{rest}")
    return 1 if found.damaged or len(archives) < len(callbacks) or not all(a.steps for a in archives) else 0


def _callbacks(config: Mapping[str, Any], chosen: argparse.Namespace, recipe: Recipe) -> list[ProbeCallback]:
    """Creates the config's callbacks from this package with the command's options, or one for CAMs if it has none."""
    from lightning_gradcam.callbacks.base import ProbeCallback
    from lightning_gradcam.callbacks.from_config import check_kept
    from lightning_gradcam.callbacks.gradcam import GradCAMCallback
    from lightning_gradcam.errors import ConfigurationError, RefusedError
    from lightning_gradcam.saved_models.construction import accepted, build, named_class
    from lightning_gradcam.saved_models.file import Recipe
    from lightning_gradcam.saved_models.origin import callbacks_in, layers_of_run
    from lightning_gradcam.saved_models.stored import stored_arguments

    flags = {**options.plan_options(chosen), **options.given(chosen, "probes", "num_probes", "seed", "name")}
    ours = {**_OURS, **({"every_n_epochs": 1, "every_n_validations": None} if chosen.all else {})}
    names, vouched = recipe.names, recipe.trusts_config
    made: list[ProbeCallback] = []
    for given, own in callbacks_in(config):
        name = given if "." in given or ":" in given else f"lightning_gradcam.{given}"
        package = name.replace(":", ".").split(".")[0]
        if not names and not vouched and package != "lightning_gradcam":
            if package not in ("pytorch_lightning", "lightning"):
                say(
                    f"callback {name!r:.200} in the config next to the checkpoint is not imported with --model; pass "
                    "that config as --config to import it"
                )
            continue
        try:
            kind = named_class(name, "callbacks", ProbeCallback)
        except RefusedError:
            # It is another kind of callback.
            continue
        except ConfigurationError as error:
            # A bare name that this package does not have is one of Lightning's.
            if name == given:
                say(f"the config's callback {name!r:.200} is skipped: {error}")
            continue
        check_kept(**{str(option): value for option, value in own.items() if option not in flags})
        if own.get("log_untrained"):
            say("log_untrained: no checkpoint contains the untrained weights, so there is no baseline")
        values = accepted(kind, {**flags, **ours})
        kept = {option: value for option, value in own.items() if option not in values}
        if vouched:
            values, kept = {**kept, **values}, {}
        kept = stored_arguments(kind, kept, "callbacks", names=names)
        made.append(build(kind, values, "callbacks", parsed=True, kept=kept))
    if chosen.name is not None and len(made) > 1:
        raise ConfigurationError(
            f"--name: the config has {len(made)} lightning-gradcam callbacks; leave --name out, or pass a config "
            "with only one of them"
        )
    # Use only the checkpoint: without a callback, the config does not specify layers.
    layers = layers_of_run(Recipe(recipe.contents))
    return made or [GradCAMCallback(**{**({"layers": list(layers)} if layers else {}), **flags, **ours})]


def _trainer_options(config: Mapping[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    from lightning_gradcam.saved_models.config import mapping

    own = mapping(config.get("trainer"))
    if own.get("plugins"):
        say("trainer.plugins in the config is ignored; pass --precision instead of a precision plugin")
    found = {name: own[name] for name in _TRAINER if own.get(name) is not None}
    return {**found, **options.given(chosen, "precision", "accelerator")}


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Hides Lightning's output, and prints this package's warnings at the end, one line each."""
    caught: list[warnings.WarningMessage] = []
    try:
        with quiet_lightning(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            if text.startswith("lightning-gradcam: "):
                say(text.removeprefix("lightning-gradcam: "))

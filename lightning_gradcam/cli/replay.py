"""``lightning-gradcam replay``: the evolution of a training, rebuilt from the checkpoints that it has left."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning_gradcam.cli.explain import add_checkpoint_options, add_plan_options, plan_options
from lightning_gradcam.cli.layers import arguments
from lightning_gradcam.cli.shared import EXIT_CODES, add_progress, moving, seed_all

if TYPE_CHECKING:
    from lightning_gradcam.callbacks.base import ProbeCallback

_EPILOG = f"""\
example:
  lightning-gradcam replay version_0/checkpoints -o again                   # config.yaml lies beside the folder
  lightning-gradcam replay e1.ckpt e2.ckpt --config config.yaml -o again
  lightning-gradcam replay checkpoints/ --model train.py:Net --data train.py:Data --layers backbone.layer4
  lightning-gradcam replay checkpoints/ --model train.py:Net --probes pictures/      # without any data
  lightning-gradcam replay checkpoints/ --trust --data train.py:Data                 # your own, of a plain script

What is explained is what the callbacks in the config say; options that are given here come before theirs.
The maps equal those of a live run bit for bit on the same machine with the same number of threads. The folder again/
gets an archive for each callback: again/gradcam/ with report.html, sheets/, film strips and the raw maps.

A damaged checkpoint is left out and named; all others are replayed, and the exit code is 1.

{EXIT_CODES}
"""
# What bears on the maps; loggers, other callbacks and several devices do not.
_TRAINER = ("accelerator", "benchmark", "deterministic", "limit_val_batches", "precision")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "replay",
        help="rebuild the evolution from saved checkpoints",
        description="Rebuilds the evolution of a training from its checkpoints, as if the callback had been there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help="checkpoints, or a folder of .ckpt files")
    parser.add_argument("-o", "--output", default="replay", metavar="DIR", help="folder (default: %(default)s)")
    add_checkpoint_options(parser)
    add_plan_options(parser, "the config's, else the run's, else auto")
    parser.add_argument("--probes", metavar="PATH", help="a saved probe set, or a folder of pictures")
    parser.add_argument("--num-probes", type=int, metavar="N", help="how many to draw (default: 8)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the draw (default: 0)")
    parser.add_argument("--name", metavar="NAME", help="of the callback: its state is taken, and the archive named so")
    parser.add_argument("--precision", metavar="P", help="of the training, such as bf16-mixed (default: the config's)")
    parser.add_argument("--accelerator", metavar="A", help="where to compute, such as cpu (default: the config's)")
    parser.add_argument("--all", action="store_true", help="every checkpoint, whatever schedule the config has")
    add_progress(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from lightning_gradcam.saved_models.construction import read_config
    from lightning_gradcam.saved_models.file import config_beside, read_checkpoint
    from lightning_gradcam.saved_models.loader import build_module, find_data, may_import
    from lightning_gradcam.saved_models.origin import layers_of_run

    given = None if chosen.config is None else read_config(chosen.config)
    _import_class(chosen, given)
    from lightning_gradcam.saved_models.replay import find_checkpoints, replay_all

    found = find_checkpoints(chosen.checkpoints, trust=chosen.trust)
    for path, why in found.damaged:
        _say(f"{path} is left out: {why}")
    for path in found.repeated:
        _say(f"{path} holds an epoch and step that another checkpoint has, and is left out")
    for remark in dict.fromkeys(saved.remark for saved in found.checkpoints if saved.remark is not None):
        _say(remark)
    last = found.checkpoints[-1].path
    contents: Any = read_checkpoint(last, trust=chosen.trust, mapped=True)
    beside = config_beside(last) if given is None else None
    config: Mapping[str, Any] = given if given is not None else beside or {}
    seed_all(config.get("seed_everything"))
    names = may_import(chosen.model, given, trust=chosen.trust)
    layers = layers_of_run(contents, None, None)
    callbacks = _callbacks(config, chosen, layers, names=names, vouched=given is not None or chosen.trust)
    module: Any = build_module(
        contents,
        last,
        model=chosen.model,
        given=given,
        beside=beside,
        model_args=arguments(chosen.model_args),
        trust=chosen.trust,
    )
    data, left_out = find_data(
        contents, chosen.data, given=given, beside=beside, names=names, trust=chosen.trust, asked=True
    )
    if left_out is not None:
        _say(left_out)
    with moving("checkpoints", show=chosen.progress) as moved, _said():
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
    for archive in archives:
        steps = len(archive.steps)
        total = len(found.checkpoints)
        rest = "" if steps == total else f"; the other {total - steps} are not due by its schedule (--all)"
        print(f"{archive.path}: {_count(steps, 'step')} from {_count(total, 'checkpoint')}{rest}")
    return 1 if found.damaged or len(archives) < len(callbacks) or not all(a.steps for a in archives) else 0


def _import_class(chosen: argparse.Namespace, given: Mapping[str, Any] | None) -> None:
    """Imports the module's class before anything else does: its Lightning is the one to use."""
    from lightning_gradcam.errors import CheckpointFileError
    from lightning_gradcam.saved_models.construction import find_class
    from lightning_gradcam.saved_models.file import config_beside, files_in, read_checkpoint
    from lightning_gradcam.saved_models.loader import model_class

    for file in files_in(chosen.checkpoints):
        try:
            contents = read_checkpoint(file, trust=chosen.trust, mapped=True)
        except CheckpointFileError:
            continue
        if isinstance(contents, Mapping):
            beside = config_beside(str(file)) if given is None else None
            if chosen.data is not None:
                find_class(chosen.data, "data")
            model_class(contents, chosen.model, given, beside, str(file), trust=chosen.trust)
        return


def _callbacks(
    config: Mapping[str, Any], chosen: argparse.Namespace, layers: Sequence[str], *, names: bool, vouched: bool
) -> list[ProbeCallback]:
    """Makes the callbacks of ours that the config names, with the options given here; one of CAMs where it has none.

    Args:
        config: Its sections.
        chosen: The options.
        layers: Those that the checkpoint's run explained, for a config without a callback.
        names: Other packages' classes that it names may be imported.
        vouched: The user has given the config, or trusts what lies beside the checkpoints.
    """
    from lightning_gradcam.callbacks.base import ProbeCallback
    from lightning_gradcam.callbacks.from_config import check_kept
    from lightning_gradcam.callbacks.gradcam import GradCAMCallback
    from lightning_gradcam.errors import ConfigurationError
    from lightning_gradcam.saved_models.construction import accepted, build, mapping, named_class
    from lightning_gradcam.saved_models.stored import stored_arguments

    flags = {name: getattr(chosen, name) for name in ("probes", "num_probes", "seed", "name")}
    flags = {**plan_options(chosen), **{name: value for name, value in flags.items() if value is not None}}
    # An error ends the replay; what takes long may; and no tracker gets the pictures of another day's run.
    ours: dict[str, Any] = {"on_error": "raise", "max_overhead": None, "sinks": None, "log_untrained": False}
    if chosen.all:
        ours.update(every_n_epochs=1, every_n_validations=None)
    listed = mapping(config.get("trainer")).get("callbacks") or []
    made: list[ProbeCallback] = []
    for entry in listed if isinstance(listed, list) else [listed]:
        name = entry.get("class_path") if isinstance(entry, Mapping) else entry
        if not isinstance(name, str):
            continue
        name = name if "." in name or ":" in name else f"lightning_gradcam.{name}"
        package = name.replace(":", ".").split(".")[0]
        if not names and not vouched and package != "lightning_gradcam":
            if package not in ("pytorch_lightning", "lightning"):
                _say(f"callback {name!r:.200} of the config beside is not imported with --model; --config imports it")
            continue
        try:
            kind = named_class(name, "callbacks", ProbeCallback)
        except ConfigurationError:
            # One of another kind, or whose package is not here.
            continue
        own = mapping(entry.get("init_args")) if isinstance(entry, Mapping) else {}
        check_kept(
            **{option: value for option, value in own.items() if isinstance(option, str) and option not in flags}
        )
        if own.get("log_untrained"):
            _say("log_untrained: no checkpoint holds the untrained weights; there is no baseline")
        options = accepted(kind, {**flags, **ours})
        kept = {option: value for option, value in own.items() if option not in options}
        if vouched:
            options, kept = {**kept, **options}, {}
        kept = stored_arguments(kind, kept, "callbacks", names=names)
        made.append(build(kind, options, "callbacks", parsed=True, kept=kept))
    if chosen.name is not None and len(made) > 1:
        raise ConfigurationError(
            f"--name: the config has {len(made)} callbacks of ours; leave it out, or give a config with one of them"
        )
    return made or [GradCAMCallback(**{**({"layers": list(layers)} if layers else {}), **flags, **ours})]


def _trainer_options(config: Mapping[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    from lightning_gradcam.saved_models.construction import mapping

    own = mapping(config.get("trainer"))
    if own.get("plugins"):
        _say("trainer.plugins in the config are left out; a precision plugin is given as --precision")
    found = {name: own[name] for name in _TRAINER if own.get(name) is not None}
    for name in ("precision", "accelerator"):
        if getattr(chosen, name) is not None:
            found[name] = getattr(chosen, name)
    return found


@contextmanager
def _said() -> Iterator[None]:
    """Keeps Lightning's own talk off the terminal; warnings of ours are said in a line each, when all is done."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            if text.startswith("lightning-gradcam: "):
                _say(text.removeprefix("lightning-gradcam: "))


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _say(text: str) -> None:
    print(f"lightning-gradcam: {text}", file=sys.stderr)

"""``lightning-gradcam fit``, ``validate`` and ``test``: Lightning's own command line for any module and data module."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_gradcam.cli.shared import EXIT_CODES

_WHAT = {
    "fit": "train a module, with what callbacks its configuration names",
    "validate": "validate a module, and log the maps of its probes",
    "test": "test a module, and log the maps of its probes",
}
_EPILOG = f"""\
example:
  lightning-gradcam {{name}} --config config.yaml{{more}}
  lightning-gradcam {{name}} --config config.yaml --print_config                  # what is in force, and stop
  lightning-gradcam {{name}} --help-all                                           # every option of the trainer
  lightning-gradcam {{name}} --model.help my_package.MyModule                     # and of a class

All arguments go to LightningCLI (https://lightning.ai/docs/pytorch/stable/cli/lightning_cli.html) as they are. In
config.yaml:

  model:
    class_path: my_package.MyModule          # any LightningModule; a file my_package.py in this folder will do
    init_args: {{{{learning_rate: 0.001}}}}
  data:
    class_path: my_package.MyDataModule
  trainer:
    max_epochs: 5
    callbacks:
      - class_path: lightning_gradcam.GradCAMCallback
        init_args: {{{{layers: [backbone.layer4], num_probes: 16}}}}

{EXIT_CODES}
"""
_MORE = {
    "fit": " --trainer.max_epochs 10 --trainer.callbacks.num_probes 32",
    "validate": " --ckpt_path last.ckpt",
    "test": " --ckpt_path best.ckpt",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the three commands to the parser."""
    for name, what in _WHAT.items():
        parser = commands.add_parser(
            name,
            help=what,
            usage=f"lightning-gradcam {name} --config CONFIG [OPTION ...]",
            description=f"{what[0].upper()}{what[1:]}; at the end it says where to look.",
            epilog=_EPILOG.format(name=name, more=_MORE[name]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # Nothing is an option here: all that follows is LightningCLI's.
            prefix_chars="\0",
            add_help=False,
        )
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        parser.set_defaults(run=partial(_run, name, parser))


def _run(name: str, parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    arguments: list[str] = chosen.arguments
    if arguments in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    from lightning_gradcam.cli.config import Kept, command_line, refusals

    kept = Kept()
    line = command_line(name, arguments, kept)
    try:
        with refusals():
            line([name, *("--help" if argument == "--help-all" else argument for argument in arguments)])
    except SystemExit as end:
        # Lightning ends the process itself after an interrupt.
        if isinstance(end.__context__, KeyboardInterrupt):
            _say(kept.trainer)
            raise KeyboardInterrupt from None
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    _say(kept.trainer)
    return 0


def _say(trainer: Any) -> None:
    if trainer is None or not trainer.is_global_zero or trainer.fast_dev_run:
        return
    said = where_to_look(trainer.callbacks, trainer.loggers)
    if "\n" in said:
        print(said)


def where_to_look(callbacks: Sequence[object], loggers: Sequence[object]) -> str:
    """Returns what to open after a run: a line each, with the command or path first.

    Args:
        callbacks: The trainer's. Each of ours counts with its archive and report, a ``ModelCheckpoint`` with its file.
        loggers: The trainer's. TensorBoard and W&B are known; what others show, they say themselves.

    Example:
        >>> where_to_look([], [])
        'Where to look:'
    """
    lines = [line for logger in loggers for line in _of_logger(logger)]
    lines += [line for callback in callbacks for line in _of_callback(callback)]
    return "\n".join(["Where to look:", *lines])


def _of_logger(logger: Any) -> list[str]:
    kinds = {kind.__name__ for kind in type(logger).__mro__}
    if "TensorBoardLogger" in kinds:
        return [f"  tensorboard --logdir {logger.save_dir}    (tab GRAD-CAM)"]
    if "WandbLogger" in kinds:
        offline = os.environ.get("WANDB_MODE") == "offline"
        folder = Path(logger.experiment.dir).parent
        return [f"  {'offline run, upload with: wandb sync' if offline else 'W&B files:'} {folder}"]
    return []


def _of_callback(callback: Any) -> list[str]:
    from lightning_gradcam.archive import Archive
    from lightning_gradcam.report import REPORT
    from lightning_gradcam.storage import Storage, join

    archive = getattr(callback, "archive", None)
    if isinstance(archive, Archive):
        lines = [f"  {archive.path}    (raw maps: lightning_gradcam.Archive.open)"]
        if Storage(archive.path).exists(REPORT):
            lines.insert(0, f"  {join(archive.path, REPORT)}    (open it in a browser)")
        return lines
    best = getattr(callback, "best_model_path", "")
    return [f"  {best}    (weights: lightning-gradcam explain, layers)"] if best else []

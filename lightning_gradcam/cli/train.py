"""Runs LightningCLI for any module and data module.

Example:
  lightning-gradcam {name} --config config.yaml{more}
  lightning-gradcam {name} --config config.yaml --print_config                  # print the effective options
  lightning-gradcam {name} --help-all                                           # list all trainer options
  lightning-gradcam {name} --model.help my_package.MyModule                     # list a class's options

All arguments are passed to LightningCLI (https://lightning.ai/docs/pytorch/stable/cli/lightning_cli.html) unchanged. An
example of config.yaml:

  model:
    class_path: my_package.MyModule          # any LightningModule; a file my_package.py in this folder also works
    init_args: {{learning_rate: 0.001}}
  data:
    class_path: my_package.MyDataModule
  trainer:
    max_epochs: 5
    callbacks:
      - class_path: lightning_gradcam.GradCAMCallback
        init_args: {{layers: [backbone.layer4], num_probes: 16}}
"""

from __future__ import annotations

import argparse
from functools import partial

from lightning_gradcam.cli.options import add_command

_WHAT = {
    "fit": "train a module with the callbacks in its configuration",
    "validate": "validate a module, and log the maps of its probes",
    "test": "test a module, and log the maps of its probes",
}
_MORE = {
    "fit": " --trainer.max_epochs 10 --trainer.callbacks.num_probes 32",
    "validate": " --ckpt_path last.ckpt",
    "test": " --ckpt_path best.ckpt",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the three commands to the parser."""
    for name, what in _WHAT.items():
        parser = add_command(
            commands,
            name,
            what,
            usage=f"lightning-gradcam {name} --config CONFIG [OPTION ...]",
            doc=(__doc__ or "").format(name=name, more=_MORE[name]),
            # Parse no options here: all arguments are passed to LightningCLI.
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
    from lightning_gradcam.cli.config import command_line
    from lightning_gradcam.cli.mistakes import refusals

    line = command_line(name, arguments)
    try:
        with refusals():
            line([name, *("--help" if argument == "--help-all" else argument for argument in arguments)])
    except SystemExit as end:
        # After an interrupt, Lightning itself exits the process.
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        raise
    _close_process_group()
    return 0


def _close_process_group() -> None:
    """Destroys the process group, which Lightning leaves open until the process ends.

    At that point, a gloo thread that still holds a tensor needs the interpreter, which is shutting down, and aborts the
    process: exit code 134 after a complete run.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

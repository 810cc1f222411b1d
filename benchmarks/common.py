"""What the benchmarks share: their options' checks, the number of torch's threads, and the line that ends a report."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version

import torch


def positive(text: str) -> int:
    """Reads an option that is 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}; give 1 or more")
    return int(text)


def read(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Adds ``--threads``, reads the options and sets torch's threads."""
    parser.add_argument("--threads", type=positive, help="of torch; default: torch's own choice")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def environment(*names: str) -> str:
    """Returns the versions of packages, and how many processors and threads there are."""
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{versions}; {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"

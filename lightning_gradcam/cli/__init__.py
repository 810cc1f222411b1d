"""The console script ``lightning-gradcam``: one module for each command, whose ``add`` registers it.

A command's function takes the parsed arguments and returns the exit code. It imports its dependencies itself, because
``--help`` must not wait for torch. Nothing else in the package depends on this folder.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; see :func:`lightning_gradcam.cli.app.main`."""
    from lightning_gradcam.cli.app import main as run

    return run(arguments)

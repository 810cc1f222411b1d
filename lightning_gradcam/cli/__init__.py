"""The console script ``lightning-gradcam``, with one module for each command, whose ``add`` function registers it.

A command's function accepts the parsed arguments and returns the exit code. It imports its dependencies itself, because
``--help`` must not wait for torch. Nothing else in the package depends on this folder.
"""

from lightning_gradcam.cli.app import main

__all__ = ["main"]

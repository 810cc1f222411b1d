"""The commands of ``lightning-gradcam``; each module's ``add`` gives one or several to the parser.

A command's function takes the parsed arguments and returns the exit code. What a command needs is imported inside it:
``--help`` must not wait for torch.
"""

from __future__ import annotations

# What scripts can rely on; stands below every command's help.
EXIT_CODES = "exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage; 130 interrupted"

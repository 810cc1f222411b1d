"""Warnings that point at the user's own line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# Packages to skip when looking for the user's line. Compared by name and not by path, because an editable install can
# be anywhere.
_PASSED_OVER = frozenset(
    {"lightning_gradcam", "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torch"}
)


PREFIX = "lightning-gradcam: "
"""The prefix of every warning from this package; one filter matches them all."""


def warn(message: str) -> None:
    """Warns at the user's line: the nearest one outside this package, Lightning, torch and the standard library.

    During training, this is the call to ``trainer.fit``. Python's own ``skip_file_prefixes`` requires Python 3.12.

    Args:
        message: The warning's text; :data:`PREFIX` is prepended if it is missing.
    """
    message = message if message.startswith(PREFIX) else PREFIX + message
    frame = _users_frame()
    scope = frame.f_globals
    # Pass the module and its registry, as `warnings.warn` does: filters and "once per line" need them.
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=scope.get("__name__", "<unknown>"),
        registry=scope.setdefault("__warningregistry__", {}),
    )


def _users_frame() -> FrameType:
    """Returns the nearest frame in the user's code, or the warning's own frame if none exists, as in our threads."""
    own = sys._getframe(2)
    frame: FrameType | None = own
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        # `contextlib` has a frame between `with` and its body, `threading` below everything that runs in a thread.
        if package not in _PASSED_OVER and package not in sys.stdlib_module_names:
            return frame
        frame = frame.f_back
    return own

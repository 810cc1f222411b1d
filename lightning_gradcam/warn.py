"""Warnings that point at the user's own line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# The frames between the user's line and ours. Module names rather than paths, because an editable install can be
# anywhere.
_PASSED_OVER = frozenset(
    {"lightning_gradcam", "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torch"}
)


PREFIX = "lightning-gradcam: "
"""The start of every warning of this package, so that one filter finds them all."""


def warn(message: str) -> None:
    """Warns at the user's line: the first outside this package, Lightning, torch and the standard library.

    During training, that is the call of ``trainer.fit``. Python's own ``skip_file_prefixes`` needs 3.12.

    Args:
        message: The warning's text; :data:`PREFIX` is prepended if it is missing.
    """
    message = message if message.startswith(PREFIX) else PREFIX + message
    frame = _users_frame()
    scope = frame.f_globals
    # As `warnings.warn` does, so that filters and "once per line" work: they look at the module and its registry.
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=scope.get("__name__", "<unknown>"),
        registry=scope.setdefault("__warningregistry__", {}),
    )


def _users_frame() -> FrameType:
    """Returns the nearest frame of the user's code; if there is none, as in our own threads, the warning's own."""
    own = sys._getframe(2)
    frame: FrameType | None = own
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        # `contextlib` is between `with` and its body, `threading` below everything that runs in a thread.
        if package not in _PASSED_OVER and package not in sys.stdlib_module_names:
            return frame
        frame = frame.f_back
    return own

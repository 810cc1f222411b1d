"""Names for loggers that take not every text as one."""

from __future__ import annotations

import hashlib
import re


def fitting(tag: str, unfit: re.Pattern[str], longest: int) -> str:
    """Returns a tag as it is where that is possible, and elsewhere a name like it.

    Each part between slashes is taken by itself; one that has to change gets a few digits of its hash, so that
    different tags stay different, and so does a name that has to be cut. The last part, which says what a number is, is
    kept.

    Args:
        tag: A tag, with any text in it.
        unfit: What may not be in a part.
        longest: How many signs there may be, 64 or more.

    Example:
        >>> fitting("gradcam_stats/conv1/drift", re.compile(r"[^a-z0-9_]"), 80)
        'gradcam_stats/conv1/drift'
        >>> fitting("gradcam_stats/conv+/drift", re.compile(r"[^a-z0-9_]"), 80)
        'gradcam_stats/conv_-bbd7a6a8/drift'
    """
    parts = [_part(part, unfit) for part in tag.split("/")]
    name = "/".join(parts)
    if len(name) <= longest:
        return name
    tail = f"-{_digest(tag)}" + (f"/{parts[-1]}" if len(parts) > 1 and len(parts[-1]) < longest // 2 else "")
    return name[: longest - len(tail)] + tail


def _part(part: str, unfit: re.Pattern[str]) -> str:
    cleaned = unfit.sub("_", part)
    # An empty part, "." and ".." would lead elsewhere where names are paths.
    if cleaned == part and part.strip("."):
        return part
    return f"{cleaned.strip('.') or '_'}-{_digest(part)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]

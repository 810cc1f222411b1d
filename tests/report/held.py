"""What a page holds, read back: the runs' descriptions are deflated."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from typing import Any


def described(page: str, place: int = 0) -> dict[str, Any]:
    """Returns the description of one of a page's runs.

    Args:
        page: The file's text.
        place: Which run.
    """
    (held,) = re.findall(rf'id="gradcam-run-{place}"[^>]*>(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(zlib.decompress(b64decode(held)))
    return found

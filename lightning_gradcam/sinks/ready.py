"""Finished files for loggers that want Pillow's images, and would encode each again."""

from __future__ import annotations

import io
import os
from typing import IO, Any

from PIL import Image


def ready(content: bytes) -> Image.Image:
    """Returns an image whose ``save`` writes this very file, whatever format it is asked for.

    Nothing is decoded before somebody wants pixels.

    Args:
        content: Of a picture's file.

    Example:
        >>> from lightning_gradcam.render.picture import Picture
        >>> import numpy as np
        >>> content, written = Picture(np.zeros((8, 8, 3), np.uint8)).encoded("png"), io.BytesIO()
        >>> ready(content).save(written, format="PNG")
        >>> written.getvalue() == content
        True
    """

    def save(to: str | os.PathLike[str] | IO[bytes], *_: Any, **__: Any) -> None:
        if isinstance(to, (str, os.PathLike)):
            with open(to, "wb") as file:
                file.write(content)
        else:
            to.write(content)

    image: Any = Image.open(io.BytesIO(content))
    image.save = save
    made: Image.Image = image
    return made

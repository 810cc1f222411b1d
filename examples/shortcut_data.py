"""Synthetic garments with a small coloured tag next to them, whose colour may determine the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from drawn_garments import DrawnGarments
from PIL import Image
from torch.utils.data import Dataset

Tag = Literal["class", "random", "none"]
Mask = npt.NDArray[np.bool_]

MARGIN = 8
SIDE = 28 + 2 * MARGIN
# Smaller than the margin, so that no tag overlaps a garment.
TAG_SIDE = MARGIN - 2
# One for each class, in the order of the classes.
COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 25, 25),
    (35, 160, 50),
    (50, 80, 255),
    (255, 225, 25),
    (240, 50, 230),
    (70, 240, 240),
    (255, 130, 20),
    (130, 30, 190),
    (0, 120, 120),
    (190, 255, 60),
)


class TaggedGarments(Dataset[tuple[Any, int]]):
    """Synthetic garments, grey on black, each with a coloured tag somewhere along the image's border.

    The three kinds of ``tag`` differ only in the tags' colours; garments and the places of the tags are the same.

    Args:
        train: Whether to draw the training set or, from another random stream, the validation set.
        tag: ``"class"``: the tag's colour determines the class. ``"random"``: a random colour. ``"none"``: no tag.
        count: Number of images, at least 1.
        seed: Seed of the garments, the tags' places and the random colours; at least 0.
        transform: Called with each PIL image, RGB, 44x44; default None, which returns the image unchanged.

    Attributes:
        dataset: The garments without margin and tag, with the labels, class names and note that a probe set reads.
        colours: Index of each tag's colour in ``COLOURS``, int64 ``[N]``.
        corners: Row and column of each tag's upper left pixel, int64 ``[N, 2]``.

    Raises:
        ValueError: ``tag``, ``count`` or ``seed`` is invalid.

    Example:
        >>> picture, label = TaggedGarments(train=False, tag="class", count=10)[0]
        >>> picture.mode, picture.size
        ('RGB', (44, 44))
    """

    def __init__(
        self,
        train: bool = True,
        tag: Tag = "class",
        *,
        count: int,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if tag not in ("class", "random", "none"):
            raise ValueError(f"tag: got {tag!r}; valid: 'class', 'random' and 'none'")
        self.dataset = DrawnGarments(train, count=count, seed=seed)
        self.tag = tag
        self.transform = transform
        # The last number makes this stream independent of those for the garments.
        rng = np.random.default_rng([seed, 2 if train else 1, 1])
        along = rng.integers(0, SIDE - TAG_SIDE + 1, count)
        across = rng.integers(0, MARGIN - TAG_SIDE + 1, count)
        side = rng.integers(0, 4, count)
        across = np.where(side % 2, SIDE - TAG_SIDE - across, across)
        self.corners = np.stack([np.where(side < 2, across, along), np.where(side < 2, along, across)], axis=1)
        guesses = rng.integers(0, len(COLOURS), count)
        self.colours = self.dataset.targets.numpy().copy() if tag == "class" else guesses

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Returns the image (PIL, RGB, then transformed) and the label at an index."""
        garment, label = self.dataset[index]
        picture: Any = Image.new("RGB", (SIDE, SIDE))
        picture.paste(garment, (MARGIN, MARGIN))
        if self.tag != "none":
            row, column = self.corners[index].tolist()
            picture.paste(COLOURS[self.colours[index]], (column, row, column + TAG_SIDE, row + TAG_SIDE))
        if self.transform is not None:
            picture = self.transform(picture)
        return picture, label

    def probe_mask(self, index: int) -> Mask:
        """Returns the mask [44, 44] of the whole garment of the untransformed image."""
        return np.pad(np.asarray(self.dataset[index][0]) > 0, MARGIN)

    def telling_mask(self, index: int) -> Mask:
        """Returns the mask [44, 44] of the garment's telling parts."""
        return np.pad(self.dataset.probe_mask(index), MARGIN)

    def tag_mask(self, index: int) -> Mask:
        """Returns the mask [44, 44] of the tag, also where it is not drawn."""
        mask = np.zeros((SIDE, SIDE), np.bool_)
        row, column = self.corners[index]
        mask[row : row + TAG_SIDE, column : column + TAG_SIDE] = True
        return mask


class Marked(Dataset[tuple[Any, int, torch.Tensor]]):
    """Tagged garments, each with a mask of what may count: bool [44, 44], False on the tag and its surroundings.

    Args:
        pictures: The garments, with a transform that keeps their size.
        surroundings: Width in pixels of the frame around the tag that must not count either.

    Example:
        >>> _, _, mask = Marked(TaggedGarments(train=False, tag="class", count=10), surroundings=0)[0]
        >>> mask.shape, int((~mask).sum())
        (torch.Size([44, 44]), 36)
    """

    def __init__(self, pictures: TaggedGarments, surroundings: int) -> None:
        self.pictures = pictures
        self.surroundings = surroundings

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Any, int, torch.Tensor]:
        """Returns the image, the label and the mask at an index."""
        mask = torch.ones(SIDE, SIDE, dtype=torch.bool)
        row, column = self.pictures.corners[index]
        first, last = -self.surroundings, TAG_SIDE + self.surroundings
        mask[max(row + first, 0) : row + last, max(column + first, 0) : column + last] = False
        return *self.pictures[index], mask

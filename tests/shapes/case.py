"""One row of the sweep over models of other shapes than plain classifiers: a model, and what is right for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Places:
    """How a layer's activation is read, written down by hand.

    Attributes:
        layout: What the record has to call it; empty where only the map counts.
        read: From the activation to ``[N, C, *places]``; of pictures folded into the batch, a row for each of them.
        largest: Of all tensors in all calls of the layer, each sample is explained at the one with the largest gradient
            (a detector's levels), and not at the first tensor of the last call. Where levels differ in size, the
            places of a coarser one may be repeated up to the size of the finest.
        pictures: How many pictures of a sample follow each other in the batch; each is explained by itself.
    """

    layout: str
    read: Callable[[Tensor], Tensor]
    largest: bool = False
    pictures: int = 0


FIRST = Places("NCHW", lambda a: a)
VOLUME = Places("NCDHW", lambda a: a)
LAST = Places("NHWC", lambda a: a.movedim(-1, 1))
SIGNAL = Places("", lambda a: a)
LEVEL = Places("NCHW", lambda a: a, largest=True)


def tokens(*grid: int, before: int = 0, behind: int = 0) -> Places:
    """Tokens ``[N, L, C]`` that form a grid row by row, with others before it or behind it."""
    around = f"{before}+" if before else "", f"+{behind}" if behind else ""
    shape = "x".join(map(str, grid))

    def read(a: Tensor) -> Tensor:
        return a[:, before : a.shape[1] - behind].transpose(1, 2).reshape(len(a), a.shape[2], *grid)

    return Places(f"NLC:{around[0]}{shape}{around[1]}", read)


def sequence_first(*grid: int, before: int = 0) -> Places:
    """Tokens ``[L, N, C]``."""
    shape = "x".join(map(str, grid))

    def read(a: Tensor) -> Tensor:
        return a[before:].permute(1, 2, 0).reshape(a.shape[1], a.shape[2], *grid)

    return Places(f"LNC:{f'{before}+' if before else ''}{shape}", read)


def folded(pictures: int, read: Places = FIRST) -> Places:
    """Pictures folded into the batch, ``[N * pictures, C, h, w]``; a map is ``[N, pictures, h, w]``."""
    return Places(f"(NT){read.layout[1:]}", read.read, pictures=pictures)


@dataclass(frozen=True)
class Shape:
    """A model, and what is right for it.

    Attributes:
        name: The row's, unique.
        family: The module that it stands in.
        make: Makes the model.
        inputs: Makes its inputs, of float64.
        right: Layers that are right for ``"auto"``, as shell patterns, with how each is read. None where an error is.
        target: What is explained.
        score: The explained scores ``[N]``, by hand; needed where the target is neither a class nor a callable.
        options: Further arguments of ``compute_cams``; made anew for each call.
        error: What the error's message has to hold, each of them. Where ``right`` is given too, either will do.
        warning: What a warning has to hold that begins with the package's name; none is asked for where empty.
        check: Looks at the result besides.
        sample: One of the twelve that run with the slow tests.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    right: Mapping[str, Places] = field(default_factory=dict)
    target: Any = "predicted"
    score: Callable[[Any], Tensor] | None = None
    options: Callable[[], dict[str, Any]] = dict
    error: tuple[str, ...] = ()
    warning: tuple[str, ...] = ()
    check: Callable[[Any], None] | None = None
    sample: bool = False

    def model(self, seed: int = 0) -> nn.Module:
        """The model with random weights, in float64 and in evaluation mode."""
        torch.manual_seed(seed)
        return self.make().double().eval()

    def scores(self, output: Any) -> Tensor:
        """The explained scores by hand."""
        key = self.options().get("output_key")
        picked = output if key is None else key(output) if callable(key) else output[key]
        if self.score is not None:
            return self.score(picked)
        if callable(self.target):
            return self.target(picked)
        if self.target == "predicted":
            both = picked if picked.dim() == 2 and picked.shape[1] > 1 else torch.stack([-picked, picked], 1).flatten(1)
            return both.max(dim=1).values
        return picked[:, self.target]


SHAPES: list[Shape] = []


def shape(
    name: str, inputs: Callable[[], Any], right: Mapping[str, Places] | None = None, **options: Any
) -> Callable[[Any], Any]:
    """Puts a model's class, or a function that makes one, into the sweep."""

    def registered(make: Any) -> Any:
        family = make.__module__.rpartition(".")[2]
        SHAPES.append(Shape(name, family, make, inputs, right or {}, **options))
        return make

    return registered


def numbers(*size: int, seed: int = 0) -> Tensor:
    """Normal random numbers in float64, the same in each call."""
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def words(samples: int, length: int, seed: int = 0) -> Tensor:
    """Random word indices below 20."""
    return torch.randint(0, 20, (samples, length), generator=torch.Generator().manual_seed(seed))


COVERS_MOST = {"segment": "predicted"}


def covering_most(output: Tensor) -> Tensor:
    """The logits of each picture's most frequent class, summed where it is predicted."""
    found = output.argmax(1).flatten(1)
    category = found.mode(1).values
    logits = output.flatten(2)[torch.arange(len(output)), category]
    return (logits * (found == category[:, None])).sum(1)


def size_of(inputs: Any) -> str:
    """What the page says of the inputs: the shapes of their tensors."""
    if isinstance(inputs, Tensor):
        return "x".join(map(str, inputs.shape))
    parts: Sequence[Any] = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    return ", ".join(size_of(part) for part in parts)

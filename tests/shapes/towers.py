"""Several towers: image and text, Siamese networks, teachers, and embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from tests.shapes.case import FIRST, numbers, shape, tokens, words
from tests.shapes.parts import Block, Text, Vit, cnn


def own_pair(output: Tensor) -> Tensor:
    """Each image's similarity to its own text."""
    return output.diagonal()


def image_and_text(side: int = 32) -> dict[str, Tensor]:
    return {"image": numbers(3, 3, side, side), "ids": words(3, 16)}


@shape(
    "CLIP with two transformers",
    image_and_text,
    {"image_tower.blocks.1.norm1": tokens(4, 4, before=1)},
    target=own_pair,
    sample=True,
)
class Clip(nn.Module):
    def __init__(self, image_tower: nn.Module | None = None) -> None:
        super().__init__()
        self.image_tower, self.text_tower = image_tower or Vit(), Text()

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        return 5 * normalize(self.image_tower(image), dim=1) @ normalize(self.text_tower(ids), dim=1).T


class Pooled(nn.Module):
    """A CNN and its mean over places."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.body = cnn(width=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


@shape("CLIP with a CNN and a transformer", image_and_text, {"image_tower.body": FIRST}, target=own_pair)
def clip_of_cnn() -> nn.Module:
    return Clip(Pooled())


@shape("image and text, combined", image_and_text, {"image": FIRST})
class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = cnn(width=12), Text(), nn.Linear(24, 4)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image).mean((2, 3)), self.text(ids)], 1))


@shape("question answering, words attend to locations", image_and_text, {"image": FIRST})
class Answering(nn.Module):
    """The text's transformer runs last and reads the image's places."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.cross, self.head = cnn(width=12), Text(mean=False), Block(12), nn.Linear(12, 4)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        places = self.image(image).flatten(2).transpose(1, 2)
        return self.head(self.cross(self.text(ids), places).mean(1))


@shape("image and a table row", lambda: (numbers(3, 3, 32, 32), numbers(3, 5)), {"image": FIRST})
class WithTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = cnn(), nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(x).mean((2, 3)), self.table(row)], 1))


@shape(
    "a second image with different proportions",
    lambda: (numbers(2, 3, 32, 32), numbers(2, 1, 8, 32)),
    {"second": FIRST, "first": FIRST},
)
class TwoSizes(nn.Module):
    """The second branch gives [2, 16, 8, 16]: 16 channels and 8 rows have the first picture's proportions, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = cnn(width=16), nn.Sequential(nn.Conv2d(1, 16, 3, (1, 2), 1), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([self.first(x).mean((2, 3)), self.second(y).mean((2, 3))], 1))


def two_pictures() -> tuple[Tensor, Tensor]:
    return numbers(3, 3, 32, 32), numbers(3, 3, 32, 32, seed=1)


def similarity(output: Tensor) -> Tensor:
    """How alike the two pictures are."""
    return output


@shape("Siamese network, last call", two_pictures, {"encoder": FIRST}, target=similarity)
@shape(
    "Siamese network, first call",
    two_pictures,
    {"encoder#0": FIRST},
    target=similarity,
    options=lambda: {"layers": "encoder#0"},
    sample=True,
)
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.project = cnn(), nn.Linear(8, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = (self.project(self.encoder(z).mean((2, 3))) for z in (x, y))
        return cosine_similarity(a, b)


def margin(output: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """How much nearer the positive is than the negative."""
    anchor, positive, negative = output
    return (anchor * positive).sum(1) - (anchor * negative).sum(1)


@shape(
    "triplets, call for the anchor",
    lambda: tuple(numbers(2, 3, 32, 32, seed=seed) for seed in range(3)),
    {"encoder#0": FIRST},
    target=margin,
    options=lambda: {"layers": "encoder#0"},
)
class Triplet(Siamese):
    def forward(self, *pictures: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(self.project(self.encoder(x).mean((2, 3))) for x in pictures)


def agreement(output: tuple[Tensor, Tensor]) -> Tensor:
    """The student's agreement with its teacher."""
    return cosine_similarity(*output)


@shape("student and teacher, teacher runs last", lambda: numbers(3, 3, 32, 32), {"student": FIRST}, target=agreement)
class Distilled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher, self.head = cnn(), cnn(strides=(2, 1, 1, 1)), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        student = self.head(self.student(x).mean((2, 3)))
        with torch.no_grad():
            return student, self.head(self.teacher(x).mean((2, 3)))


@shape(
    "the student's logits, with a teacher alongside",
    lambda: numbers(3, 3, 32, 32),
    {"student": FIRST},
    options=lambda: {"output_key": 0},
)
class Beside(Distilled):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.student(x).mean((2, 3))), self.head(self.teacher(x).mean((2, 3)))


def first_of_each(output: Tensor) -> Tensor:
    """The embedding's first number."""
    return output[:, 0]


@shape(
    "embedding, similar to a probe",
    lambda: numbers(3, 3, 32, 32),
    {"body": FIRST},
    target={"similar_to": 0},
    score=lambda out: cosine_similarity(out, out[:1].detach()),
)
@shape("embedding, one of its values", lambda: numbers(3, 3, 32, 32), {"body": FIRST}, target=first_of_each)
class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.project = cnn(), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.project(self.body(x).mean((2, 3))), dim=1)

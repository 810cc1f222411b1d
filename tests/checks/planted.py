"""Small networks on shapes whose place is known, and what is planted in them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

SIDE, SHAPE, CLASSES = 24, 7, 4
LAYER = "9"  # the last batch norm, whose output is signed, before ReLU and pooling


def shapes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Discs, squares on their corner, crosses and stripes on noise: pictures, classes, and where the shape is."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(count, 3, SIDE, SIDE, generator=generator) * 0.3
    classes = torch.randint(CLASSES, (count,), generator=generator)
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    down, across = torch.meshgrid(*[torch.arange(SHAPE) - SHAPE // 2] * 2, indexing="ij")
    forms = [
        down**2 + across**2 <= 9,
        down.abs() + across.abs() <= 3,
        (down.abs() <= 1) | (across.abs() <= 1),
        (down % 3 == 0) & (across.abs() <= 3),
    ]
    for row, number in enumerate(classes.tolist()):
        top, left = torch.randint(SIDE - SHAPE + 1, (2,), generator=generator).tolist()
        color = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
        place = pictures[row, :, top : top + SHAPE, left : left + SHAPE]
        place.copy_(torch.where(forms[number], color, place))
        masks[row, top : top + SHAPE, left : left + SHAPE] = True
    return pictures - 0.3, classes, masks


class Residual(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)),
        )

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.silu(values + self.body(values))


def network(seed: int, head: str = "pooled") -> nn.Sequential:
    """A small network whose weights are those of ``seed``, as torch draws them.

    Args:
        seed: Of the weights.
        head: ``"pooled"``: three convolutions, pooling and a linear layer. ``"strided"`` and ``"residual"``: others
            before the same head; ``"scalar"``: another head, which sees the features through one number.
    """
    torch.manual_seed(seed)
    if head in ("strided", "residual"):
        bodies = {
            "strided": [
                *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU()),
                *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            ],
            "residual": [
                *(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.SiLU(), Residual(12)),
                *(nn.Conv2d(12, 24, 2, stride=2), Residual(24)),
            ],
        }
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32 if head == "strided" else 24, CLASSES)]
        return nn.Sequential(*bodies[head], *pooled).eval()
    heads = {
        "pooled": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES)],
        # Every class sees the features through one number.
        "scalar": [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 1),
            nn.Linear(1, 16),
            nn.Tanh(),
            nn.Linear(16, CLASSES),
        ],
    }
    body = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()),
    ]
    return nn.Sequential(*body, *heads[head]).eval()


@lru_cache(maxsize=64)
def trained(seed: int, head: str = "pooled") -> tuple[nn.Sequential, float]:
    """The same after some hundred steps, and its accuracy on other pictures."""
    with torch.random.fork_rng(), torch.enable_grad():
        model = network(seed, head).train()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3 if head == "strided" else 1e-2)
        pictures, classes, _ = shapes(1500, seed)
        for step in range({"pooled": 250, "strided": 600}.get(head, 400)):
            rows = torch.arange(32) + step * 32
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures[rows % 1500]), classes[rows % 1500]).backward()
            optimizer.step()
    model.eval().zero_grad()
    pictures, classes, _ = shapes(300, seed + 1000)
    with torch.no_grad():
        accuracy = float((model(pictures).argmax(dim=1) == classes).float().mean())
    return model, accuracy

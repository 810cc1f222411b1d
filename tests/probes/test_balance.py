"""Tests of class-balanced draws: rare classes, known and unknown labels, and how many samples are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_gradcam import GradCAMCallback, ProbeError
from lightning_gradcam.probes import samplers
from lightning_gradcam.probes.dataset import draw_probes
from lightning_gradcam.probes.samplers import LOOKED_AT, balanced
from tests.conftest import TinyModule, tiny_data, trainer


class Rare(Dataset[Any]):
    """Pictures of class 0 but for one in a hundred; only a decoded sample shows its class."""

    # On the class: what the data set itself holds is restored after the draw.
    looked: ClassVar[list[int]] = []

    def __init__(self, count: int = 3000, classes: tuple[str, ...] | None = None) -> None:
        self.count = count
        self.looked.clear()
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> Any:
        return int(index % 100 == 37)

    def __getitem__(self, index: int) -> Any:
        self.looked.append(index)
        return torch.full((1, 8, 8), index / self.count), self.label(index)


def test_a_class_of_one_percent_is_among_the_probes(tmp_path: Path) -> None:
    callback = GradCAMCallback("net.relu2")
    loader = DataLoader(Rare(), 8)
    trainer(tmp_path, callbacks=callback, max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(
        TinyModule(), loader, loader
    )
    assert callback.probes is not None
    assert callback.probes.labels is not None
    assert callback.probes.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_found_with_any_seed(seed: int) -> None:
    labels = draw_probes(Rare(), 8, seed=seed).probes.labels
    assert labels is not None
    assert labels.sum() == 4


@pytest.mark.parametrize(
    ("names", "count", "most"),
    [(None, 8, LOOKED_AT), (None, 2, 900), (("a", "b"), 4, 900), (("a", "b", "c"), 4, LOOKED_AT)],
    ids=["no names", "as many classes as probes", "all names seen", "a name without samples"],
)
def test_no_more_is_looked_at_than_changes_the_draw(names: Any, count: int, most: int) -> None:
    data = Rare(classes=names)
    draw_probes(data, count)
    assert count < len(data.looked) <= most + count


@pytest.mark.parametrize(
    ("seconds", "looked_at"),
    [
        (lambda number: 0.015, LOOKED_AT),
        (lambda number: 0.05, 8 * 4),
        (lambda number: 2.0, 4),
        (lambda number: 0.5 if number > 100 else 0.0, 128),
        (lambda number: 30.0 if number == 1 else 0.0, LOOKED_AT),
    ],
    ids=["quick", "slow", "very slow", "slow later", "slow to open"],
)
def test_slow_samples_are_not_waited_for(
    seconds: Callable[[int], float], looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Rare(classes=("a", "b", "never there"))
    monkeypatch.setattr(samplers.time, "perf_counter", lambda: sum(seconds(n) for n in range(1, len(data.looked) + 1)))
    draw_probes(data, 4)
    assert len(data.looked) == looked_at + 4


def test_the_long_look_gives_what_all_labels_would_give() -> None:
    data = Rare(900)
    looked = draw_probes(data, 6, seed=3).probes.indices
    data.targets = [data.label(index) for index in range(900)]  # type: ignore[attr-defined]
    assert draw_probes(data, 6, seed=3).probes.indices == looked


def by_hand(labels: list[int], order: list[int], count: int) -> list[int]:
    """Class by class in turn, written as it is read."""
    classes: dict[int, list[int]] = {}
    for index in order:
        classes.setdefault(labels[index], []).append(index)
    rounds = [members[depth] for depth in range(len(order)) for members in classes.values() if depth < len(members)]
    return sorted(rounds[:count], key=lambda index: (labels[index], index))


@pytest.mark.parametrize("kinds", [1, 3, 11, 40])
@pytest.mark.parametrize("first_part", [5, 1 << 16])
def test_sorting_gives_what_going_through_all_gives(
    kinds: int, first_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "_FIRST_PART", first_part)
    random = np.random.default_rng(kinds)
    labels = (random.integers(0, kinds, 60) - 2) * random.choice([1, 100_000])
    order = random.permutation(60)[:50]
    for count in (1, 4, 17, 50):
        assert balanced(labels, order, count) == by_hand(labels.tolist(), order.tolist(), count)


def test_texts_and_several_classes_are_balanced_too() -> None:
    class Texts(Rare):
        def label(self, index: int) -> Any:
            return "ant" if index % 100 == 37 else "bee"

    class Several(Rare):
        def label(self, index: int) -> Any:
            return torch.tensor([1.0, 0.0, float(index % 100 == 37)])

    names = draw_probes(Texts(classes=("bee", "ant")), 4).probes.labels
    assert names is not None
    assert sorted(names.tolist()) == [0, 0, 1, 1]
    several = draw_probes(Several(), 4).probes.labels
    assert several is not None
    assert Counter(several[:, 2].tolist()) == {0: 2, 1: 2}


# ---- how many


def fitted(tmp_path: Path, samples: int, callback: GradCAMCallback, **options: Any) -> int:
    loader = DataLoader(tiny_data(samples), 2)
    trainer(tmp_path, callbacks=callback, max_epochs=1, **options).fit(TinyModule(), loader, loader)
    assert callback.probes is not None
    return len(callback.probes)


@pytest.mark.parametrize(("samples", "expected"), [(4, 4), (1, 1), (20, 8)])
def test_by_default_there_are_as_many_probes_as_samples(tmp_path: Path, samples: int, expected: int) -> None:
    assert fitted(tmp_path, samples, GradCAMCallback("net.relu2")) == expected


def test_a_number_that_was_asked_for_has_to_be_there_but_in_a_trial(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="num_probes: got 8; the data set has 4 samples, so pass 1 to 4"):
        fitted(tmp_path, 4, GradCAMCallback("net.relu2", num_probes=8))
    assert fitted(tmp_path, 4, GradCAMCallback("net.relu2", num_probes=8), fast_dev_run=True) == 4

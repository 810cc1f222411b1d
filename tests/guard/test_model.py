"""The one guard: everything that explaining could disturb is as before, on the failure path too."""

from __future__ import annotations

import functools
import math
import random
import threading
import warnings
import weakref
from collections import Counter, OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from lightning_gradcam import ConfigurationError, compute_cams
from lightning_gradcam.guard.data import isolated, isolated_rng
from lightning_gradcam.guard.model import preserved
from lightning_gradcam.guard.snapshot import held_by
from tests.children import answer_of
from tests.conftest import TinyNet


class Restless(nn.Module):
    """A forward that changes everything that a forward can change."""

    counter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("counter", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(1))
        self.calls = 0
        self.history: list[int] = []
        self.cache: dict[str, Tensor] = {}
        self.state = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(self.calls)
        self.cache["x"] = x
        self.late = x
        self.counter += 1
        self.state += 1
        self.replaced = torch.ones(1)
        self.linear.train()
        self.linear.weight.requires_grad_(False)
        self.linear.bias.grad = torch.ones(2)
        torch.set_grad_enabled(False)
        return self.linear(x) + torch.rand(1) + random.random() + float(np.random.rand())


def everything(model: nn.Module) -> dict[str, Any]:
    """What must be the same before and after."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "grad_objects": {name: id(p.grad) for name, p in model.named_parameters()},
        "buffers": {name: id(buffer) for name, buffer in model.named_buffers()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {name: len(m._forward_hooks) + len(m._backward_hooks) for name, m in model.named_modules()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        "python": random.getstate(),
        "grad_enabled": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def assert_same(before: Any, after: Any, where: str = "") -> None:
    """Compares nested values; tensors bit by bit."""
    if isinstance(before, dict):
        assert before.keys() == after.keys(), where
        for key in before:
            assert_same(before[key], after[key], f"{where}/{key}")
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), where
    else:
        assert before == after, where


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_a_restless_forward_leaves_no_trace(mode: str, fails: bool) -> None:
    model = Restless().train(mode != "eval")
    if mode == "mixed":
        model.linear.eval()
    model.linear.weight.grad = torch.full((2, 3), 7.0)
    before, state, cache = everything(model), model.state, model.cache

    def explain() -> None:
        with preserved(model):
            assert not any(module.training for module in model.modules())
            model(torch.rand(1, 3))
            assert model.calls == 1
            if fails:
                raise KeyError("ours")

    if fails:
        with pytest.raises(KeyError, match="ours"):
            explain()
    else:
        explain()

    assert_same(before, everything(model))
    assert model.calls == 0
    assert model.history == []
    assert model.cache is cache
    assert cache == {}
    assert model.state is state
    assert state.tolist() == [0, 0, 0]
    assert not hasattr(model, "late")


def test_an_overridden_train_method_is_not_called() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            raise AssertionError("the flag is set, the method is not called")

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Frozen.__new__(Frozen))
    nn.BatchNorm2d.__init__(model[1], 2)
    with preserved(model):
        assert not model[1].training
    assert model[1].training


def test_inference_mode_is_left_inside_and_back_afterwards() -> None:
    model = TinyNet()
    with torch.inference_mode():
        with preserved(model):
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))


def test_a_lazy_module_is_refused_before_its_first_forward_and_left_as_it_is() -> None:
    model, x = lazy().train(), torch.rand(3, 1, 6, 6)
    with pytest.raises(
        ConfigurationError,
        match=r"model: '0' \(LazyConv2d\), .*'3' \(LazyLinear\) of Sequential.*run one batch through",
    ):
        compute_cams(model, x, "0")
    assert all(module.training for module in model.modules())
    random_numbers = torch.get_rng_state()
    model(x)
    torch.set_rng_state(random_numbers)
    untouched = lazy()
    untouched(x)
    for ours, other in zip(model.state_dict().values(), untouched.state_dict().values(), strict=True):
        assert torch.equal(ours, other)
    assert compute_cams(model, x, "0")["0"].shape == (3, 4, 4)
    assert model(x).shape == (3, 3)


@pytest.mark.parametrize("kind", ["no parameters", "loaded"])
def test_lazy_modules_whose_parameters_are_there_wait_for_their_first_forward_too(kind: str) -> None:
    """Their class changes in it, and the hook that does it is gone afterwards."""
    last = (
        nn.LazyBatchNorm2d(affine=False, track_running_stats=False) if kind == "no parameters" else nn.LazyConv2d(2, 1)
    )
    if kind == "loaded":
        last.load_state_dict(nn.Conv2d(2, 2, 1).state_dict())
    model = nn.Sequential(nn.Conv2d(1, 2, 3), last, nn.Flatten(), nn.Linear(32, 2))
    x = torch.rand(2, 1, 6, 6)
    with pytest.raises(ConfigurationError, match=r"'1' \(Lazy.*run one batch through the model first"):
        compute_cams(model, x, "0")
    model(x)
    compute_cams(model, x, "0")
    model(x)


def test_autocast_goes_on_with_casts_of_the_models_own_weights() -> None:
    """A head at zero is looked at with other weights; a forward of its own autocast keeps casts of them."""

    class Casting(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
                return super().forward(x)

    model, x = Casting().eval(), torch.rand(2, 1, 8, 8)
    nn.init.zeros_(model.head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        compute_cams(model, x)
        assert torch.is_autocast_cache_enabled()
        assert torch.equal(model(x), before)


def test_weights_are_not_copied() -> None:
    model = nn.Linear(4, 4)
    pointers = [p.data_ptr() for p in model.parameters()]
    with preserved(model):
        pass
    assert [p.data_ptr() for p in model.parameters()] == pointers


class Augmented(Dataset[float]):
    """Draws from generators of its own, and counts."""

    def __init__(self, place: str) -> None:
        generators = [
            torch.Generator().manual_seed(1),
            np.random.default_rng(1),
            np.random.RandomState(1),
            random.Random(1),
        ]
        self.calls = 0
        self.log: list[int] = []

        def draw() -> float:
            torch_, numpy_, legacy, python_ = generators
            drawn = float(torch.rand(1, generator=torch_)) + float(numpy_.random())  # type: ignore[call-overload]
            return drawn + float(legacy.rand()) + python_.random()  # type: ignore[union-attr]

        class Transform:
            def __init__(self) -> None:
                self.tools = {"generators": generators}

            def __call__(self) -> float:
                return draw()

        if place == "attributes":
            self.a, self.b, self.c, self.d = generators
            self.draw: Any = lambda: draw()
        else:
            hidden = functools.partial(draw) if place == "partial" else draw
            self.draw = {"closure": draw, "partial": hidden, "object": Transform(), "method": Transform().__call__}[
                place
            ]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        self.calls += 1
        self.log.append(index)
        return float(self.draw())


@pytest.mark.parametrize("place", ["attributes", "closure", "partial", "object", "method"])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, [0, 1]), lambda d: Subset(Subset(d, [0]), [0])])
def test_generators_and_counters_of_a_data_set_are_restored_too(wrap: Any, place: str) -> None:
    inner = Augmented(place)
    dataset = wrap(inner)
    with isolated(dataset):
        inside = dataset[0]
        assert inner.calls == 1
    assert (inner.calls, inner.log) == (0, [])
    assert dataset[0] == inside


def test_large_containers_are_taken_for_data() -> None:
    class Large(Augmented):
        def __init__(self) -> None:
            super().__init__("object")
            self.samples = [object() for _ in range(100_000)]

    begin = len(list(held_by([Large()])))
    assert begin < 100


def test_data_is_not_copied_and_strangers_are_left_alone() -> None:
    class Stranger:
        """A trainer or logger: neither indexed nor called."""

        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(1)
            self.beats = 0

    class Holding(Augmented):
        def __init__(self) -> None:
            super().__init__("object")
            self.data = torch.zeros(4)
            self.stranger = Stranger()

    dataset = Holding()
    state = dataset.stranger.generator.get_state()
    with isolated(dataset):
        dataset.data += 1
        dataset.stranger.beats += 1
        torch.rand(1, generator=dataset.stranger.generator)
    assert dataset.data.tolist() == [1, 1, 1, 1]
    assert dataset.stranger.beats == 1
    assert torch.equal(dataset.stranger.generator.get_state(), state)


class Prefetching(Dataset[int]):
    """A thread of its own adds to a list, a deque and a dict, whenever it is asked to."""

    def __init__(self, start: str) -> None:
        self.asked, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.ready: deque[int] = deque([0])
        self.seen: list[int] = []
        self.cache: dict[int, int] = {}
        self.count, self.over = 0, False
        self.start = start
        if start == "attribute":
            self.thread = threading.Thread(target=self.fill)
            self.thread.start()
        elif start == "method":
            threading.Thread(target=self.fill).start()
        elif start == "argument":
            threading.Thread(target=Prefetching.fill, args=(self,)).start()

    def fill(self) -> None:
        while self.asked.acquire() and not self.over:
            self.count += 1
            self.ready.append(self.count)
            self.seen.append(self.count)
            self.cache[self.count] = self.count
            self.done.release()

    def close(self) -> None:
        self.over = True
        self.asked.release()
        for thread in threading.enumerate():
            if thread.name.endswith("(fill)"):
                thread.join()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if self.start == "lazy":
            self.start = "running"
            threading.Thread(target=self.fill).start()
        elif self.start == "pool":
            self.start = "running"
            self.pool = ThreadPoolExecutor(1)
            self.pool.submit(self.fill)
        self.asked.release()
        self.done.acquire()
        return index


@pytest.mark.parametrize("start", ["attribute", "method", "argument", "lazy", "pool"])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, [0, 1])], ids=["plain", "subset"])
def test_what_a_data_sets_own_thread_adds_meanwhile_stays(start: str, wrap: Any) -> None:
    dataset = Prefetching(start)
    try:
        with isolated(wrap(dataset)):
            wrap(dataset)[1]
        assert (dataset.count, list(dataset.ready), dataset.seen, dataset.cache) == (1, [0, 1], [1], {1: 1})
        assert dataset.start == ("running" if start in ("lazy", "pool") else start)
    finally:
        dataset.close()
        if start == "pool":
            dataset.pool.shutdown()


def test_a_container_that_a_thread_fills_stays_and_the_rest_of_the_data_set_is_restored() -> None:
    class Shared(Augmented):
        ready: list[int]

    dataset, asked, done = Shared("object"), threading.Event(), threading.Event()
    dataset.ready = []

    def fill(into: list[int]) -> None:
        asked.wait()
        into.append(1)
        done.set()
        over.wait()

    over = threading.Event()
    thread = threading.Thread(target=fill, args=(dataset.ready,))
    thread.start()
    with isolated(dataset):
        assert dataset[0]
        asked.set()
        done.wait()
    over.set()
    thread.join()
    assert (dataset.ready, dataset.calls, dataset.log) == ([1], 0, [])


def test_generators_of_a_module_are_restored() -> None:
    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(1)
            self.others = {"numpy": np.random.default_rng(1)}
            self.counts = {"a": {"n": 0}}

        def forward(self, x: Tensor) -> Tensor:
            self.counts["a"]["n"] += 1
            return x + torch.rand(1, generator=self.generator) + self.others["numpy"].random()

    model = Sampling()
    with preserved(model):
        inside = model(torch.zeros(1))
    assert model.counts == {"a": {"n": 0}}
    assert torch.equal(model(torch.zeros(1)), inside)


def test_rng_is_restored_after_an_exception() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(ValueError, match="ours"), isolated_rng():
        torch.rand(5)
        raise ValueError("ours")
    assert torch.equal(torch.rand(2), expected)


class Hidden(nn.Module):
    """Changes what it holds where no version counts it, or where only a container leads to it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cluster", torch.zeros(3))
        self.register_buffer("grown", torch.zeros(0))
        self.register_buffer("replaced", torch.zeros(2))
        self.state = {"n": torch.zeros(2)}
        self.numbers = np.zeros(2)
        self.lists = [np.zeros(2), torch.zeros(2)]

    def forward(self, x: Tensor) -> Tensor:
        self.cluster.data.add_(1)
        self.grown.resize_(4).fill_(1)
        self.replaced.data = torch.ones(2)
        self.state["n"] += 1
        self.numbers += 1
        for entry in self.lists:
            entry += 1
        return x


def test_changes_that_no_version_counts_are_undone() -> None:
    module = Hidden()
    held = [id(value) for value in (*module._buffers.values(), module.state["n"], module.numbers, *module.lists)]
    with preserved(module):
        module(torch.rand(1))
    assert module.cluster.tolist() == [0, 0, 0]
    assert module.grown.shape == (0,)
    assert module.replaced.tolist() == [0, 0]
    assert module.state["n"].tolist() == [0, 0]
    assert module.numbers.tolist() == [0, 0]
    assert [entry.tolist() for entry in module.lists] == [[0, 0], [0, 0]]
    after = [id(value) for value in (*module._buffers.values(), module.state["n"], module.numbers, *module.lists)]
    assert after == held


def test_scripted_modules_are_evaluated_and_given_back() -> None:
    inner = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    module = nn.Sequential(torch.jit.script(inner), nn.Linear(3, 2)).train()
    before = everything(module)
    inputs = torch.rand(8, 3)
    with preserved(module):
        assert torch.equal(module(inputs), module(inputs))
        assert not module[0].training
    assert module[0].training
    assert_same(before["state"], everything(module)["state"], "state")


def test_what_can_not_be_given_back_keeps_nothing_else_from_it() -> None:
    class Stubborn(list[int]):
        def clear(self) -> None:
            raise RuntimeError("stays")

    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    module.stubborn = Stubborn()  # type: ignore[assignment]
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stays"), preserved(module):
        module.stubborn.append(1)  # type: ignore[operator]
        module[0].weight.requires_grad_(False)
        module[0].weight.grad = torch.ones(2, 2)
        torch.rand(3)
        torch.set_grad_enabled(False)
    assert module.training
    assert module[1].training
    assert module[0].weight.requires_grad
    assert module[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_a_tensor_with_many_numbers_in_one_place_is_restored() -> None:
    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("buffer", torch.ones(2, 1).expand(2, 5))
            self.plain = torch.arange(3.0).expand(4, 3)

    model = Expanded()
    with preserved(model):
        model.buffer[:, :1] = 7
        model.plain.data[:1] += 1
    assert torch.equal(model.buffer, torch.ones(2, 5))
    assert torch.equal(model.plain, torch.arange(3.0).expand(4, 3))
    assert model.buffer.stride() == (1, 0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_restored() -> None:
    module = nn.Identity()
    module.kept = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])  # type: ignore[assignment]
    nested: Any = module.kept
    with preserved(module):
        nested.mul_(7)
    assert module.kept is nested
    assert [part.tolist() for part in nested.unbind()] == [[1, 1], [1, 1, 1]]


def _explain_beside(path: Path) -> float:
    """Explains a model that holds a file's numbers, mapped read-only; writing to them would end the process."""
    model = TinyNet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.bank = torch.from_numpy(np.load(path, mmap_mode="r"))  # type: ignore[assignment]
    compute_cams(model, torch.rand(2, 1, 8, 8), "conv2")
    return float(model.bank[0])  # type: ignore[index]


def test_read_only_memory_is_not_written_to(tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", np.array([math.nan, -0.0, 3.0])[::-1])
    assert answer_of(_explain_beside, tmp_path / "bank.npy") == 3.0


def test_the_signs_of_zeros_are_restored() -> None:
    module = nn.Identity()
    module.register_buffer("sums", torch.zeros(2))
    with preserved(module):
        module.sums.neg_()  # type: ignore[operator]
    assert not torch.signbit(module.sums).any()  # type: ignore[arg-type]


def test_states_inside_tuples_and_nested_containers_are_restored() -> None:
    module = nn.Identity()
    generator = torch.Generator().manual_seed(1)
    state: Any = (torch.zeros(2), [torch.zeros(2), {"calls": 0}], {"layer": {"key": torch.zeros(2)}}, generator)
    state[1].append(state)
    module.state = state
    before = generator.get_state()
    with preserved(module):
        for changed in (state[0], state[1][0], state[2]["layer"]["key"]):
            changed += 1
        state[1][1]["calls"] += 1
        state[2]["layer"]["value"] = torch.rand(1, generator=generator)
    assert [state[0].tolist(), state[1][0].tolist(), state[2]["layer"]["key"].tolist()] == [[0, 0]] * 3
    assert state[1][1] == {"calls": 0}
    assert [*state[2]["layer"]] == ["key"]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", [Counter, OrderedDict])
def test_dicts_of_other_kinds_are_restored(kind: Any) -> None:
    owner = Plain()
    vars(owner)["seen"] = seen = kind({"cat": 3, "dog": 1})
    with isolated(owner, deep=False):
        seen["cat"] += 1
        seen["bird"] = 5
        del seen["dog"]
    assert [*seen.items()] == [("cat", 3), ("dog", 1)]


class Raising:
    """Its `__getattr__` raises what it likes for attributes that are not there; it counts how often it is indexed."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.uses = 0

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["held"][name]

    def __getitem__(self, index: int) -> int:
        self.uses += 1
        return index


class Closed:
    """Nothing of it can be read any more."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("closed")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("closed")


class Plain:
    """Holds whatever it is given."""


def test_objects_that_can_not_be_read_do_not_keep_others_from_being_restored() -> None:
    gone = Plain()
    owner, raising, generator = Plain(), Raising(), random.Random(1)
    vars(owner).update(dead=weakref.proxy(gone), many=[weakref.proxy(gone)], closed=Closed(), raising=raising)
    vars(owner).update(generator=generator)
    del gone
    before = generator.getstate()
    with isolated(owner), isolated(owner, deep=False):
        raising[0], generator.random()
        vars(owner)["added"] = 1
    assert raising.uses == 0
    assert generator.getstate() == before
    assert "added" not in vars(owner)


@pytest.mark.parametrize("kind", [list, deque, set, dict.fromkeys])
def test_large_containers_are_restored(kind: Any) -> None:
    owner, entries = Plain(), [(f"{number}.png", number % 10) for number in range(50_000)]
    vars(owner)["samples"] = samples = kind(entries)
    with isolated(owner, deep=False):
        samples.pop() if kind in (list, deque, set) else samples.popitem()
    assert samples == kind(entries)
    with isolated(owner, deep=False):
        vars(owner)["samples"] = None
        samples.clear()
    assert vars(owner)["samples"] is samples
    assert samples == kind(entries)
    assert kind is set or [*samples] == entries


def test_entries_that_can_not_be_compared_are_restored_too() -> None:
    owner, entries = Plain(), [torch.zeros(2) for _ in range(2000)]
    vars(owner)["cache"] = cache = [*entries]
    with isolated(owner, deep=False):
        cache[7] = torch.ones(2)
    assert [*map(id, cache)] == [*map(id, entries)]


def test_augmentations_that_are_no_modules_are_restored_but_not_what_they_lead_to() -> None:
    class Counting:
        def __init__(self, **held: Any) -> None:
            vars(self).update(held, calls=0, generator=random.Random(1))

        def __call__(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.generator.random()

    class Trainer:
        def __init__(self) -> None:
            self.callback = Counting()

    class Augmenting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._trainer = Trainer()
            self.augmented = nn.Sequential()
            self.augmented.augmentation = Counting(inner=Counting(), owner=self, trainer=self._trainer)  # type: ignore

        def forward(self, x: Tensor) -> Any:
            augmentation: Any = self.augmented.augmentation
            return self._trainer.callback(augmentation.inner(augmentation(x)))

    model = Augmenting()
    augmentation: Any = model.augmented.augmentation
    before = augmentation.generator.getstate(), augmentation.inner.generator.getstate()
    with preserved(model):
        model(torch.zeros(1))
    assert (augmentation.calls, augmentation.inner.calls, model._trainer.callback.calls) == (0, 0, 1)
    assert (augmentation.generator.getstate(), augmentation.inner.generator.getstate()) == before


class Noise:
    """Counts, and draws from its own generator."""

    def __init__(self) -> None:
        self.calls, self.generator = 0, torch.Generator().manual_seed(1)

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + torch.rand(1, generator=self.generator)


def _in_closure(noise: Noise) -> Any:
    return lambda x: noise(x)


@pytest.mark.parametrize(
    "held",
    [
        lambda noise: [noise],
        lambda noise: {"train": (noise,)},
        lambda noise: noise.__call__,
        _in_closure,
        lambda noise: lambda x, noise=noise: noise(x),
    ],
    ids=["list", "dict", "method", "closure", "default"],
)
def test_augmentations_in_containers_and_functions_are_restored(held: Any) -> None:
    noise, model = Noise(), nn.Sequential(nn.Identity())
    model[0].held = held(noise)
    before = noise.generator.get_state()
    with preserved(model):
        noise(torch.zeros(1))
    assert noise.calls == 0
    assert torch.equal(noise.generator.get_state(), before)


@pytest.mark.parametrize("kind", ["list", "tuple in a dict", "attribute"])
def test_modules_that_are_not_registered_keep_their_mode_and_get_their_buffers_back(kind: str) -> None:
    teacher, model = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(3, 3))
    held: Any = {"list": [teacher], "tuple in a dict": {"teacher": (teacher,)}, "attribute": teacher}[kind]
    vars(model[0])["held"] = held
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with preserved(model):
        assert teacher[0].training
        teacher(model(torch.rand(4, 3)))
    assert_same(before, teacher.state_dict(), "teacher")

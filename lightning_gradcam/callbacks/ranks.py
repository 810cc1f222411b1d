"""Coordinates ranks that must explain together because each holds only part of the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradcam.errors import ConfigurationError, LostRankError, OtherRankError

# Seconds that a rank waits for the others to reach the same point: longer than any explanation takes.
_PATIENCE = 300.0
# The size of a message in bytes; all ranks send the same size.
_BYTES = 2048


class Ranks:
    """Keeps ranks in step: rank zero decides for all, and a failure on one rank is a failure on all.

    If every rank has all weights, there is nothing to agree on: rank zero explains alone, and this does nothing.

    Args:
        together: Whether all ranks must run the same forward pass.
        patience: Seconds that a rank waits for the others.

    Example:
        >>> ranks = Ranks(together=False)
        >>> with ranks.together("explaining"):
        ...     decided = ranks.as_first(True)
        >>> decided
        True
    """

    def __init__(self, *, together: bool, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._group: Any = None
        if together and distributed.is_initialized() and distributed.get_world_size() > 1:
            # A separate group: its messages never mix with those of the training, and it has its own time limit.
            self._group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=patience))

    def as_first(self, decision: bool) -> bool:
        """Returns rank zero's decision."""
        return decision if self._group is None else bool(self._said(decision, "deciding")[0])

    def same(self, text: str) -> bool:
        """Whether all ranks have the same text."""
        return self._group is None or len(set(self._said(text, "comparing"))) == 1

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Runs the body on every rank, and fails on every rank if it fails on one.

        Args:
            what: What the body does, for the error.

        Raises:
            OtherRankError: It failed only on another rank.
            LostRankError: Another rank did not finish in time: it is waiting for this one in the middle of a forward
                pass and can't return.
        """
        if self._group is None:
            yield
            return
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        said = self._said(None if failed is None else f"{type(failed).__name__}: {failed}", what)
        if failed is not None:
            raise failed
        for rank, text in enumerate(said):
            if text is not None:
                raise OtherRankError(f"{what} failed on rank {rank}: {text}")

    def close(self) -> None:
        """Destroys the process group."""
        group, self._group = self._group, None
        if group is not None and distributed.is_initialized():
            distributed.destroy_process_group(group)

    def _said(self, value: Any, what: str) -> list[Any]:
        """Returns every rank's value, in the order of the ranks."""
        # Not `all_gather_object`, which sends pickles.
        text = json.dumps(value).encode()[: _BYTES - 1]
        own = torch.zeros(_BYTES, dtype=torch.uint8, device="cpu")
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(distributed.get_world_size(self._group))]
        try:
            distributed.all_gather(found, own, group=self._group)
        except RuntimeError as error:
            raise LostRankError(
                f"{what}: another rank did not reach the same point within {self._patience:g} seconds, most likely "
                "because this rank failed in the middle of a forward pass that all ranks share. The run can't "
                "continue; resume it from its last checkpoint"
            ) from error
        return [_read(bytes(each.tolist()).rstrip(b"\0")) for each in found]


def _read(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a long error, cut off
        return text.decode(errors="replace")


@contextmanager
def alone() -> Iterator[None]:
    """Rejects messages to other ranks, which are not at the same point.

    Raises:
        ConfigurationError: The body communicates. Otherwise, the other ranks' next message would be taken for the
            answer, and the ranks would wait for each other or use each other's values.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        with _Alone():  # type: ignore[no-untyped-call]
            yield
    else:
        yield


class _Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise ConfigurationError(
                f"model: its forward() communicates with all ranks ({func}), but only rank zero computes the maps; "
                "pass a forward_fn= that does not communicate, such as the part of the network before that call"
            )
        return func(*args, **(kwargs or {}))

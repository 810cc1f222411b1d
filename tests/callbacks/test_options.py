"""What the callbacks' options mean, wherever it is read: written once, and there for every option of a signature."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
from jsonargparse import ArgumentParser

from lightning_gradcam import ConfigurationError, FeatureMapCallback, FilterPatternCallback, GradCAMCallback
from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.options import documented

KINDS = (GradCAMCallback, FeatureMapCallback, FilterPatternCallback)
# Other words for other things: what is counted, and what is drawn, is another in each.
OWN = {"batch_size", "drawing", "num_probes", "probes", "seed"}


def described(kind: type[ProbeCallback]) -> dict[str, str]:
    args = inspect.getdoc(kind).split("\nArgs:\n")[1].split("\n\n")[0]  # type: ignore[union-attr]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", args, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_described_in_the_order_of_the_signature(kind: type[ProbeCallback]) -> None:
    assert list(described(kind)) == list(inspect.signature(kind).parameters)


def test_an_option_of_several_callbacks_is_described_in_the_same_words() -> None:
    found = [described(kind) for kind in KINDS]
    for name in set.union(*(set(each) for each in found)) - OWN:
        assert len({each[name] for each in found if name in each}) == 1, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_lines_help_has_the_same_words(kind: type[ProbeCallback]) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "callback")
    shown = " ".join(parser.format_help().split())
    for name, words in described(kind).items():
        # Of a drawing, its own options are shown.
        assert f"--callback.{name} " in shown
        assert name == "drawing" or words in shown, name


def test_a_callback_with_an_option_that_nobody_describes_is_a_mistake() -> None:
    class Callback:
        """Has an option.

        Args:
            other: No such option.

        Raises:
            ValueError: Never.
        """

        def __init__(self, seed: int = 0, undescribed: int = 0) -> None: ...

    with pytest.raises(KeyError, match="undescribed"):
        documented(Callback)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["seed", "batch_size", "every_n_epochs"])
def test_none_is_no_number(kind: type[ProbeCallback], option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}: got None; pass an integer"):
        kind(**{option: None})  # type: ignore[call-arg]


def test_how_many_probes_have_a_grid_is_always_known() -> None:
    GradCAMCallback(num_probes=None)
    with pytest.raises(ConfigurationError, match="num_probes: got None"):
        FeatureMapCallback(num_probes=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_a_field_of_what_it_is_for(kind: type[ProbeCallback]) -> None:
    """Options are filled in by name: one without a field would be taken and ignored."""
    options = kind()._options
    filled = [
        options,
        options.probes,
        options.monitor,
        options.steering,
        *([options.monitor.ascent] if kind is KINDS[2] else []),
    ]  # type: ignore[attr-defined]
    names = {field.name for each in filled for field in dataclasses.fields(each)}
    assert set(inspect.signature(kind).parameters) - names <= {"report"}
    if kind is not GradCAMCallback:
        assert not kind(report=False)._options.monitor.evolution  # type: ignore[call-arg]

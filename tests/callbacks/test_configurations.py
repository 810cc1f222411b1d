"""Every option of every callback survives a configuration: LightningCLI's saved file, its command line, OmegaConf."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning.cli import LightningCLI
from torch import nn

from lightning_gradcam import (
    ClassName,
    ConfigurationError,
    Contrast,
    Detect,
    Drawing,
    FeatureMapCallback,
    FilterPatternCallback,
    GradCAMCallback,
    GridDrawing,
    MemorySink,
    Output,
    PatternDrawing,
    PerProbe,
    Segment,
    SimilarTo,
    TargetError,
    Top,
)
from lightning_gradcam.callbacks.base import ProbeCallback
from lightning_gradcam.callbacks.from_config import LOST
from tests.cli.tiny import Data, Module

HERE = "tests.callbacks.test_configurations"


def first_score(output: Any) -> Any:
    return output[:, 0]


def logits(module: Any, batch: Any) -> Any:
    return module(batch[0])


class Score:
    def __init__(self, index: int = 0) -> None:
        self.index = index

    def __call__(self, output: Any) -> Any:
        return output[:, self.index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and other.index == self.index

    __hash__ = None  # type: ignore[assignment]


_KEYS = [0, 1, "image", "a.b", "no", "two words", None]
_PATHS = [["t1", "data"], [0, "a.b", 1], ["no", "two words"], "views.left.1"]
_COMMON: dict[str, list[Any]] = {
    "layers": ["auto", "net.relu1", "net.*", "0", ["net.relu1", "net.relu2"], ["0"]],
    "probes": ["folder/of pictures", "probes.npz", None],
    "seed": [7],
    "every_n_epochs": [2],
    # Not beside another every_n_epochs.
    "every_n_validations": [None, 3],
    "log_untrained": [True],
    "name": ["other"],
    "on_error": ["raise"],
    "sinks": [[{"class_path": "lightning_gradcam.MemorySink"}], [], None],
    "input_key": [*_KEYS, *_PATHS],
    "layout": ["NHWC", "NLC:1+14x14", {"net.relu1": "NHWC", "net.relu2": "NLC:14x14"}, None],
    "forward_fn": [f"{HERE}.logits", None],
    "batch_size": [4],
    "background": [False],
    "max_overhead": [0.02, None],
}
_SHOWN: dict[str, list[Any]] = {
    "num_probes": [3],
    "label_key": [*_KEYS, *_PATHS],
    "class_names": [["cat", "dog"], ["no", "1", "null", "café: noir", "Hüt", "3.5"], None],
    # Both or neither.
    "mean": [0.5, [0.1, 0.2, 0.3], 0],
    "std": [0.5, [0.1, 1, 2], 1],
}
ROWS: dict[type[ProbeCallback], dict[str, list[Any]]] = {
    GradCAMCallback: {
        **_COMMON,
        **_SHOWN,
        "num_probes": [3, None],
        "methods": ["layercam", ["gradcam", "layercam"]],
        "targets": [
            "predicted",
            "label",
            3,
            ["predicted", "label"],
            ["label"],
            [3, 281],
            {"class": "Shirt"},
            {"class": "Hüt"},
            {"class": "3"},
            {"class": "no"},
            {"class": 3},
            {"class": ["tabby", "cowboy hat"]},
            {"per_probe": [3, 5, 0, 1, 2, 3, 4, 5]},
            {"top": 3},
            {"contrast": ["predicted", "label"]},
            {"contrast": ["label", 3]},
            {"output": 2},
            {"segment": 3},
            {"segment": "predicted"},
            {"segment_mask": 3},
            {"detect": 3},
            {"detect": "predicted"},
            {"detect": 3, "boxes": [[1, 2, 3, 4], [1.5, 2, 3, 4]]},
            {"boxes": [[1, 2, 3, 4]], "detect": 3},
            {"similar_to": 0},
            f"{HERE}.first_score",
            ["predicted", f"{HERE}.first_score"],
            {"class_path": f"{HERE}.Score", "init_args": {"index": 2}},
            ["label", {"class_path": f"{HERE}.Score"}],
            "Shirt",
            ["predicted", "cowboy hat"],
            {"class_path": "lightning_gradcam.Top", "init_args": {"count": 3}},
            ["label", {"class_path": "lightning_gradcam.Contrast", "init_args": {"first": "label", "second": 3}}],
            ["predicted", {"class": ["Shirt", "Sneaker"]}, 3, {"contrast": ["predicted", "label"]}, {"top": 2}],
        ],
        "score": ["probability", "sigmoid"],
        "drawing": [
            {"colormap": "Reds", "opacity": 0.4},
            {"interpolation": "nearest", "columns": ["heatmap", "input"], "scale": "run", "format": "png"},
            {
                "magnification": 2,
                "max_tile": 64,
                "max_sheet_pixels": 200000,
                "boxes": True,
                "box_threshold": 0.5,
                "signed": True,
                "top": 3,
            },
        ],
        "output_key": [*_KEYS, "out", "logits", "0", f"{HERE}.first_score"],
        "min_energy_inside": [0.5, 1, None],
        "on_alarm": ["stop", "checkpoint", "warn"],
        "monitor": [True, ["gradcam_stats/net.relu1/drift", "gradcam_stats/score"], False],
        "gradients": [True],
        "evolution": [False],
        "check": [True],
        "numbers": ["all"],
    },
    FeatureMapCallback: {
        **_COMMON,
        **_SHOWN,
        "max_channels": [5, None],
        "drawing": [
            {"scale": "layer", "colormap": "gray", "columns": 4, "tile": 32},
            {"max_channels": 5, "format": "webp", "max_sheet_pixels": 200000},
        ],
        "report": [False],
    },
    FilterPatternCallback: {
        **_COMMON,
        "filters": [4, [1, 2], None],
        "steps": [3],
        "step_size": [2.5, None],
        "border": [1],
        "jitter": [1],
        "total_variation": [0.5],
        "parametrisation": ["fourier"],
        "value_range": [[-1, 1], [0.0, 255.0]],
        "drawing": [{"columns": 4, "tile": 32, "crop": False, "max_filters": 3, "format": "jpeg"}],
        "report": [False],
        "progress": [False],
    },
}
DRAWINGS = {GradCAMCallback: Drawing, FeatureMapCallback: GridDrawing, FilterPatternCallback: PatternDrawing}


def _cases() -> list[tuple[type[ProbeCallback], dict[str, Any]]]:
    """The first values of all options make a callback, the second values another one, …, under names of their own."""
    cases: list[tuple[type[ProbeCallback], dict[str, Any]]] = []
    for kind, rows in ROWS.items():
        for place in range(max(map(len, rows.values()))):
            options = {option: values[place] for option, values in rows.items() if place < len(values)}
            cases.append((kind, {**options, "name": f"case{len(cases)}"}))
    return cases


CASES = _cases()


def saved(folder: Path, *arguments: str) -> tuple[list[ProbeCallback], str]:
    """Runs `fit` for no epoch, which saves the configuration, and returns the callbacks and the file's text."""
    options = {
        "max_epochs": 0,
        "accelerator": "cpu",
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger.class_path": "pytorch_lightning.loggers.CSVLogger",
        "logger.init_args.save_dir": str(folder),
    }
    line = [f"--trainer.{name}={value}" for name, value in options.items()]
    cli = LightningCLI(Module, Data, args=["fit", *arguments, *line])
    callbacks = [callback for callback in cli.trainer.callbacks if isinstance(callback, ProbeCallback)]
    return callbacks, Path(cli.trainer.log_dir, "config.yaml").read_text()


def shown(callback: ProbeCallback) -> str:
    """All options of a callback, in a text that is the same for equal ones; 1 and 1.0 are."""
    return re.sub(r" at 0x[0-9a-f]+|\.0\b", "", repr(callback._options))


def test_every_option_has_a_row() -> None:
    for kind, rows in ROWS.items():
        assert set(rows) == set(inspect.signature(kind).parameters), kind.__name__
        drawn = {name for value in rows["drawing"] for name in value}
        assert drawn == {field.name for field in dataclasses.fields(DRAWINGS[kind])}, kind.__name__


@pytest.mark.slow
def test_every_option_survives_a_file_that_lightning_saves(tmp_path: Path) -> None:
    listed = [{"class_path": f"lightning_gradcam.{kind.__name__}", "init_args": init} for kind, init in CASES]
    (tmp_path / "given.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": listed}}, allow_unicode=True, sort_keys=False)
    )
    made, first = saved(tmp_path, "--config", str(tmp_path / "given.yaml"))
    (tmp_path / "first.yaml").write_text(first)
    again, second = saved(tmp_path, "--config", str(tmp_path / "first.yaml"))
    assert second == first
    wrong = []
    for (kind, init), entry in zip(CASES, yaml.safe_load(first)["trainer"]["callbacks"], strict=True):
        for option, value in init.items():
            found = entry["init_args"][option]
            if option == "drawing":
                found = {name: found[name] for name in value}
            if found != value or isinstance(found, str) is not isinstance(value, str):
                wrong.append(f"{kind.__name__}.{option}: {value!r} is saved as {found!r}")
    assert not wrong, "\n".join(wrong)
    expected = [shown(kind(**{**init, **_in_python(init)})) for kind, init in CASES]
    assert [shown(callback) for callback in made] == expected
    assert [shown(callback) for callback in again] == expected


@pytest.mark.slow
def test_every_option_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    line = []
    for kind, init in CASES:
        line.append(f"--trainer.callbacks+=lightning_gradcam.{kind.__name__}")
        line += [f"--trainer.callbacks.{name}={_written(value)}" for name, value in init.items()]
    made, first = saved(tmp_path, *line)
    (tmp_path / "first.yaml").write_text(first)
    again, second = saved(tmp_path, "--config", str(tmp_path / "first.yaml"))
    assert second == first
    # On a command line the place 0 is the text "0", which `pick_output` knows.
    expected = [
        shown(kind(**{**init, **_in_python(init), **({"output_key": str(key)} if isinstance(key, int) else {})}))
        for kind, init in CASES
        for key in [init.get("output_key")]
    ]
    assert [shown(callback) for callback in made] == expected
    assert [shown(callback) for callback in again] == expected


def _in_python(init: dict[str, Any]) -> dict[str, Any]:
    """What the same options are in Python."""
    sinks = {"sinks": [MemorySink()]} if init.get("sinks") else {}
    return sinks | ({"forward_fn": logits} if init.get("forward_fn") else {})


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def test_omegaconf_copies_and_pickles() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    for kind, init in CASES:
        given = {option: value for option, value in init.items() if option not in ("sinks", "forward_fn")}
        expected = shown(kind(**given))
        config = omegaconf.OmegaConf.create(given)
        # What Hydra's `instantiate` passes on without `_convert_`.
        callback = kind(**{option: config[option] for option in config})
        assert shown(callback) == expected
        assert "Config" not in expected
        assert shown(copy.deepcopy(callback)) == expected
        assert shown(pickle.loads(pickle.dumps(callback))) == expected


def test_numbers_of_numpy_tuples_and_modules() -> None:
    layer = nn.Conv2d(1, 1, 1)
    given = GradCAMCallback(
        (layer,), num_probes=np.int64(3), seed=np.int32(1), targets=(np.int64(3), {"per_probe": torch.tensor([1, 2])})
    )
    plain = GradCAMCallback([layer], num_probes=3, seed=1, targets=[3, {"per_probe": torch.tensor([1, 2])}])
    assert shown(given) == shown(plain)
    assert given._options.monitor.layers[0] is layer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": f"{LOST}['predicted', 'label']"}, "write targets: ['predicted', 'label'] in that file"),
        ({"targets": ["label", f"{LOST}<function f at 0x7f>"]}, "write the option's value in that file"),
        ({"output_key": f"{LOST}logits"}, "write output_key: logits in that file"),
    ],
)
def test_what_an_old_file_has_lost_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        GradCAMCallback(**options)
    assert "saved in config.yaml in place of the value" in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_objects_are_kept_as_the_dicts_that_a_file_can_hold() -> None:
    given = [Contrast("predicted", np.int64(3)), Top(2), PerProbe(torch.tensor([1, 2])), ClassName("Shirt"), Output(1)]
    dicts = [{"contrast": ["predicted", 3]}, {"top": 2}, {"per_probe": [1, 2]}, {"class": "Shirt"}, {"output": 1}]
    callback = GradCAMCallback(targets=given)
    assert callback._options.monitor.targets == dicts
    assert shown(callback) == shown(GradCAMCallback(targets=dicts))
    assert shown(pickle.loads(pickle.dumps(callback))) == shown(callback)
    assert GradCAMCallback(targets=Segment(3, masked=True))._options.monitor.targets == {"segment_mask": 3}
    boxes = Detect(3, ((1, 2, 3, 4),))
    assert GradCAMCallback(targets=boxes)._options.monitor.targets == {"detect": 3, "boxes": [[1, 2, 3, 4]]}
    assert GradCAMCallback(targets=(SimilarTo(0),))._options.monitor.targets == [{"similar_to": 0}]


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ([Contrast("predicted", 3), Top(2)], [{"contrast": ["predicted", 3]}, {"top": 2}]),
        (PerProbe([1, 2]), {"per_probe": [1, 2]}),
        (ClassName("Shirt"), {"class": "Shirt"}),
        (Output(1), {"output": 1}),
        (Segment(3), {"segment": 3}),
        (Detect("predicted"), {"detect": "predicted"}),
        (SimilarTo(0), {"similar_to": 0}),
    ],
    ids=str,
)
def test_an_object_that_is_a_default_survives_a_saved_file(tmp_path: Path, given: Any, spec: Any) -> None:
    """A default as `add_arguments_to_parser` of a LightningCLI sets it; jsonargparse writes it into the file."""

    def parser() -> ArgumentParser:
        made = ArgumentParser(exit_on_error=False)
        made.add_argument("--config", action="config")
        made.add_class_arguments(GradCAMCallback, "cam")
        return made

    first = parser()
    first.set_defaults({"cam.targets": given})
    (tmp_path / "config.yaml").write_text(first.dump(first.parse_args([])))
    second = parser()
    read = second.instantiate_classes(second.parse_args([f"--config={tmp_path / 'config.yaml'}"]))
    assert read.cam._options.monitor.targets == spec


def test_functions_by_their_path() -> None:
    with pytest.raises(TargetError, match="has no function 'first_scor'; did you mean 'first_score'"):
        GradCAMCallback(targets=f"{HERE}.first_scor")
    with pytest.raises(TargetError, match=re.escape("'nowhere' can't be imported (No module named 'nowhere')")):
        GradCAMCallback(targets=["label", "nowhere.score"])
    pick = GradCAMCallback(output_key=f"{HERE}.first_score")._options.monitor.output_key
    output = torch.rand(2, 3)
    assert torch.equal(pick(output), output[:, 0])
    # A key of that name comes before a function.
    assert pick({f"{HERE}.first_score": 1}) == 1
    with pytest.raises(ConfigurationError, match="with 'out'; pass one of these"):
        GradCAMCallback(output_key="a.b")._options.monitor.output_key({"out": 1})

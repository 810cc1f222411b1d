"""Lists a model's layers, as observed in a forward pass on two samples.

Example:
  lightning-gradcam layers --model torchvision.models:resnet18 --input-shape 3,224,224
  lightning-gradcam layers --model my_package:MyModule --model-args width=64 depth=3 --input-shape 1,28,28
  lightning-gradcam layers --config config.yaml                    # with the config's model and validation data
  lightning-gradcam layers lightning_logs/version_0/checkpoints/last.ckpt --input-shape 3,224,224 --spatial
  lightning-gradcam layers last.ckpt --input-shape 3,224,224 --trust      # your own, from a script
  lightning-gradcam layers --config config.yaml --json | jq -r .auto

The star marks the layer that layers="auto" selects. The result does not depend on the weights, but those in a
checkpoint are loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from lightning_gradcam.cli import options
from lightning_gradcam.cli.shared import first_loader, moving

if TYPE_CHECKING:
    from torch import nn

    from lightning_gradcam.callbacks.host import Host
    from lightning_gradcam.capture.inputs import Inputs
    from lightning_gradcam.compute.layer_listing import LayerListing, LayerRow

_WIDEST = 120


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "list a model's layers with their outputs and calls; show which ones have a map and which one 'auto' selects"
    parser = options.add_command(commands, "layers", what, doc=__doc__)
    parser.add_argument("checkpoint", nargs="?", metavar="CKPT", help="a checkpoint of the model")
    options.add_model(parser)
    options.add_config(parser)
    what = "shape of one sample (default: from the data, or the model's example_input_array)"
    parser.add_argument("--input-shape", type=_shape, metavar="C,H,W", help=what)
    parser.add_argument("--spatial", action="store_true", help="list only layers that have a map")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    options.add_progress(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    if chosen.checkpoint is None and chosen.model is None and not chosen.config:
        chosen.usage_error("there is no model to list; pass a checkpoint, --model or --config")
    if chosen.model_args and (chosen.model is None or chosen.checkpoint is not None):
        chosen.usage_error(
            "--model-args only applies to --model without a checkpoint; a checkpoint has its own arguments"
        )
    if chosen.checkpoint is not None and (len(chosen.config) > 1 or chosen.set):
        chosen.usage_error("with a checkpoint, pass one --config and no --set")
    from_data = chosen.checkpoint is None and chosen.model is None and chosen.input_shape is None
    listing = _of_config(chosen) if from_data else _of_model(chosen)
    print(_as_json(listing) if chosen.json else _table(listing, only_spatial=chosen.spatial))
    return 0


def _of_config(chosen: argparse.Namespace) -> LayerListing:
    from lightning_gradcam.capture.inputs import Inputs
    from lightning_gradcam.cli.config import at_start
    from lightning_gradcam.compute.layer_listing import list_layers
    from lightning_gradcam.probes.dataset import draw
    from lightning_gradcam.probes.entries import input_of
    from lightning_gradcam.probes.options import ProbeOptions

    def look(host: Host, callback: Mapping[str, Any]) -> LayerListing:
        # Imported here because it uses the Lightning package that the module has imported.
        from lightning_gradcam.callbacks.transfer import sent_to_device

        loader, key = host.probe_loader(), callback.get("input_key")
        choice = ProbeOptions(num_probes=min(2, len(loader.dataset)), input_key=key)
        drawn = draw(loader.dataset, choice, collate_fn=getattr(loader, "collate_fn", None))
        with host.explaining(), moving("layers", show=chosen.progress) as moved:
            picture = input_of(sent_to_device(host, drawn.batch), key)
            return list_layers(host.module, Inputs(picture), host.forward_of(), progress=moved)

    return at_start(options.config_arguments(chosen), look)


def _of_model(chosen: argparse.Namespace) -> LayerListing:
    from lightning_gradcam.capture.inputs import caller
    from lightning_gradcam.compute.layer_listing import list_layers
    from lightning_gradcam.guard.model import preserved, uninitialized

    model, datamodule = _made(chosen)
    inputs = _inputs(chosen.input_shape, model, datamodule)
    run = caller(model, None, None)
    if uninitialized(model):
        # Lazy layers create their parameters in the first forward pass, which is fine for a model only inspected here.
        run(inputs.fresh())
    with preserved(model), moving("layers", show=chosen.progress) as moved:
        return list_layers(model, inputs, run, progress=moved)


def _made(chosen: argparse.Namespace) -> tuple[nn.Module, Any]:
    """Returns the model, and the data module of its checkpoint, if any."""
    from lightning_gradcam.saved_models.file import Recipe
    from lightning_gradcam.saved_models.loader import build_module, load_checkpoint

    config = chosen.config[-1] if chosen.config else None
    if chosen.checkpoint is not None:
        loaded = load_checkpoint(chosen.checkpoint, model=chosen.model, config=config, trust=chosen.trust)
        return loaded.module, loaded.datamodule
    if chosen.model is None:
        return build_module(Recipe.of({}, config=config)), None
    arguments = options.model_arguments(chosen.model_args)
    return build_module(Recipe.of({}, config=None, model=chosen.model, model_args=arguments)), None


def _inputs(shape: tuple[int, ...] | None, model: nn.Module, datamodule: Any) -> Inputs:
    import torch

    from lightning_gradcam.capture.inputs import Inputs
    from lightning_gradcam.errors import ConfigurationError
    from lightning_gradcam.probes.entries import input_of

    if shape is not None:
        return Inputs(torch.rand((2, *shape), generator=torch.Generator().manual_seed(0), device="cpu"))
    if (example := getattr(model, "example_input_array", None)) is not None:
        return Inputs(example)
    if datamodule is None:
        raise ConfigurationError(
            "input-shape: the input shape is not known; pass the shape of one sample (--input-shape 3,224,224), or a "
            "--config with data, or set example_input_array in the module"
        )
    datamodule.prepare_data()
    datamodule.setup("validate")
    return Inputs(input_of(next(iter(first_loader(datamodule.val_dataloader()))), None)[:2])


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.replace("x", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}; pass the shape of one sample, such as 3,224,224")
    return tuple(map(int, sizes))


def _as_json(listing: LayerListing) -> str:
    values = asdict(listing)
    values["layers"] = [{**row, "spatial": row["grid"] is not None} for row in values.pop("rows")]
    return json.dumps(values, indent=1)


def _table(listing: LayerListing, *, only_spatial: bool) -> str:
    width = max(80, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns))
    shown = [row for row in listing.rows if row.grid is not None or not only_spatial]
    shape = ", ".join(map(str, listing.inputs))
    lines = [f"{listing.model}: {listing.parameters:,} parameters, {len(listing.rows)} layers; input [N, {shape}]", ""]
    lines += _columns([_cells(row, listing.auto) for row in shown], width)
    if listing.auto is not None:
        lines += ["", f'* what layers="auto" selects: {listing.auto}']
    else:
        lines += ["", *textwrap.wrap(f'layers="auto" selects nothing here: {listing.why}', width)]
    return "\n".join(lines)


def _cells(row: LayerRow, auto: str | None) -> tuple[str, ...]:
    output = row.output if isinstance(row.output, str) else f"[{', '.join(map(str, row.output))}]"
    found = f"no: {row.why}"
    if row.grid is not None:
        size = " x ".join(map(str, row.grid))
        found = size if row.layout in ("NCHW", "NCDHW") else f"{size} ({row.layout})"
    return ("*" if row.name == auto else " ", row.name, row.kind, output, f"{row.parameters:,}", str(row.calls), found)


def _columns(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Aligns cells in columns; names and the last column are wrapped if they are too wide."""
    head = ("", "layer", "class", "output", "parameters", "calls", "map")
    sizes = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    most = width - sum(sizes[2:6]) - 2 * 6 - 2
    last = max(min(sizes[6], most - min(sizes[1], most // 2)), 16)
    sizes[1] = min(sizes[1], max(most - last, 12))
    lines = []
    for row in (head, *rows):
        mark, name, kind, output, parameters, calls, found = row
        for first, end in zip_longest(_folded(name, sizes[1]), textwrap.wrap(found, last), fillvalue=""):
            middle = f"{kind:<{sizes[2]}}  {output:<{sizes[3]}}  {parameters:>{sizes[4]}}  {calls:>{sizes[5]}}"
            lines.append(f"{mark:<1} {first:<{sizes[1]}}  {middle}  {end}".rstrip())
            mark = kind = output = parameters = calls = ""
    return lines


def _folded(name: str, width: int) -> list[str]:
    """Splits a dotted name into parts after dots; joined, the parts are the name."""
    parts = []
    while len(name) > width:
        at = name.rfind(".", 0, width) + 1 or width
        parts.append(name[:at])
        name = name[at:]
    return [*parts, name]

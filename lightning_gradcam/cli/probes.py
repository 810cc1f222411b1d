"""Draws, shows and saves probe sets.

Example:
  lightning-gradcam probes draw --config config.yaml -n 16 --seed 1 -o probes.npz --sheet probes.png
  lightning-gradcam probes draw --folder pictures --size 224 -o probes.npz
  lightning-gradcam probes show probes.npz --sheet probes.png

To use the probes in any run:
  GradCAMCallback(probes="probes.npz")
  lightning-gradcam fit --config config.yaml --trainer.callbacks.probes probes.npz
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_gradcam.cli import options
from lightning_gradcam.cli.shared import first_loader, progress, seed_all

if TYPE_CHECKING:
    from lightning_gradcam.probes import ProbeSet

_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    what = "draw, inspect and save a probe set to use in many runs"
    parser = options.add_command(commands, "probes", what, doc=__doc__)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    what = "draw probes from a configuration's data, or read a folder of images"
    draw = options.add_command(actions, "draw", what, doc=_draw.__doc__)
    options.add_config(draw)
    what = (
        "the data module's class: probes are drawn from its validation data; with --folder, only its transform is used"
    )
    draw.add_argument("--data", metavar="CLASS", help=what)
    draw.add_argument("--folder", metavar="FOLDER", help="use all images in this folder")
    draw.add_argument(
        "-n", "--num-probes", type=int, metavar="N", help="number to draw (default: 8, as in the callback)"
    )
    draw.add_argument("--seed", type=int, metavar="N", help="random seed (default: 0, as in the callback)")
    draw.add_argument("-o", "--output", default="probes.npz", metavar="FILE", help="default: %(default)s")
    options.add_preparation(draw)
    _add_shown(draw)
    options.add_progress(draw)
    draw.set_defaults(run=_draw)
    show = options.add_command(actions, "show", "describe a saved probe set, or a run's probes", doc=_show.__doc__)
    show.add_argument("probes", metavar="FILE", help="a saved probe set, or an archive (<log dir>/<name>)")
    _add_shown(show)
    show.set_defaults(run=_show)


def _add_shown(parser: argparse.ArgumentParser) -> None:
    what = "also draw a sheet of all probes to this file: .png, .jpg or .webp"
    parser.add_argument("--sheet", metavar="PICTURE", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _draw(chosen: argparse.Namespace) -> int:
    """Draws probes from a configuration's data, or reads a folder of images, and saves them.

    Example:
      lightning-gradcam probes draw --config config.yaml -n 16 --seed 1 -o probes.npz --sheet probes.png
      lightning-gradcam probes draw --config config.yaml --set data.root=FOLDER -o probes.npz
      lightning-gradcam probes draw --data train.py:Data -n 16                    # from a script without a config
      lightning-gradcam probes draw --folder pictures --data train.py:Data --class-names classes.txt
      lightning-gradcam probes draw --folder pictures --size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
      lightning-gradcam probes draw --folder pictures --config config.yaml        # with the transform of its data

    With --config, the probes are those that the callback would draw in `lightning-gradcam fit` with the same
    configuration, number and seed. Options that are not set here are read from the callback in the configuration.
    Sub-folders of --folder are classes. With --data, no model is created; the class's arguments, the seed and the
    callback's options are read from --config.
    """
    if chosen.folder is None and not chosen.config and chosen.data is None:
        chosen.usage_error("there is nothing to draw from; pass --config, --data or --folder")
    if chosen.data is not None and (len(chosen.config) > 1 or chosen.set):
        chosen.usage_error("with --data, pass one --config and no --set")
    if chosen.folder is not None and (chosen.num_probes is not None or chosen.seed is not None):
        chosen.usage_error("--folder uses all images in the folder; leave out -n and --seed")
    if chosen.size is not None and (len(chosen.size) > 2 or min(chosen.size) < 1):
        chosen.usage_error(f"--size: got {chosen.size}; pass one number for both sides, or height and width, in pixels")
    if (chosen.config or chosen.data is not None) and (chosen.size is not None or chosen.mode is not None):
        chosen.usage_error(
            "--size and --mode only apply to --folder without --config and --data, whose transform is used instead"
        )
    if chosen.size is not None and len(chosen.size) == 1:
        chosen.size = chosen.size[0]
    from lightning_gradcam.saved_models.construction import read_class_names

    chosen.class_names = read_class_names(chosen.class_names)
    if chosen.data is not None:
        probes = _of_data(chosen)
    elif chosen.folder is None or chosen.config:
        from lightning_gradcam.cli.config import at_start

        probes = at_start(options.config_arguments(chosen), lambda host, own: _drawn(chosen, own, host.probe_loader()))
    else:
        from lightning_gradcam.probes import ProbeSet

        how = options.given(chosen, "size", "mean", "std", "mode", "class_names")
        probes = ProbeSet.from_folder(chosen.folder, **how)
    probes.save(chosen.output)
    _say(probes, chosen.output, chosen)
    if not chosen.json:
        print(f'\nto use them in a run: GradCAMCallback(probes="{chosen.output}")')
    return 0


def _of_data(chosen: argparse.Namespace) -> ProbeSet:
    from lightning_gradcam.errors import ProbeError
    from lightning_gradcam.saved_models.file import Recipe
    from lightning_gradcam.saved_models.loader import find_data
    from lightning_gradcam.saved_models.origin import options_in_config

    recipe = Recipe.of({}, config=chosen.config[0] if chosen.config else None)
    config = recipe.given or {}
    seed_all(config.get("seed_everything"))
    data, _ = find_data(recipe, chosen.data)
    data.prepare_data()
    data.setup("fit")
    # Lightning's default hook raises an error.
    inherited = type(data).val_dataloader.__module__.split(".")[0] in ("pytorch_lightning", "lightning")
    loader = None if inherited else first_loader(data.val_dataloader())
    if not hasattr(loader, "dataset"):
        raise ProbeError(f"data: {chosen.data!r} has no validation loader with a data set; pass --folder or --config")
    return _drawn(chosen, next(options_in_config(config), {}), loader)


def _drawn(chosen: argparse.Namespace, callback: Mapping[str, Any], loader: Any) -> ProbeSet:
    from lightning_gradcam.probes.options import ProbeOptions
    from lightning_gradcam.probes.samplers import UnindexedError
    from lightning_gradcam.probes.source import obtain_probes
    from lightning_gradcam.probes.streaming import Passing

    names = ("num_probes", "seed", "input_key", "label_key", "class_names", "mean", "std")
    wanted = {name: callback[name] for name in names if callback.get(name) is not None}
    wanted |= options.given(chosen, "num_probes", "seed", "class_names", "mean", "std")
    choice = ProbeOptions(given=chosen.folder, **wanted)

    def obtained(passing: Passing | None = None) -> ProbeSet:
        return obtain_probes(choice, lambda: loader, resumed={}, passing=passing)[0].probes

    try:
        return obtained()
    except UnindexedError:
        passing = Passing(choice)
        for batch in progress(loader, "batches", show=chosen.progress):
            passing.take(batch)
            if passing.complete:
                break
        return obtained(passing)


def _show(chosen: argparse.Namespace) -> int:
    """Describes a saved probe set, or a run's probes.

    Example:
      lightning-gradcam probes show probes.npz
      lightning-gradcam probes show probes.npz --sheet probes.png
      lightning-gradcam probes show lightning_logs/version_0/gradcam --json       # a run's probes
    """
    from lightning_gradcam.archive import Archive
    from lightning_gradcam.probes import ProbeSet

    is_run = os.path.isdir(chosen.probes)
    probes = Archive.open(chosen.probes).probes if is_run else ProbeSet.load(chosen.probes)
    _say(probes, chosen.probes, chosen)
    return 0


def _say(probes: ProbeSet, name: str, chosen: argparse.Namespace) -> None:
    if chosen.sheet is not None:
        _write_sheet(probes, name, chosen.sheet)
    if chosen.json:
        print(json.dumps(_described(probes, name), indent=1))
        return
    print("\n".join(_lines(probes, name)))
    if chosen.sheet is not None:
        print(f"\nsheet: {chosen.sheet}")


def _write_sheet(probes: ProbeSet, name: str, path: str) -> None:
    from lightning_gradcam.errors import DrawingError
    from lightning_gradcam.sheets.contact_sheet import contact_sheet
    from lightning_gradcam.storage import Storage

    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _FORMATS:
        raise DrawingError(f"sheet: got {path!r}; use a name that ends with {', '.join(_FORMATS)}")
    folder, file = os.path.split(path)
    Storage(folder or ".").write(file, contact_sheet(probes, os.path.basename(name)).encoded(_FORMATS[suffix]))


def _described(probes: ProbeSet, name: str) -> dict[str, Any]:
    plain = ("fingerprint", "ids", "indices", "labels", "class_names", "boxes", "display_source", "note")
    values = {each: getattr(probes, each) for each in plain}
    inputs = {"shape": list(probes.inputs.shape), "dtype": str(probes.inputs.dtype).removeprefix("torch.")}
    listed = {each: value.tolist() if hasattr(value, "tolist") else value for each, value in values.items()}
    return {"file": name, **inputs, **listed, "masks": probes.masks is not None}


def _lines(probes: ProbeSet, name: str) -> list[str]:
    from lightning_gradcam.sheets.contact_sheet import said, true_class

    parts = "masks" if probes.masks is not None else "boxes" if probes.boxes is not None else ""
    known = {"fingerprint": probes.fingerprint, "input pixels": probes.display_source, "note": probes.note}
    lines = [f"{label:<13} {text}" for label, text in {**known, "known parts": parts}.items() if text]
    rows = [("place", "id", "" if probes.labels is None else "true class")]
    rows += [(f"{row:>5}", f"#{each}", true_class(probes, row)) for row, each in enumerate(probes.ids)]
    width = max(len(row[1]) for row in rows[1:])
    table = [f"{place}  {each:<{width}}  {true}".rstrip() for place, each, true in rows]
    return [f"{name}: {said(probes)}", *lines, "", *table]

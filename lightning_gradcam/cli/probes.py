"""``lightning-gradcam probes``: draw, look at and save a probe set once, and use it in many runs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_gradcam.cli.explain import add_class_names
from lightning_gradcam.cli.layers import add_config, config_arguments
from lightning_gradcam.cli.shared import EXIT_CODES, add_progress, progress, seed_all

if TYPE_CHECKING:
    from lightning_gradcam.callbacks.host import Host
    from lightning_gradcam.probes import ProbeSet
    from lightning_gradcam.probes.streaming import Passing

_EPILOG = f"""\
example:
  lightning-gradcam probes draw --config config.yaml -n 16 --seed 1 -o probes.npz --sheet probes.png
  lightning-gradcam probes draw --folder pictures --size 224 -o probes.npz
  lightning-gradcam probes show probes.npz --sheet probes.png

then, in many runs:
  GradCAMCallback(probes="probes.npz")
  lightning-gradcam fit --config config.yaml --trainer.callbacks.probes probes.npz

{EXIT_CODES}
"""
_DRAW_EPILOG = f"""\
example:
  lightning-gradcam probes draw --config config.yaml -n 16 --seed 1 -o probes.npz --sheet probes.png
  lightning-gradcam probes draw --config config.yaml --set data.root=FOLDER -o probes.npz
  lightning-gradcam probes draw --data train.py:Data -n 16                    # of a script without a configuration
  lightning-gradcam probes draw --folder pictures --data train.py:Data --class-names classes.txt
  lightning-gradcam probes draw --folder pictures --size 224 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
  lightning-gradcam probes draw --folder pictures --config config.yaml        # with its data's own transform

From --config: the probes that the callback would draw in `lightning-gradcam fit` with the same configuration, number
and seed; what is not given here is taken from the callback in it. Sub-folders of --folder are classes.
From --data: no model is made; arguments of the class, a seed and the callback's options come from a --config.

{EXIT_CODES}
"""
_SHOW_EPILOG = f"""\
example:
  lightning-gradcam probes show probes.npz
  lightning-gradcam probes show probes.npz --sheet probes.png
  lightning-gradcam probes show lightning_logs/version_0/gradcam --json       # those of a run

{EXIT_CODES}
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "probes",
        help="draw, look at and save a probe set once, use it in many runs",
        description="Draws, shows and saves probe sets.",
        epilog=_EPILOG,
        formatter_class=formatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    draw = actions.add_parser(
        "draw",
        help="draw probes from a configuration's data, or read a folder of pictures",
        description="Draws probes from a configuration's data, or reads a folder of pictures, and saves them.",
        epilog=_DRAW_EPILOG,
        formatter_class=formatter,
    )
    add_config(draw)
    draw.add_argument(
        "--data",
        metavar="CLASS",
        help="the data module's class: draw from its validation data; of --folder: its transform",
    )
    draw.add_argument("--folder", metavar="FOLDER", help="take these pictures, all of them")
    draw.add_argument("-n", "--num-probes", type=int, metavar="N", help="how many to draw (default: the callback's, 8)")
    draw.add_argument("--seed", type=int, metavar="N", help="of the draw (default: the callback's, 0)")
    draw.add_argument("-o", "--output", default="probes.npz", metavar="FILE", help="default: %(default)s")
    draw.add_argument("--size", nargs="+", type=int, metavar="N", help="of --folder: both sides, or height width")
    draw.add_argument("--mean", nargs="+", type=float, metavar="X", help="of --folder: subtracted; of others: undone")
    draw.add_argument("--std", nargs="+", type=float, metavar="X", help="of --folder: divided by; of others: undone")
    draw.add_argument("--mode", choices=("RGB", "L"), help="of --folder: read pictures in colour (default) or grey")
    add_class_names(draw, "names of the classes, where the data has none")
    _add_shown(draw)
    add_progress(draw)
    draw.set_defaults(run=_draw, usage_error=draw.error)
    show = actions.add_parser(
        "show",
        help="say what is in a saved probe set, or in a run",
        description="Says what is in a saved probe set, or in that of a run.",
        epilog=_SHOW_EPILOG,
        formatter_class=formatter,
    )
    show.add_argument("probes", metavar="FILE", help="a saved probe set, or an archive (<log dir>/<name>)")
    _add_shown(show)
    show.set_defaults(run=_show)


def _add_shown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sheet", metavar="PICTURE", help="a picture of all of them: .png, .jpg or .webp")
    parser.add_argument("--json", action="store_true", help="for scripts")


def _draw(chosen: argparse.Namespace) -> int:
    if chosen.folder is None and not chosen.config and chosen.data is None:
        chosen.usage_error("give --config, --data or --folder: draw from what?")
    if chosen.data is not None and (len(chosen.config) > 1 or chosen.set):
        chosen.usage_error("with --data, give one --config and no --set")
    if chosen.folder is not None and (chosen.num_probes is not None or chosen.seed is not None):
        chosen.usage_error("all pictures of --folder are taken; leave out -n and --seed")
    if chosen.size is not None and (len(chosen.size) > 2 or min(chosen.size) < 1):
        chosen.usage_error(f"--size: got {chosen.size}; give both sides, or height and width, in pixels")
    if (chosen.config or chosen.data is not None) and (chosen.size is not None or chosen.mode is not None):
        chosen.usage_error("--size and --mode are for a --folder alone: the data's transform does that")
    from lightning_gradcam.saved_models.class_names import read_class_names

    chosen.class_names = read_class_names(chosen.class_names)
    if chosen.data is not None:
        probes = _of_data(chosen)
    elif chosen.folder is None or chosen.config:
        probes = _of_config(chosen)
    else:
        from lightning_gradcam.probes import ProbeSet

        probes = ProbeSet.from_folder(
            chosen.folder,
            size=chosen.size[0] if chosen.size is not None and len(chosen.size) == 1 else chosen.size,
            mean=chosen.mean,
            std=chosen.std,
            mode=chosen.mode or "RGB",
            class_names=chosen.class_names,
        )
    probes.save(chosen.output)
    _say(probes, chosen.output, chosen)
    if not chosen.json:
        print(f'\nin any run: GradCAMCallback(probes="{chosen.output}")')
    return 0


def _of_config(chosen: argparse.Namespace) -> ProbeSet:
    from lightning_gradcam.cli.config import at_start

    def look(host: Host, callback: Mapping[str, Any]) -> ProbeSet:
        return _drawn(chosen, callback, host.probe_loader())

    return at_start(config_arguments(chosen), look)


def _of_data(chosen: argparse.Namespace) -> ProbeSet:
    from lightning_gradcam.errors import ProbeError
    from lightning_gradcam.saved_models.construction import read_config
    from lightning_gradcam.saved_models.loader import find_data
    from lightning_gradcam.saved_models.origin import options_in_config

    config = read_config(chosen.config[0]) if chosen.config else {}
    seed_all(config.get("seed_everything"))
    data, _ = find_data({}, chosen.data, given=config, beside=None, names=True, trust=False, asked=True)
    data.prepare_data()
    data.setup("fit")
    # Lightning's own raises.
    inherited = type(data).val_dataloader.__module__.split(".")[0] in ("pytorch_lightning", "lightning")
    loader = None if inherited else data.val_dataloader()
    while isinstance(loader, (list, tuple, Mapping)) and loader:
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
    if not hasattr(loader, "dataset"):
        raise ProbeError(f"data: {chosen.data!r} has no validation loader with a data set; give --folder or --config")
    return _drawn(chosen, next(options_in_config(config), {}), loader)


def _drawn(chosen: argparse.Namespace, callback: Mapping[str, Any], loader: Any) -> ProbeSet:
    from lightning_gradcam.errors import ProbeError
    from lightning_gradcam.probes.samplers import UnindexedError
    from lightning_gradcam.probes.source import ProbeOptions, obtain_probes

    names = ("num_probes", "seed", "input_key", "label_key", "class_names", "mean", "std")
    wanted = {name: callback[name] for name in names if callback.get(name) is not None}
    wanted |= {name: getattr(chosen, name) for name in names if getattr(chosen, name, None) is not None}
    options = ProbeOptions(given=chosen.folder, **wanted)

    def no_archive(path: str) -> ProbeSet:
        raise ProbeError(f"probes: {path!r} is not asked for")

    def obtained(passing: Passing | None = None) -> ProbeSet:
        return obtain_probes(options, lambda: loader, resumed={}, archived=no_archive, passing=passing)[0].probes

    try:
        return obtained()
    except UnindexedError:
        passing = options.passing()
        for batch in progress(loader, "batches", show=chosen.progress):
            passing.take(batch)
            if passing.complete:
                break
        return obtained(passing)


def _show(chosen: argparse.Namespace) -> int:
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
        print(f"\npicture: {chosen.sheet}")


def _write_sheet(probes: ProbeSet, name: str, path: str) -> None:
    from lightning_gradcam.errors import DrawingError
    from lightning_gradcam.sheets.contact_sheet import contact_sheet
    from lightning_gradcam.storage import Storage

    formats = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in formats:
        raise DrawingError(f"sheet: got {path!r}; give a name that ends with {', '.join(formats)}")
    folder, file = os.path.split(path)
    Storage(folder or ".").write(file, contact_sheet(probes, os.path.basename(name)).encoded(formats[suffix]))


def _described(probes: ProbeSet, name: str) -> dict[str, Any]:
    return {
        "file": name,
        "fingerprint": probes.fingerprint,
        "shape": list(probes.inputs.shape),
        "dtype": str(probes.inputs.dtype).removeprefix("torch."),
        "ids": list(probes.ids),
        "indices": None if probes.indices is None else list(probes.indices),
        "labels": None if probes.labels is None else probes.labels.tolist(),
        "class_names": None if probes.class_names is None else list(probes.class_names),
        "masks": probes.masks is not None,
        "boxes": None if probes.boxes is None else probes.boxes.tolist(),
        "display_source": probes.display_source,
        "note": probes.note,
    }


def _lines(probes: ProbeSet, name: str) -> list[str]:
    from lightning_gradcam.sheets.contact_sheet import said, true_class

    lines = [f"{name}: {said(probes)}", f"fingerprint   {probes.fingerprint}"]
    if probes.display_source:
        lines.append(f"input pixels  {probes.display_source}")
    if probes.note:
        lines.append(f"note          {probes.note}")
    if probes.masks is not None or probes.boxes is not None:
        lines.append(f"known parts   {'masks' if probes.masks is not None else 'boxes'}")
    ids = [f"#{name}" for name in probes.ids]
    longest = max(map(len, ids))
    rows = [f"{row:>5}  {ids[row]:<{longest}}  {true_class(probes, row)}".rstrip() for row in range(len(probes))]
    return [
        *lines,
        "",
        f"place  {'id':<{longest}}  {'true class' if probes.labels is not None else ''}".rstrip(),
        *rows,
    ]

"""Names come from data sets, models and users, and may be any text: none leaves its folder, its quotes or its line."""

from __future__ import annotations

import ast
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_gradcam
from lightning_gradcam import Archive, ConfigurationError, GradCAMCallback, LightningGradCAMError, MemorySink, ProbeSet
from lightning_gradcam.errors import printable
from lightning_gradcam.render.picture import Picture
from lightning_gradcam.sinks import Entry, FileSink
from lightning_gradcam.sinks.wandb import _key
from tests.conftest import CLASSES, TinyModule, loaders, tiny_data, trainer

PACKAGE = Path(lightning_gradcam.__file__).parent

PLAIN = ["with space", "a/b", "/etc/passwd", "quo'te\"s", "zebra🦓", "<script>alert(1)</script>", "-rf", "~", "$HOME"]
PLAIN += ["back\\slash", "C:\\x", "%s{0}", "größe", "层", " ", "con", "x" * 10_000, "a/" * 3000 + "b"]
UNPRINTABLE = ["new\nline", "nul\x00byte", "\u202ertl", "lone\ud800", "\x1b[2J\x07", "tab\there", "\x9b2J"]
ODD = [*PLAIN, *UNPRINTABLE]
CLASS_NAMES = ("\x1b[31mred", "<b>&amp;</b>", "two\nlines\x00", "\ud800\u202e", "🦓" * 10_000)
IDS = ("../../up", "nul\x00\x1b[2J", "\ud800")
NOTE = "<script>\n\x1b[2J\u202e\ud800" + "long " * 2000
# Neither Lightning nor the operating system takes a NUL or a lone surrogate in a folder's name.
RUNS = ["new\nline", "zebra🦓", "[a]*?", "-rf", "back\\slash", "~"]
MORE_RUNS = [
    "a b",
    'it\'s "quoted"',
    "<script>",
    "{x}%(x)s",
    "$HOME",
    "x#y?z=1",
    "\x1b[2J",
    "\u202ertl",
    "file:x",
    "a:b",
]


class OddNet(nn.Module):
    """A convolution under each of the names, one after the other."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Conv2d(1, 1, 3, padding=1) for name in names})
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = x + torch.relu(part(x))
        return self.head(x.flatten(1))


class OddModule(TinyModule):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.net = OddNet(names)  # type: ignore[assignment]


def fitted(root: Path, logger: Any, names: list[str], **options: Any) -> GradCAMCallback:
    model = OddModule(names)
    probes = ProbeSet(tiny_data().tensors[0][:3], ids=IDS, labels=torch.arange(3), class_names=CLASS_NAMES, note=NOTE)
    settings = {"layers": list(model.net.parts.values()), "probes": probes, "on_error": "raise"}
    callback = GradCAMCallback(**{**settings, **options})  # type: ignore[arg-type]
    trainer(root, logger=logger, callbacks=[callback], max_epochs=1).fit(model, *loaders(16))
    return callback


def layer(name: str) -> str:
    return f"net.parts.{name}"


def sane(root: Path) -> list[Path]:
    """All files below a folder, none of whose names could do harm in a terminal, a shell's listing or an archive."""
    # W&B links its own log from its cache.
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in found:
        assert path.resolve().is_relative_to(root.resolve())
        for part in path.relative_to(root).parts:
            assert part.isprintable()
            assert len(part.encode()) <= 255
    return found


def decoded(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.width >= 480
        assert min(image.convert("L").getdata()) < 100


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything has to go; the working directory is another one."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "logs").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "logs"


def nothing_beside(folder: Path) -> None:
    assert sorted(path.name for path in folder.parent.iterdir()) == ["elsewhere", folder.name]
    assert list((folder.parent / "elsewhere").iterdir()) == []


def read_back(callback: GradCAMCallback, names: list[str]) -> Archive:
    assert callback.archive is not None
    archive = Archive.open(callback.archive.path)
    assert archive.layers == tuple(map(layer, names))
    assert archive.probes.class_names == CLASS_NAMES
    assert archive.probes.ids == archive.record(-1).probe_ids == IDS
    assert archive.probes.note == NOTE
    for name in names:
        assert archive.maps(layer(name)).shape == (1, 3, 8, 8)
    return archive


# ---- real runs


@pytest.mark.slow
def test_tensorboards_tags_are_name_and_layer_and_every_picture_is_there(folder: Path) -> None:
    logger = TensorBoardLogger(str(folder))
    archive = read_back(fitted(folder, logger, ODD), ODD)
    sane(folder)
    nothing_beside(folder)
    assert Path(archive.path) == Path(logger.log_dir) / "gradcam"
    events = EventAccumulator(logger.log_dir, size_guidance={IMAGES: 0})
    events.Reload()
    tags = events.Tags()["images"]
    assert set(tags) >= {f"gradcam/{layer(name)}" for name in PLAIN}
    # A sheet, a film strip and an animation each.
    assert len([tag for tag in tags if tag.startswith("gradcam/")]) == len(ODD)
    assert len(tags) == 3 * len(ODD)
    assert all(tag.isprintable() for tag in [*tags, *events.Tags()["scalars"]])
    for tag in tags:
        (image,) = events.Images(tag)
        decoded(image.encoded_image_string)


@pytest.mark.slow
def test_picture_files_of_any_layer_are_written_below_the_log_folder(folder: Path) -> None:
    read_back(fitted(folder, CSVLogger(str(folder)), ODD), ODD)
    files = sane(folder)
    nothing_beside(folder)
    for place in ("sheets", "evolution"):
        found = [path for path in files if path.suffix == ".png" and place in path.relative_to(folder).parts]
        assert len(found) == len(ODD)
        for path in found:
            decoded(path.read_bytes())
    assert len([path for path in files if path.suffix == ".png"]) == 2 * len(ODD)
    (stated,) = folder.rglob("manifest.json")
    assert stated.read_bytes().replace(b"\n", b"").decode("ascii").isprintable()


@pytest.mark.slow
def test_wandb_gets_every_picture_and_keeps_it_in_its_runs_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder))
    logger = WandbLogger(save_dir=str(folder), project="test")
    try:
        read_back(fitted(folder, logger, ODD), ODD)
        media = Path(logger.experiment.dir, "media", "images")
    finally:
        wandb.finish()
    nothing_beside(folder)
    pictures = [path for path in sane(folder) if path.suffix == ".png"]
    # A sheet and a film strip of each; the strip lies in the archive's folder, too.
    assert len(pictures) == 3 * len(ODD)
    assert len([path for path in pictures if path.is_relative_to(media)]) == 2 * len(ODD)
    for path in pictures:
        assert path.is_relative_to(media) or path.parent.name == "evolution"
        decoded(path.read_bytes())


@pytest.mark.parametrize("run", [*RUNS, *(pytest.param(run, marks=pytest.mark.slow) for run in MORE_RUNS)], ids=ascii)
def test_a_run_of_any_name_keeps_its_archive_in_its_own_folder(folder: Path, run: str) -> None:
    logger = CSVLogger(str(folder), name=run, version="1")
    archive = read_back(fitted(folder, logger, ["one"], layers="net.parts.one"), ["one"])
    assert Path(archive.path) == folder / run / "1" / "gradcam"
    assert len(list((folder / run / "1" / "gradcam" / "sheets").rglob("*.png"))) == 1
    nothing_beside(folder)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "/etc", "a/b", "a\\b", "new\n", "nul\x00", "🦓", "\ud800", "\x1b[2J", "<b>", "a b", "'"],
    ids=ascii,
)
def test_a_callbacks_name_that_is_no_plain_folder_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(ConfigurationError, match="it becomes a folder and a tag") as caught:
        GradCAMCallback(name=name)
    assert str(caught.value).isprintable()


def test_class_names_and_notes_of_a_data_set_are_drawn_and_kept(folder: Path) -> None:
    class Odd(TensorDataset):
        classes = CLASS_NAMES
        probe_note = NOTE

    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", sinks=[sink], on_error="raise")
    valid = DataLoader(Odd(*tiny_data().tensors), 8)
    trainer(folder, callbacks=[callback], max_epochs=1).fit(TinyModule(), loaders()[0], valid)
    assert callback.probes is not None
    assert callback.archive is not None
    assert callback.probes.class_names == Archive.open(callback.archive.path).probes.class_names == CLASS_NAMES
    assert Archive.open(callback.archive.path).probes.note == NOTE
    decoded(sink.entries[0].pictures["gradcam/net.relu2"].encoded())


@pytest.mark.parametrize("name", ["²", "٣", "a_vs_b", "<b>", "new line", "\x1b[2J", "x" * 10_000, "Ⅷ", "predicted "])
def test_a_target_of_any_name_is_drawn_and_kept(folder: Path, name: str) -> None:
    def score(output: Tensor) -> Tensor:
        return output[:, 0]

    score.__name__ = name
    sink = MemorySink()
    callback = GradCAMCallback("net.relu2", targets=[score, "predicted"], sinks=[sink], on_error="raise")
    trainer(folder, callbacks=[callback], max_epochs=1).fit(TinyModule(), *loaders())
    assert callback.archive is not None
    archive = Archive.open(callback.archive.path)
    assert archive.targets == (name, "predicted")
    assert archive.maps("net.relu2", target=name).shape[0] == 1
    decoded(sink.entries[0].pictures["gradcam/net.relu2"].encoded())


# ---- tags and paths


@pytest.mark.parametrize("name", PLAIN, ids=lambda name: ascii(name[:20]))
def test_a_tag_that_can_be_printed_stays_as_it_is(name: str) -> None:
    assert printable(f"gradcam/{name}") == f"gradcam/{name}"


@pytest.mark.parametrize("name", UNPRINTABLE, ids=ascii)
def test_other_signs_of_a_tag_become_their_escapes(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == name


@pytest.mark.parametrize("tag", ["gradcam/conv", "gradcam/layer4.1.conv2/gradcam++", "gradcam/a b/c", "gradcam/größe"])
def test_wandbs_key_is_the_tag_where_that_can_be_a_path(tag: str) -> None:
    assert _key(tag) == tag


@pytest.mark.parametrize("name", [*ODD, "..", "../../up", ".", "a/../b", "a//b", "c:x", "a*?"], ids=ascii)
def test_wandbs_key_is_a_path_below_its_folder(name: str) -> None:
    key = _key(f"gradcam/{name}")
    assert key.startswith("gradcam/")
    assert key.isprintable()
    assert not set(key.split("/")) & {"", ".", ".."}
    assert len(key.encode()) < 600
    assert all(len(part.encode()) <= 200 for part in key.split("/"))


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "a/" * 3000, "..", "x" * 10_000, "\x00", "\ud800", ""])
def test_a_sheets_file_stays_below_its_folder(tmp_path: Path, name: str) -> None:
    picture = Picture(torch.zeros(4, 4, 3, dtype=torch.uint8).numpy())
    FileSink(str(tmp_path / "in"), prefix="gradcam").log(Entry(1, 0, {f"gradcam/{name}": picture}))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert len(sane(tmp_path / "in")) == 1


# ---- the terminal


def refused(layers: str, folder: Path) -> None:
    callback = GradCAMCallback(layers)
    trainer(folder, callbacks=[callback], max_epochs=1).fit(OddModule(UNPRINTABLE), *loaders(16))


def no_map(layers: str, folder: Path) -> None:
    archive = fitted(folder, CSVLogger(str(folder)), UNPRINTABLE).archive
    assert archive is not None
    archive.maps(layers)


@pytest.mark.parametrize("ask", [refused, pytest.param(no_map, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layers", ["\x1b[2J", "net.parts.none", "net.parts.\x1b[2J"], ids=ascii)
def test_an_error_that_lists_names_is_printable(ask: Callable[[str, Path], None], layers: str, folder: Path) -> None:
    with pytest.raises(LightningGradCAMError) as caught:
        ask(layers, folder)
    assert str(caught.value).isprintable()


def test_what_a_failing_step_says_is_printable(folder: Path) -> None:
    class Failing(MemorySink):
        def log(self, entry: Entry) -> None:
            raise OSError(f"no room for {next(iter(entry.pictures))}")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(folder, False, ["\x1b[2J"], on_error="warn", sinks=[Failing()])
    ours = [str(warning.message) for warning in caught if "lightning-gradcam" in str(warning.message)]
    assert any("no room for" in text for text in ours)
    assert all(text.replace("\n", "").isprintable() for text in ours)


# ---- what awaits other rooms


def test_names_that_differ_in_a_lone_surrogate_have_files_of_their_own() -> None:
    assert lightning_gradcam.storage.safe_name("a\ud800") != lightning_gradcam.storage.safe_name("a\ud801")


@pytest.mark.parametrize("name", ["[a]", "conv[12]"])
def test_a_layer_whose_name_looks_like_a_pattern_is_logged_every_time(folder: Path, name: str) -> None:
    names = [name, "conv1", "a"]
    read_back(fitted(folder, CSVLogger(str(folder)), names), names)


def test_a_callbacks_name_that_is_too_long_for_a_folder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name: "):
        GradCAMCallback(name="x" * 10_000)


# ---- what is read is never run

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess", "yaml"}
FORBIDDEN_MODULES |= {"ctypes", "code", "codeop", "runpy", "pty", "socket", "http", "urllib", "requests", "tarfile"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"}
FORBIDDEN_CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
FORBIDDEN_CALLS |= {"np.save", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "input"}


TORCH = "torch.load"
OWN_FILES = {
    "naming/hyperparameters.py": "yaml",
    "saved_models/config.py": "yaml",
    "saved_models/file.py": TORCH,
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> list[str]:
    """What could run, or be made to run, something that was read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            allowed = options.get("allow_pickle")
            if name in FORBIDDEN_CALLS or name.startswith(("os.exec", "os.spawn")):
                found.append(name)
            if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
                found.append(f"{name}(allow_pickle)")
            if name.endswith((".load", ".open_memmap", ".read_array")) and name.split(".")[0] in ("np", "numpy"):
                found += [name] if allowed is None else []
            if "shell" in options:
                found.append(f"{name}(shell)")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_run_what_it_reads(path: Path) -> None:
    """Configurations and checkpoints are the user's own: YAML is read as plain values, weights without objects."""
    source = path.read_text()
    allowed = OWN_FILES.get(str(path.relative_to(PACKAGE)))
    assert [offence for offence in offences(source) if offence != allowed] == []
    loads = [call for call in ast.walk(ast.parse(source)) if isinstance(call, ast.Call) and dotted(call.func) == TORCH]
    # `trust` is the user's word for it.
    kept = ["not trust" for _ in loads]
    assert [ast.unparse(k.value) for call in loads for k in call.keywords if k.arg == "weights_only"] == kept


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=True)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "np.lib.format.read_array(f)",
        "eval(x)",
        "exec(x)",
        "__import__(x)",
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "import shelve, json",
        "import marshal",
        "def f():\n    import subprocess",
        "os.system(x)",
        "os.execv(x, y)",
        "run(x, shell=True)",
    ],
)
def test_the_check_of_modules_finds_it(source: str) -> None:
    assert offences(source)


def test_the_check_of_modules_lets_plain_reading_pass() -> None:
    assert offences("import json\nnp.load(f, allow_pickle=False)\njson.loads(x)\nself.load(x)\nmodel.eval()") == []


def test_a_checkpoint_of_a_run_with_odd_names_loads_without_pickled_code(folder: Path) -> None:
    class Keep(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(folder / "kept.ckpt")

    names = [name for name in ODD if "\ud800" not in name]  # torch itself can't write those
    callback = GradCAMCallback(on_error="raise", layers=layer(names[0]))
    model = OddModule(names)
    trainer(folder, callbacks=[callback, Keep()], max_epochs=1).fit(model, *loaders(16))
    state = torch.load(folder / "kept.ckpt", weights_only=True)["callbacks"]
    assert json.loads(json.dumps(state[callback.state_key])) == state[callback.state_key]

"""The example as its users run it, on drawn garments, on idx files, and on the real images where they are."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_garments import CLASS_NAMES, DrawnGarments, draw_garments
from fashion_mnist import FashionMNISTClassifier, FashionMNISTDataModule, main
from fashion_mnist_data import is_there
from fashion_mnist_report import confusion_picture
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision.datasets import FashionMNIST

from lightning_gradcam import Archive

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = [
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def write_idx(root: Path, count: int = 120) -> None:
    """Writes drawn garments in Fashion-MNIST's own file format."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, seed in (("train", 1), ("t10k", 2)):
        garments = draw_garments(count, seed)
        pictures = struct.pack(">IIII", 2051, count, 28, 28) + garments.images.tobytes()
        labels = struct.pack(">II", 2049, count) + garments.labels.astype(np.uint8).tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(pictures)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


def pictures(folder: Path) -> dict[str, list[Any]]:
    """Every image summary below a log folder, by tag."""
    found: dict[str, list[Any]] = {}
    for file in sorted(folder.rglob("events.out.tfevents*")):
        events = EventAccumulator(str(file), size_guidance={"images": 0})
        events.Reload()
        for tag in events.Tags()["images"]:
            found.setdefault(tag, []).extend(events.Images(tag))
    return found


def test_the_main_job_on_drawn_garments(tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[str]) -> None:
    main(["fit", "--config", str(CONFIGS / "fashion_mnist.yaml"), "--data.source=drawn", *SHORT])
    log_dir = tmp_path / "lightning_logs" / "fashion_mnist" / "version_0"
    found = pictures(log_dir)
    maps = [f"network.relu{n}{method}" for n in (1, 2, 3) for method in ("", "/hirescam")]
    strips = {f"gradcam_evolution/{name}{kind}" for name in maps for kind in ("", "/animation")}
    assert set(found) == {f"gradcam/{name}" for name in maps} | strips | {"test/confusion_matrix"}
    assert (log_dir / "gradcam" / "report.html").exists()
    assert [image.step for image in found["gradcam/network.relu1"]] == [2, 5]
    archive = Archive.open(log_dir / "gradcam")
    assert archive.maps("network.relu1").shape == (2, 10, 28, 28)
    assert archive.methods == ("hirescam", "gradcam"), "the page opens with maps that show something at every layer"
    blank = [archive.maps("network.relu3", method)[-1].max(axis=(1, 2)) <= 0 for method in archive.methods]
    assert not blank[0].any()
    assert archive.probes.labels is not None
    assert archive.probes.labels.tolist() == list(range(10))
    assert archive.probes.class_names == CLASS_NAMES
    assert archive.probes.note == "drawn data (not photographs)"
    assert archive.probes.masks is not None
    assert archive.probes.display_source == "Normalize undone"
    assert "data: drawn" in (log_dir / "hparams.yaml").read_text()
    printed = capsys.readouterr().out
    assert "Test images: 2000 (drawn), accuracy 0." in printed
    assert all(name in printed for name in CLASS_NAMES)
    assert any(f"tensorboard --logdir {tmp_path / 'lightning_logs'}" in line for line in said)
    assert any(str(log_dir / "gradcam" / "report.html") in line for line in said)


def test_every_callback_option_can_be_set_on_the_command_line(tmp_path: Path) -> None:
    options = {
        "layers": "[network.conv2]",
        "targets": '[label, 3, {"per_probe": [1, 2, 3]}]',
        "methods": "[gradcam]",
        "score": "probability",
        "num_probes": "3",
        "seed": "4",
        "every_n_epochs": "2",
        "every_n_validations": "null",
        "log_untrained": "true",
        "name": "attention",
        "drawing.colormap": "Reds",
        "drawing.opacity": "0.4",
        "drawing.columns": "[input, overlay, heatmap]",
        "drawing.scale": "layer",
        "drawing.interpolation": "nearest",
        "drawing.magnification": "5",
        "drawing.boxes": "true",
        "drawing.top": "3",
        "gradients": "true",
        "on_error": "raise",
        "mean": "0.5",
        "std": "[0.5]",
        "class_names": "[a, b]",
        "input_key": "0",
        "label_key": "1",
    }
    arguments = [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    config = str(CONFIGS / "fashion_mnist.yaml")
    cli = main(["fit", "--config", config, "--data.source=drawn", *SHORT, *arguments])
    archive = Archive.open(tmp_path / "lightning_logs" / "fashion_mnist" / "version_0" / "attention")
    assert archive.epochs == (-1, 1)
    assert archive.targets == ("label", "3", "per_probe")
    assert archive.manifest.score == "probability"
    assert cli.trainer.is_global_zero


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("[predicted,3]", ("predicted", "3")),
        pytest.param("3", ("3",), marks=pytest.mark.slow),
        pytest.param("label", ("label",), marks=pytest.mark.slow),
    ],
)
def test_targets_on_the_command_line(tmp_path: Path, targets: str, names: tuple[str, ...]) -> None:
    arguments = ["--data.source=drawn", *SHORT, "--trainer.max_epochs=1", f"--trainer.callbacks.targets={targets}"]
    main(["fit", "--config", str(CONFIGS / "fashion_mnist.yaml"), *arguments])
    archive = Archive.open(tmp_path / "lightning_logs" / "fashion_mnist" / "version_0" / "gradcam")
    assert archive.targets == names


@pytest.mark.slow
def test_resnet18_finds_its_layer(tmp_path: Path) -> None:
    main(
        [
            "fit",
            "--config",
            str(CONFIGS / "fashion_mnist_resnet18.yaml"),
            "--data.source=drawn",
            "--data.batch_size=16",
            *SHORT,
        ]
    )
    archive = Archive.open(tmp_path / "lightning_logs" / "fashion_mnist_resnet18" / "version_0" / "gradcam")
    assert archive.layers == ("network.layer4",)
    assert archive.targets == ("predicted", "label")
    assert archive.maps("network.layer4").shape == (2, 10, 4, 4)


def test_wandb_offline_has_the_pictures_and_they_are_not_black(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    # Absolute: W&B copies the terminal's output on a thread of its own, also after this test has left the folder.
    place = f"--trainer.logger.init_args.save_dir={tmp_path / 'lightning_logs'}"
    main(["fit", "--config", str(CONFIGS / "fashion_mnist_wandb.yaml"), "--data.source=drawn", place, *SHORT])
    import wandb

    wandb.finish()
    files = sorted((tmp_path / "lightning_logs" / "wandb").glob("offline-run-*/files/media/images/gradcam/*.png"))
    assert len(files) == 6
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.mean() > 150, f"{file.name} is dark"
        assert len(np.unique(pixels)) > 100
    archives = list((tmp_path / "lightning_logs").glob("*/*/gradcam/manifest.json"))
    assert len(archives) == 1, "for a logger without a log_dir the archive is in <save_dir>/<project>/<run id>"


def test_the_main_job_on_idx_files_of_the_data_set(tmp_path: Path) -> None:
    write_idx(tmp_path / "there")
    source = ["--data.root=there", "--data.source=fashion_mnist"]
    cli = main(["fit", "--config", str(CONFIGS / "fashion_mnist.yaml"), *source, *SHORT])
    assert cli.datamodule.data == "fashion_mnist"
    archive = Archive.open(tmp_path / "lightning_logs" / "fashion_mnist" / "version_0" / "gradcam")
    assert archive.probes.note == ""
    assert archive.maps("network.relu3").shape[1:] == (10, 28, 28)


def test_the_main_job_on_the_real_images(tmp_path: Path, real_root: str) -> None:
    source = [f"--data.root={real_root}", "--data.source=fashion_mnist"]
    main(["fit", "--config", str(CONFIGS / "fashion_mnist.yaml"), *source, *SHORT[3:]])
    log_dir = tmp_path / "lightning_logs" / "fashion_mnist" / "version_0"
    assert [len(pictures(log_dir)[f"gradcam/network.relu{n}"]) for n in (1, 2, 3)] == [2, 2, 2]
    assert "data: fashion_mnist" in (log_dir / "hparams.yaml").read_text()
    probes = Archive.open(log_dir / "gradcam").probes
    real = FashionMNIST(real_root, train=True, download=False)
    shown = {picture[:, :, 0].tobytes() for picture in probes.pixels}
    assert shown <= {bytes(image.numpy().tobytes()) for image in real.data}, "display pixels are the files' own"


def test_the_network_is_the_tutorials() -> None:
    network = FashionMNISTClassifier().network
    assert [type(layer).__name__ for layer in network] == ["Conv2d", "ReLU"] * 3 + ["Flatten", "Linear"]
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.padding) for c in convolutions] == [
        (channels, (3, 3), "same") for channels in (48, 32, 16)
    ]
    assert FashionMNISTClassifier().configure_optimizers().param_groups[0]["lr"] == 1e-3


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by name; `cut` sends half of each and hangs up."""

    files: dict[str, bytes]
    cut = False


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        data = self.server.files[self.path.strip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if self.server.cut else data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror on this machine with small files in the data set's format."""
    write_idx(tmp_path / "origin")
    files = {}
    for file in (tmp_path / "origin" / "FashionMNIST" / "raw").iterdir():
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped:
            zipped.write(file.read_bytes())
        files[f"{file.name}.gz"] = buffer.getvalue()
    server = Server(("127.0.0.1", 0), Handler)
    server.files = files
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    sums = [(name, hashlib.md5(files[name]).hexdigest()) for name, _ in FashionMNIST.resources]
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_missing_data_is_downloaded(tmp_path: Path, mirror: Server) -> None:
    data = FashionMNISTDataModule(root=str(tmp_path / "data"))
    data.prepare_data()
    data.setup("fit")
    assert data.data == "fashion_mnist"
    assert is_there(str(tmp_path / "data"))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["FashionMNIST"]
    assert len(data.train_set) + len(data.val_set) == 120


@pytest.mark.parametrize("source", ["auto", "fashion_mnist"])
def test_a_broken_download_leaves_nothing_behind(tmp_path: Path, mirror: Server, source: Any) -> None:
    mirror.cut = True
    data = FashionMNISTDataModule(root=str(tmp_path / "data"), source=source)
    if source == "fashion_mnist":
        with pytest.raises(FileNotFoundError, match=r"(?s)data\.root: no Fashion-MNIST in .*--data\.source drawn"):
            data.prepare_data()
    else:
        data.prepare_data()
        data.setup("fit")
        assert data.data == "drawn"
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashion_mnist_data.ANSWER_WITHIN", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        data = FashionMNISTDataModule(root=str(tmp_path / "data"))
        data.prepare_data()
    data.setup("fit")
    assert data.data == "drawn"
    assert not (tmp_path / "data").exists()
    assert socket.getdefaulttimeout() is None


def test_drawn_data_is_drawn_once_for_all_stages() -> None:
    data = FashionMNISTDataModule(source="drawn")
    data.setup("fit")
    before = data.train_set
    data.setup("test")
    assert data.train_set is before
    assert isinstance(data.test_set, DrawnGarments)


@pytest.mark.parametrize("options", [{"source": "web"}, {"val_fraction": 0}, {"val_fraction": 1.0}])
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got {next(iter(options.values()))!r}"):
        FashionMNISTDataModule(**options)


def test_the_confusion_matrix_is_a_picture() -> None:
    picture = confusion_picture(torch.eye(10), list(CLASS_NAMES))
    assert picture.dtype == np.uint8
    assert picture.shape == (700, 800, 3)
    assert (picture < 100).mean() > 0.01


@pytest.mark.slow
def test_everything_that_the_tutorials_show_from_one_configuration(tmp_path: Path) -> None:
    config = CONFIGS / "fashion_mnist_everything.yaml"
    main(["fit", f"--config={config}", "--data.source=drawn", *SHORT, "--trainer.callbacks.gradients=true"])
    folder = tmp_path / "lightning_logs" / "fashion_mnist" / "version_0"
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    layers = ("network.relu1", "network.relu2", "network.relu3")
    assert {f"{name}/{layer}" for name in ("features", "gradcam") for layer in layers} <= set(events.Tags()["images"])
    assert {f"gradcam_{what}/{layer}" for what in ("gradients", "weights") for layer in layers} <= set(
        events.Tags()["histograms"]
    )
    archive = Archive.open(folder / "gradcam")
    assert archive.targets == ("predicted", "6", "7")
    assert archive.record(-1).gradients["network.relu3", "6"].channels.shape == (10, 8)
    assert archive.record(-1).likeliest.shape == (10, 10)
    assert Archive.open(folder / "features").channels("network.relu1").shape == (2, 2, 48, 28, 28)
    # Due in the fifth epoch, which this run has not.
    assert Archive.open(folder / "patterns").steps == ()
    assert [path.name for path in folder.glob("*/report.html")]

"""`fit`, `validate` and `test` for any module."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lightning_gradcam import Archive
from lightning_gradcam.cli import main
from tests.cli.tiny import CONFIG, config
from tests.plain_module import plain_module

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Calls the command in a process of its own, in `folder`, from which alone modules are found."""
    code = "import sys; from lightning_gradcam.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # As a console script has it: not the current folder, but that of the script, comes first.
    environment["PYTHONSAFEPATH"] = "1"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_fit_validate_and_test_of_any_module(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = config(tmp_path)
    assert main(["fit", "--config", file, "--trainer.max_epochs", "2", "--trainer.callbacks.num_probes=6"]) == 0
    version = tmp_path / "logs" / "tiny" / "version_0"
    archive = Archive.open(version / "gradcam")
    assert archive.epochs == (0, 1)
    assert len(archive.probes) == 6
    assert f"lightning-gradcam: record: {version}/gradcam" in caplog.messages
    (checkpoint,) = (version / "checkpoints").iterdir()
    assert "width: 4" in (version / "config.yaml").read_text()
    for number, command in ((1, "validate"), (2, "test")):
        assert main([command, "--config", file, "--ckpt_path", str(checkpoint)]) == 0
        again = Archive.open(tmp_path / "logs" / "tiny" / f"version_{number}" / "gradcam")
        assert [again.record(0).stage, *again.layers] == [command, "net.relu1"]
        # Probes and weights are those that the checkpoint was saved with, after the last epoch.
        assert again.probes.fingerprint == archive.probes.fingerprint
        np.testing.assert_allclose(again.maps("net.relu1")[0], archive.maps("net.relu1")[1], rtol=1e-3, atol=1e-6)


def test_the_configuration_is_saved_beside_another_and_not_over_it(tmp_path: Path) -> None:
    text = CONFIG.replace("name: tiny", "name: tiny, version: same")
    for _ in range(2):
        assert main(["fit", "--config", config(tmp_path, text), "--trainer.callbacks=null"]) == 0
    saved = sorted((tmp_path / "logs" / "tiny" / "same").glob("config*"))
    assert [file.name for file in saved] == ["config.yaml", "config_1.yaml"]


def test_without_a_logger_no_configuration_is_left_in_the_current_folder(tmp_path: Path) -> None:
    assert main(["fit", "--config", config(tmp_path), "--trainer.logger=false"]) == 0
    assert not (tmp_path / "config.yaml").exists()
    assert Archive.open(tmp_path / "gradcam_runs" / "0" / "gradcam").epochs == (0,)


def test_print_config_stops_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", config(tmp_path), "--trainer.max_epochs=7", "--print_config"]) == 0
    said = capsys.readouterr().out
    assert "max_epochs: 7" in said
    assert "class_path: tests.cli.tiny.Module" in said
    assert "lightning-gradcam: logged" not in said
    assert not (tmp_path / "logs").exists()


def test_the_callbacks_bare_name_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace("lightning_gradcam.GradCAMCallback", "GradCAMCallback")
    assert main(["fit", "--config", config(tmp_path, text), "--print_config"]) == 0
    assert "lightning_gradcam" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "model"),
        (["--model=tests.cli.tiny.Module", "--trainer.epochs=3"], "trainer.epochs"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model=tests.cli.tiny.Nothing"], "Nothing"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) < 20, "no screen of options before the error"


def test_a_configuration_of_a_script_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(ROOT / "configs" / "fashion_mnist.yaml")]) == 1
    assert "has a model's options but not its class" in capsys.readouterr().err


def test_errors_of_ours_and_missing_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path)
    assert main(["fit", "--config", file, "--trainer.callbacks.layers=net.relu9"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lightning-gradcam: layers: layer 'net.relu9' not found; did you mean 'net.relu")
    assert main(["fit", "--config", file, "--data.missing=nowhere.bin"]) == 1
    error = capsys.readouterr().err
    assert "lightning-gradcam: FileNotFoundError: " in error
    assert "Traceback" not in error
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "fit", "--config", file, "--data.missing=nowhere.bin"])


def test_what_lightning_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace("class_path: tests.cli.tiny.Data", "class_path: tests.cli.tiny.Empty")
    assert main(["fit", "--config", config(tmp_path, text)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lightning-gradcam: MisconfigurationException: `train_dataloader` must be implemented")


def test_errors_of_the_users_own_code_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        main(["fit", "--config", config(tmp_path), "--data=tests.cli.tiny.Broken"])


def test_an_interrupt_is_130(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Lightning ignores further interrupts from there on.
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(["fit", "--config", config(tmp_path), "--data=tests.cli.tiny.Interrupted"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err.endswith("lightning-gradcam: interrupted\n")


def test_help_is_ours_and_all_options_are_a_word_away(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "validate", "test"):
        assert main([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert f"lightning-gradcam {command} --config config.yaml" in said
        assert "--help-all" in said
        assert "exit codes: 0 done" in said
    assert main(["fit", "--help-all"]) == 0
    assert "--trainer.limit_train_batches" in capsys.readouterr().out


@pytest.mark.slow
def test_jsonargparse_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "jsonargparse.py").write_text("raise ImportError('none here')")
    done = run(tmp_path, "fit", "--config", config(tmp_path))
    assert done.returncode == 1
    assert 'pip install "lightning-gradcam[cli]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_a_module_in_the_current_folder_of_either_lightning(tmp_path: Path, namespace: str) -> None:
    if namespace.startswith("lightning."):
        pytest.importorskip("lightning", reason="the package `lightning` is not installed")
    (tmp_path / "own_file.py").write_text(plain_module(namespace))
    text = CONFIG.replace("tests.cli.tiny", "own_file").replace("pytorch_lightning.", f"{namespace}.")
    text = text.replace("net.relu1", "net.1")
    done = run(tmp_path, "fit", "--config", config(tmp_path, text))
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stderr.splitlines()[-2:]
    assert last[1].startswith("lightning-gradcam: record: ")
    assert last[0] == "lightning-gradcam: logged net.1 at 1 step"
    assert Archive.open(tmp_path / "logs" / "tiny" / "version_0" / "gradcam").epochs == (0,)
    # The same without training, and without a word of Lightning's.
    done = run(tmp_path, "layers", "--config", str(tmp_path / "tiny.yaml"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "* net.1 " in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_130(tmp_path: Path) -> None:
    # As in a terminal, also where the tests themselves run in the background, which ignores the signal.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from lightning_gradcam.cli import main; sys.exit(main())"
    file = config(tmp_path)
    command = [sys.executable, "-c", code, "fit", "--config", file, "--trainer.max_epochs=100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    steps = tmp_path / "logs" / "tiny" / "version_0" / "gradcam" / "steps"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and not (steps.is_dir() and any(steps.iterdir())):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error[-3000:]
    assert out == "" or "lightning-gradcam:" not in out
    assert error.count("lightning-gradcam: record:") == 1
    assert error.endswith("lightning-gradcam: interrupted\n")
    assert Archive.open(tmp_path / "logs" / "tiny" / "version_0" / "gradcam").epochs[0] == 0


@pytest.mark.slow
def test_two_processes_say_where_the_record_is_once(tmp_path: Path) -> None:
    script = tmp_path / "lightning_gradcam_script.py"
    script.write_text(
        "import sys\nfrom torch import distributed\nfrom lightning_gradcam.cli import main\ncode = main()\n"
        "print('left a group:', distributed.is_initialized())\nsys.exit(code)\n"
    )
    command = [sys.executable, str(script), "fit", "--config", config(tmp_path)]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("lightning-gradcam: record:") == 1
    # Else, gloo's threads abort some processes at their end: exit code 134 after a complete run.
    assert done.stdout.count("left a group: False") == 2


def test_a_saved_configuration_can_be_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, CONFIG.replace("layers: [net.relu1]", "layers: [net.relu1], targets: [predicted, label]"))
    assert main(["fit", "--config", file]) == 0
    version = tmp_path / "logs" / "tiny" / "version_0"
    saved = str(version / "config.yaml")
    for command in ("fit", "test"):
        assert main([command, "--config", saved]) == 0
    assert Archive.open(tmp_path / "logs" / "tiny" / "version_2" / "gradcam").targets == ("predicted", "label")
    capsys.readouterr()
    assert main(["fit", "--config", saved, "--print_config"]) == 0
    assert "targets:\n" in capsys.readouterr().out
    assert main(["replay", str(version / "checkpoints"), "-o", "again"]) == 0
    assert Archive.open(tmp_path / "again" / "gradcam").targets == ("predicted", "label")


def test_a_file_that_has_lost_an_option_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", config(tmp_path), "--trainer.callbacks.evolution=false"]) == 0
    version = tmp_path / "logs" / "tiny" / "version_0"
    text = (version / "config.yaml").read_text()
    # As 0.1.0 wrote it.
    lost = text.replace("output_key: null", "output_key: Unable to serialize instance logits")
    assert lost != text
    (version / "config.yaml").write_text(lost)
    capsys.readouterr()
    for command in (["fit", "--config", str(version / "config.yaml")], ["replay", str(version / "checkpoints")]):
        assert main(command) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(
            "lightning-gradcam: output_key: got 'Unable to serialize instance logits', the text that"
        )
        assert "write output_key: logits in that file" in line


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (
            "num_probe=3",
            "GradCAMCallback has no option 'num_probe'; did you mean 'num_probes' or 'probes' or 'numbers'?",
        ),
        ("drawing.colormp=Reds", "GradCAMCallback has no option 'drawing.colormp'; did you mean 'drawing.colormap'"),
        ("score=logits", "GradCAMCallback: score: expected typing.Literal['logit', 'probability', 'sigmoid']"),
        ("wibble=1", "GradCAMCallback has no option 'wibble'; options are layers, methods, "),
    ],
)
def test_a_mistyped_option_ends_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    assert main(["fit", "--config", config(tmp_path), f"--trainer.callbacks.{argument}"]) == 2
    error = capsys.readouterr().err
    assert f"error: {said}" in error
    assert len(error.splitlines()) <= 3
    # The same in a file, before anything is trained, and where nothing is.
    file = config(tmp_path, CONFIG.replace("evolution: false", argument.replace("=", ": ").replace(".", "_")))
    assert main(["layers", "--config", file]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_values_that_can_not_work_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argument, said in (
        ("targets=labels", "targets: got 'labels'; pass 'predicted', 'label', "),
        ("drawing.colormap=Redz", "drawing.colormap: 'Redz' not found; did you mean 'Reds'?"),
    ):
        assert main(["fit", "--config", config(tmp_path), f"--trainer.callbacks.{argument}"]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"lightning-gradcam: {said}")


def test_the_bare_name_is_found_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, CONFIG.partition("  callbacks:")[0])
    assert main(["fit", "--config", file, "--trainer.callbacks+=GradCAMCallback", "--print_config"]) == 0
    assert "class_path: lightning_gradcam.GradCAMCallback" in capsys.readouterr().out
    assert main(["fit", "--config", file, "--trainer.callbacks+=GradCAMCalback"]) == 2
    assert "no callback 'GradCAMCalback'; did you mean 'GradCAMCallback'?" in capsys.readouterr().err

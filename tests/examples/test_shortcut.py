"""The example of a network that cheats: what its pictures hold, and that maps and alarm tell its two runs apart."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_garments import CLASS_NAMES, DrawnGarments
from PIL import Image
from shortcut import MIN_ENERGY_INSIDE, RUNS, Outcome, TagClassifier, main, summary
from shortcut_data import COLOURS, MARGIN, SIDE, TAG_SIDE, Marked, Tag, TaggedGarments
from torchvision.transforms import ToTensor

from lightning_gradcam import Archive, ProbeSet

KINDS: tuple[Tag, ...] = ("class", "random", "none")


@pytest.fixture(scope="module")
def pictures() -> dict[Tag, TaggedGarments]:
    return {tag: TaggedGarments(False, tag, count=400, seed=3) for tag in KINDS}


def pixels(data: TaggedGarments, index: int) -> np.ndarray:
    return np.asarray(data[index][0])


def test_the_tag_has_the_colour_of_the_class_or_any(pictures: dict[Tag, TaggedGarments]) -> None:
    labels = pictures["class"].dataset.targets.numpy()
    for tag in ("class", "random"):
        data = pictures[tag]
        for index in range(len(data)):
            found = pixels(data, index)[data.tag_mask(index)]
            assert (found == COLOURS[data.colours[index]]).all()
    np.testing.assert_array_equal(pictures["class"].colours, labels)
    # Of ten colours one in ten is that of the class by chance: 40 of 400, with a standard deviation of 6.
    same = int((pictures["random"].colours == labels).sum())
    assert 16 < same < 64
    per_class = [np.bincount(pictures["random"].colours[labels == label], minlength=10) for label in range(10)]
    assert min(np.count_nonzero(counts) for counts in per_class) >= 8


def test_the_kinds_differ_in_the_tags_alone(pictures: dict[Tag, TaggedGarments]) -> None:
    for index in range(0, 400, 7):
        beside = ~pictures["class"].tag_mask(index)
        images = [pixels(pictures[tag], index) for tag in KINDS]
        assert all(np.array_equal(image[beside], images[2][beside]) for image in images)
        assert all(np.array_equal(pictures[tag].tag_mask(index), ~beside) for tag in KINDS)
        assert not images[2][~beside].any()
        assert {pictures[tag][index][1] for tag in KINDS} == {int(pictures["none"].dataset.targets[index])}


def test_garments_are_those_that_are_drawn_without_tags(pictures: dict[Tag, TaggedGarments]) -> None:
    drawn = DrawnGarments(train=False, count=400, seed=3)
    for index in (0, 17, 399):
        inner = pixels(pictures["class"], index)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        assert np.array_equal(inner, np.repeat(np.asarray(drawn[index][0])[..., None], 3, axis=2))


def test_masks_lie_on_what_they_name_and_apart(pictures: dict[Tag, TaggedGarments]) -> None:
    data = pictures["none"]
    for index in range(len(data)):
        garment, telling, tag = data.probe_mask(index), data.telling_mask(index), data.tag_mask(index)
        assert garment.shape == telling.shape == tag.shape == (SIDE, SIDE)
        assert garment.dtype == telling.dtype == tag.dtype == np.bool_
        np.testing.assert_array_equal(garment, pixels(data, index).any(axis=2))
        assert int(tag.sum()) == TAG_SIDE**2
        assert not (tag & (garment | telling)).any()
        rows, columns = np.nonzero(tag)
        nearest = min(rows.min(), columns.min(), SIDE - 1 - rows.max(), SIDE - 1 - columns.max())
        assert nearest <= MARGIN - TAG_SIDE


def test_tags_are_at_all_four_sides_whatever_the_class(pictures: dict[Tag, TaggedGarments]) -> None:
    data = pictures["class"]
    middle = data.corners + (TAG_SIDE - SIDE) / 2
    assert all(np.count_nonzero(half) > 100 for half in ((middle < 0)[:, 0], (middle > 0)[:, 0]))
    assert all(np.count_nonzero(half) > 100 for half in ((middle < 0)[:, 1], (middle > 0)[:, 1]))
    assert (data.corners.min(), data.corners.max()) == (0, SIDE - TAG_SIDE)
    labels = data.dataset.targets.numpy()
    assert all(len(np.unique(data.corners[labels == label], axis=0)) > 20 for label in range(10))


def test_a_seed_gives_the_same_pictures_and_training_has_others() -> None:
    first, again = (TaggedGarments(True, "random", count=60, seed=1) for _ in range(2))
    assert all(np.array_equal(pixels(first, index), pixels(again, index)) for index in range(60))
    for other in (TaggedGarments(True, "random", count=60, seed=2), TaggedGarments(False, "random", count=60, seed=1)):
        assert not np.array_equal(first.corners, other.corners)
        assert not np.array_equal(first.colours, other.colours)


def test_colours_are_far_apart() -> None:
    palette = np.array(COLOURS, float)
    apart = np.linalg.norm(palette[:, None] - palette[None], axis=2)[~np.eye(len(COLOURS), dtype=bool)]
    assert len(COLOURS) == len(CLASS_NAMES)
    assert apart.min() > 60
    # Garments are grey: no tag may be.
    assert np.ptp(palette, axis=1).min() > 100


def test_items_are_what_the_other_data_sets_give() -> None:
    picture, label = TaggedGarments(count=20)[4]
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))
    assert type(label) is int
    tensor, _ = TaggedGarments(count=20, transform=ToTensor())[4]
    assert tensor.shape == (3, SIDE, SIDE)
    assert float(tensor.max()) <= 1


def test_a_tag_that_is_none_of_the_three_is_named() -> None:
    with pytest.raises(ValueError, match=r"tag: got 'label'; valid: 'class', 'random' and 'none'"):
        TaggedGarments(tag="label", count=10)  # type: ignore[arg-type]


def test_probes_find_everything_through_the_wrapper(pictures: dict[Tag, TaggedGarments]) -> None:
    data = TaggedGarments(False, "class", count=400, seed=3, transform=ToTensor())
    probes = ProbeSet.from_dataset(data, 10, seed=1)
    assert probes.labels is not None
    assert probes.masks is not None
    assert probes.labels.tolist() == list(range(10))
    assert probes.class_names == CLASS_NAMES
    assert probes.note == "drawn data (not photographs)"
    for row, index in enumerate(probes.indices or ()):
        np.testing.assert_array_equal(probes.masks[row].numpy(), data.probe_mask(index))
        np.testing.assert_array_equal(probes.pixels[row], pixels(pictures["class"], index))


@dataclass(frozen=True)
class Runs:
    out: Path
    outcomes: dict[str, Outcome]
    printed: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Both runs, shorter than the example's own; what is printed has the warnings among it."""
    out = tmp_path_factory.mktemp("shortcut") / "runs"
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *where: print(f"warning: {message}", file=printed)
        outcomes = main(["--out", str(out), "--epochs=4", "--train=800", "--validation=300", "--seed=1"])
    return Runs(out, outcomes, printed.getvalue())


@pytest.mark.slow
def test_accuracy_looks_fine_until_the_tags_are_changed(runs: Runs) -> None:
    cheating, fixed = (runs.outcomes[name].accuracy for name in RUNS)
    assert cheating["class"] > 0.75
    assert cheating["class"] > fixed["class"] + 0.2
    assert cheating["random"] < 0.3
    assert cheating["none"] < cheating["class"] - 0.3
    assert fixed["class"] > 0.35
    assert max(fixed.values()) - min(fixed.values()) < 0.08


@pytest.mark.slow
def test_maps_show_the_cheat(runs: Runs) -> None:
    cheating, fixed = (runs.outcomes[name] for name in RUNS)
    assert fixed.energy["garment"] > 2 * cheating.energy["garment"]
    assert fixed.energy["telling"] > 1.5 * cheating.energy["telling"]
    assert cheating.energy["tag"] > 5 * fixed.energy["tag"]
    assert len(cheating.on_garment) == len(fixed.on_garment) == 4
    assert max(cheating.on_garment) < MIN_ENERGY_INSIDE < min(fixed.on_garment)


@pytest.mark.slow
def test_the_alarm_is_raised_by_the_cheating_run_alone(runs: Runs) -> None:
    cheating, fixed = runs.printed.split("Training the fixed run")
    assert cheating.count(f"min_energy_inside={MIN_ENERGY_INSIDE}: in epoch 0") == 1
    assert "min_energy_inside" not in fixed


@pytest.mark.slow
def test_the_first_finding_of_the_cheating_run_is_the_shortcut(runs: Runs) -> None:
    cheating, fixed = (Archive.open(runs.outcomes[name].archive) for name in RUNS)
    first = cheating.findings[0]
    assert (first.kind, first.severity, first.layer, first.epochs) == ("shortcut", "high", "network.relu2", (3,))
    assert "have their strongest evidence at the border of the image, mostly outside their masks" in first.text
    assert (first.figures["n"], first.figures["border"]) == (10, 1)
    assert len(first.probes) >= 8
    assert "shortcut" not in {finding.kind for finding in fixed.findings}
    assert first.text in (Path(cheating.path) / "findings.md").read_text()


@pytest.mark.slow
def test_both_runs_explain_the_same_probes(runs: Runs) -> None:
    archives = [Archive.open(runs.outcomes[name].archive) for name in RUNS]
    assert [Path(archive.path) for archive in archives] == [runs.out / name / "gradcam" for name in RUNS]
    assert archives[0].probes.fingerprint == archives[1].probes.fingerprint
    assert archives[0].layers == archives[1].layers == ("network.relu2",)
    assert archives[0].steps == archives[1].steps
    seen = TaggedGarments(False, "class", count=300, seed=1, transform=ToTensor())
    stacked = torch.stack([seen[index][0] for index in archives[1].probes.indices or ()])
    assert torch.equal(archives[1].probes.inputs, stacked)


@pytest.mark.slow
def test_the_script_ends_with_the_numbers_and_what_to_run_next(runs: Runs) -> None:
    assert summary(runs.outcomes, runs.out) in runs.printed
    rows = {line.split()[0]: line.split()[1:] for line in runs.printed.splitlines() if line[:8].strip() in RUNS}
    for name, outcome in runs.outcomes.items():
        numbers = [*outcome.accuracy.values(), *outcome.energy.values()]
        assert rows[name] == [f"{number:.2f}" for number in numbers]
    folders = " ".join(str(runs.out / name / "gradcam") for name in RUNS)
    assert f"lightning-gradcam report {folders} -o {runs.out / 'shortcut.html'}" in runs.printed
    assert f"tensorboard --logdir {runs.out}" in runs.printed


@pytest.mark.slow
def test_runs_that_are_there_are_kept(tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "runs"), "--epochs=1", "--train=64", "--validation=20"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [main(options)["fixed"].archive for _ in range(2)]
    assert [Path(path).parents[1].name for path in found] == ["runs", "runs_1"]
    assert all(len(Archive.open(path).steps) == 1 for path in found)


def test_the_network_keeps_its_maps_at_half_the_resolution() -> None:
    network = TagClassifier().eval().network
    assert network[:6](torch.zeros(2, 3, SIDE, SIDE)).shape == (2, 32, SIDE // 2, SIDE // 2)


def attended(*options: str) -> dict[str, Outcome]:
    """What the example returns with `--attend`, and that it names the run."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed := io.StringIO()):
        warnings.simplefilter("ignore")
        outcomes = main([*options, "--attend"])
    assert list(outcomes) == [*RUNS, "attending"]
    assert outcomes["attending"].archive in printed.getvalue()
    return outcomes


@pytest.mark.slow
def test_the_attending_run_does_without_the_tags(tmp_path: Path) -> None:
    outcomes = attended("--out", str(tmp_path / "runs"), "--epochs=3", "--train=600", "--validation=200")
    cheating, attending = outcomes["cheating"], outcomes["attending"]
    assert attending.energy["garment"] > cheating.energy["garment"] + 0.2
    assert cheating.accuracy["class"] - cheating.accuracy["random"] > 0.3
    assert abs(attending.accuracy["class"] - attending.accuracy["random"]) < 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
def test_the_attending_run_learns_the_garments(tmp_path: Path, seed: int) -> None:
    """The figures of docs/attention_loss.md."""
    outcomes = attended("--out", str(tmp_path / "runs"), f"--seed={seed}")
    attending, honest = outcomes["attending"], outcomes["fixed"]
    assert attending.energy["garment"] >= 0.5
    assert attending.accuracy["random"] >= 0.7 * honest.accuracy["random"]


def test_masks_for_the_loss_are_false_at_the_tag_and_around_it() -> None:
    data = TaggedGarments(True, "class", count=40, seed=2, transform=ToTensor())
    marked = Marked(data, surroundings=2)
    assert len(marked) == 40
    for index in range(40):
        image, label, mask = marked[index]
        assert torch.equal(image, data[index][0])
        assert label == data[index][1]
        row, column = data.corners[index]
        rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE)
        near = [(at >= first - 2) & (at < first + TAG_SIDE + 2) for at, first in ((rows, row), (columns, column))]
        np.testing.assert_array_equal(~mask.numpy(), near[0] & near[1])

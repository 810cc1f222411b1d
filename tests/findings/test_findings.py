"""Each kind of finding where it must be found, and where it must not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_gradcam import Archive, Finding
from lightning_gradcam.archive import cam_file
from lightning_gradcam.findings import FINDINGS, KINDS, brief, write_findings
from lightning_gradcam.record.blank import Cause
from lightning_gradcam.record.finding import SEVERITIES
from tests.findings.planted import COUNT, SIDE, SPREAD, Maps, planted, spot, spots

OTHERS = tuple((across, down) for down, across in SPREAD)
NAN = float("nan")


def kinds(archive: Archive) -> set[str]:
    return {finding.kind for finding in archive.findings}


def the(archive: Archive, kind: str) -> Finding:
    (found,) = (finding for finding in archive.findings if finding.kind == kind)
    return found


def between(one: Maps, other: Maps, share: float) -> Maps:
    return (1 - share) * one + share * other


def masks_of(*places: tuple[float, float]) -> Any:
    """A box of a quarter of the height and width around each place, 24x24."""
    found = np.zeros((len(places), 24, 24), np.bool_)
    for mask, (down, across) in zip(found, places, strict=True):
        top, left = round(24 * down) - 3, round(24 * across) - 3
        mask[top : top + 6, left : left + 6] = True
    return found


# ---- moves


def test_the_epoch_of_the_largest_move_and_the_one_of_the_last(tmp_path: Path) -> None:
    before, after = spots(*SPREAD), spots(*[(0.5, 0.15), (0.8, 0.5), (0.2, 0.3), (0.3, 0.8), (0.8, 0.2), (0.8, 0.8)])
    shares = (0, 0.1, 0.2, 0.95, 1, 1, 1)
    archive = planted(tmp_path, [between(before, after, share) for share in shares])
    moved, settled = the(archive, "moved_most"), the(archive, "settled")
    assert (moved.epochs, moved.layer, moved.method, moved.severity) == ((3,), "conv", "gradcam", "low")
    assert moved.figures["n"] == COUNT
    np.testing.assert_allclose(moved.figures["drift"], archive.numbers("conv")["drift"][3].mean(), rtol=1e-6)
    assert moved.text.startswith("The maps of layer 'conv' moved most in epoch 3: mean drift 0.")
    assert settled.epochs == (3,)
    assert (settled.figures["n"], settled.figures["steps"]) == (COUNT, 3)


def test_settled_maps_are_those_of_the_probes_that_were_compared(tmp_path: Path) -> None:
    maps = spots(*SPREAD)
    first = maps.copy()
    first[2] *= -1
    found = the(planted(tmp_path, [first, maps, maps, maps, maps]), "settled")
    assert (found.epochs, found.figures["n"], found.probes) == ((0,), COUNT - 1, tuple("01345"))
    assert f"({COUNT - 1} of {COUNT} probes)" in found.text


def test_maps_that_stay_did_not_move_and_are_settled_from_the_first(tmp_path: Path) -> None:
    maps = spots(*SPREAD)
    archive = planted(tmp_path, [maps * scale for scale in (1, 2, 3, 4)])
    assert "moved_most" not in kinds(archive)
    assert the(archive, "settled").epochs == (0,)


def test_maps_that_creep_away_are_not_settled(tmp_path: Path) -> None:
    """Each step is close to the one before, and the first ones are far from the last."""
    places = np.linspace(0.2, 0.8, 40)
    archive = planted(tmp_path, [np.stack([spot(place, 0.5, wide=2)] * COUNT) for place in places])
    drift = archive.numbers("conv")["drift"]
    assert np.nanmax(drift) < 0.05
    row = the(archive, "settled").epochs[0]
    far = archive.numbers("conv")["drift_to_last"].mean(axis=1)
    assert far[row] <= 0.05 < far[row - 1]
    assert row > 20


@pytest.mark.parametrize("thin", ["steps", "probes"])
def test_few_steps_or_probes_say_nothing_of_moves(tmp_path: Path, thin: str) -> None:
    before, after = spots(*SPREAD), spots(*OTHERS)[::-1]
    count = 2 if thin == "probes" else COUNT
    steps = [before, after] if thin == "steps" else [before, before, after, after, after, after, after]
    assert kinds(planted(tmp_path, [maps[:count] for maps in steps])) == set()


def test_the_untrained_model_and_several_steps_of_an_epoch_are_named(tmp_path: Path) -> None:
    before, after = spots(*SPREAD), spots(*[(0.8, 0.8)] * 3, *[(0.2, 0.2)] * 3)
    archive = planted(tmp_path, [before, after, after, after], epochs=[-1, 0, 0, 1])
    assert "moved most in epoch 0 (step 10): mean drift" in the(archive, "moved_most").text
    assert "from the untrained model, 6 of 6 probes." in the(archive, "moved_most").text


@pytest.mark.parametrize(("begin", "end", "kind"), [(0, 1, "moved_out"), (1, 0, "moved_in")])
def test_evidence_that_crosses_the_masks(tmp_path: Path, begin: int, end: int, kind: str) -> None:
    inside, outside = spots(*SPREAD), spots(*[(0.15, 0.85)] * COUNT)
    outside[4:] = inside[4:]
    shares = [begin] * 3 + [end] * 4
    archive = planted(tmp_path, [between(inside, outside, share) for share in shares], masks=masks_of(*SPREAD))
    found = the(archive, kind)
    assert (found.probes, found.epochs) == (("0", "1", "2", "3"), (3,))
    assert (found.figures["n"], found.figures["count"]) == (6, 4)
    low, high = sorted([found.figures["inside_before"], found.figures["inside_after"]])
    assert low < 0.05
    assert high > 0.6
    assert f"For 4 of 6 probes, the evidence moved {'into' if begin else 'out of'} the mask in epoch 3" in found.text
    assert not kinds(archive) & ({"moved_in", "moved_out"} - {kind})


def test_evidence_that_stays_crosses_no_mask_and_one_probe_is_too_few(tmp_path: Path) -> None:
    inside, outside = spots(*SPREAD), spots(*[(0.15, 0.85)] * COUNT)
    for name, moving in (("none", 0), ("one", 1)):
        end = np.concatenate([outside[:moving], inside[moving:]])
        archive = planted(tmp_path / name, [inside, inside, end, end], masks=masks_of(*SPREAD))
        assert not kinds(archive) & {"moved_in", "moved_out"}


LOSS = (2.0, 1.5, 1.0, 0.8, 0.79, 0.785, 0.78, 0.78)


def jumping(path: Path, row: int, loss: tuple[float, ...] = LOSS, name: str = "val_loss") -> Archive:
    before, after = spots(*SPREAD), spots(*[(0.8, 0.2)] * 3, *[(0.2, 0.8)] * 3)
    shares = [0.01 * place if place < row else 1 for place in range(len(loss))]
    metrics = [{name: value, "val_accuracy": 0.5} for value in loss]
    return planted(path, [between(before, after, share) for share in shares], metrics=metrics)


def test_a_late_jump_while_the_loss_stands_still(tmp_path: Path) -> None:
    found = the(jumping(tmp_path, 5), "late_jump")
    assert (found.epochs, found.probes, found.severity) == ((5,), tuple("012345"), "medium")
    assert (found.figures["loss_before"], found.figures["loss"]) == (0.79, 0.785)
    assert found.figures["drift"] > 10 * found.figures["drift_before"]
    assert "while val_loss stayed flat (0.79, then 0.785)" in found.text


@pytest.mark.parametrize(
    ("row", "loss", "name"),
    [
        (2, (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0), "val_loss"),  # early
        (5, (2.0, 1.5, 1.0, 0.8, 0.79, 0.5, 0.4, 0.3), "val_loss"),  # the loss falls with it
        (5, (2.0, 1.5, 1.0, 0.8, 0.79, NAN, 0.78, 0.78), "val_loss"),  # it is not known there
        (5, LOSS, "train_loss"),
        (9, LOSS, "val_loss"),  # no jump
    ],
)
def test_no_late_jump(tmp_path: Path, row: int, loss: tuple[float, ...], name: str) -> None:
    assert "late_jump" not in kinds(jumping(tmp_path, row, loss, name))


# ---- places

CORNER = ((0.12, 0.85), (0.15, 0.9), (0.2, 0.88), (0.1, 0.8), (0.15, 0.85), (0.5, 0.5))
BORDER = ((0.05, 0.5), (0.5, 0.05), (0.95, 0.5), (0.5, 0.95), (0.05, 0.3), (0.5, 0.5))


def test_evidence_in_one_corner_is_a_shortcuts_mark(tmp_path: Path) -> None:
    found = planted(tmp_path, [spots(*CORNER)]).findings[0]
    assert (found.kind, found.severity, found.probes, found.epochs) == ("shortcut", "high", tuple("01234"), (0,))
    assert (found.figures["n"], found.figures["count"], found.figures["border"]) == (6, 5, 0)
    assert "5 of 6 probes have their strongest evidence in the top right corner of the image" in found.text
    assert "probes 0, 1, 2, 3, 4" in found.text


def test_evidence_at_the_border_is_one_too(tmp_path: Path) -> None:
    found = planted(tmp_path, [spots(*BORDER)]).findings[0]
    assert (found.kind, found.figures["border"]) == ("shortcut", 1)
    assert "5 of 6 probes have their strongest evidence at the border of the image (" in found.text


def test_no_shortcut_where_evidence_is_elsewhere_even_or_few(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = generator.random((COUNT, SIDE, SIDE)).astype(np.float32)
    coarse = np.zeros((COUNT, 4, 4), np.float32)
    coarse[:, 0, 0] = 1
    for name, maps in {
        "spread": spots(*SPREAD),
        "even": np.ones((COUNT, SIDE, SIDE), np.float32),
        "noise": noise,
        "half": np.concatenate([spots(*CORNER)[:3], spots(*SPREAD)[3:]]),
        "few": spots(*CORNER)[:4],
        "coarse": coarse,
        "blank": -spots(*CORNER),
    }.items():
        assert "shortcut" not in kinds(planted(tmp_path / name, [maps])), name


def test_objects_in_a_corner_are_no_shortcut(tmp_path: Path) -> None:
    corner = ((0.2, 0.8),) * COUNT
    assert "shortcut" not in kinds(planted(tmp_path / "inside", [spots(*corner)], masks=masks_of(*corner)))
    found = the(planted(tmp_path / "outside", [spots(*corner)], masks=masks_of(*SPREAD)), "shortcut")
    assert "mostly outside their masks" in found.text
    some = masks_of(*SPREAD)
    some[1:] = False
    found = the(planted(tmp_path / "one mask", [spots(*corner)], masks=some), "shortcut")
    assert found.probes == tuple("012345")
    assert "outside" not in found.text


def test_blank_maps_come_with_the_remedy(tmp_path: Path) -> None:
    maps = spots(*SPREAD)
    maps[:4] *= -1
    found = the(planted(tmp_path, [maps]), "blank")
    assert (found.probes, found.severity, found.figures["n"]) == (tuple("0123"), "high", 6)
    assert "In layer 'conv', epoch 0, 4 of 6 maps are blank (zero after the ReLU): " in found.text
    assert found.advice == "Use an earlier layer."


@pytest.mark.parametrize("thin", ["two of six", "two probes", "untrained"])
def test_a_few_blank_maps_are_no_finding(tmp_path: Path, thin: str) -> None:
    maps = spots(*SPREAD)
    maps[: 6 if thin == "untrained" else 2] *= -1
    archive = planted(tmp_path, [maps[:2] if thin == "two probes" else maps], epochs=[-1 if thin == "untrained" else 0])
    assert "blank" not in kinds(archive)


@pytest.mark.parametrize(("real", "found"), [(1, set()), (2, {"0", "1"})])
def test_maps_with_nothing_to_explain_are_not_counted_as_blank(tmp_path: Path, real: int, found: set[str]) -> None:
    maps = spots(*SPREAD)
    maps[:4] *= -1
    causes = [Cause.NO_GRADIENT] * real + [Cause.NO_SCORE] * (4 - real) + [Cause.SHOWN] * 2
    archive = planted(tmp_path, [maps], causes=causes)
    assert {probe for finding in archive.findings if finding.kind == "blank" for probe in finding.probes} == found
    if found:
        assert "2 of 4 maps are blank" in the(archive, "blank").text


def test_flat_maps_without_evidence_against_are_one_sided(tmp_path: Path) -> None:
    found = the(planted(tmp_path, [0.8 + 0.2 * spots(*SPREAD)]), "one_sided")
    assert (found.probes, found.figures["count"]) == (tuple("012345"), 6)
    assert "6 of 6 maps are positive everywhere" in found.text
    assert found.advice.startswith("Explain the difference between two classes")
    maps = 0.8 + 0.2 * spots(*SPREAD)
    maps[0, 0, 0] = -0.1
    nearly = the(planted(tmp_path / "nearly", [maps], classes={"predicted": [-1] * COUNT}), "one_sided")
    assert "6 of 6 maps are positive nearly everywhere and" in nearly.text
    assert nearly.advice == "Use an earlier layer.", "a regression has no classes to compare"
    for name, maps in {
        "signed": spots(*SPREAD) - 0.2,
        "focused": spots(*SPREAD) + 1e-3,
        "half": np.concatenate([0.8 + 0.2 * spots(*SPREAD)[:3], spots(*SPREAD)[3:] - 0.2]),
        "few": 0.8 + 0.2 * spots(*SPREAD)[:2],
    }.items():
        assert "one_sided" not in kinds(planted(tmp_path / name, [maps])), name


def of_classes(path: Path, other: Maps, classes: list[int], **options: Any) -> Archive:
    maps = spots(*SPREAD)
    explained = {"predicted": [0] * COUNT, "label": classes}
    return planted(path, [{"predicted": maps, "label": other}], classes=explained, **options)


def test_the_same_map_for_all_classes(tmp_path: Path) -> None:
    found = the(of_classes(tmp_path, 3 * spots(*SPREAD), [0, 1, 2, 3, 4, 5]), "same_for_classes")
    # The first probe's two classes are one.
    assert (found.probes, found.figures["n"], found.figures["pairs"]) == (tuple("12345"), 5, 5)
    assert "5 of 5 class pairs from 5 probes" in found.text


def test_maps_that_differ_by_class_or_may_not(tmp_path: Path) -> None:
    for name, other, classes, options in [
        ("differ", spots(*OTHERS)[::-1], [1] * 6, {}),
        ("one class", spots(*SPREAD), [0] * 6, {}),
        ("few", spots(*SPREAD), [0, 0, 0, 0, 1, 1], {}),
        ("no classes", spots(*SPREAD), [1] * 6, {"method": "eigencam"}),
        ("blank", -spots(*SPREAD), [1] * 6, {}),
    ]:
        assert "same_for_classes" not in kinds(of_classes(tmp_path / name, other, classes, **options)), name


# ---- predictions


def test_right_predictions_that_look_elsewhere(tmp_path: Path) -> None:
    maps = spots(*[(0.15, 0.85)] * 3, *SPREAD[3:])
    archive = planted(tmp_path, [maps], labels=[0, 0, 1, 0, 0, 0], masks=masks_of(*SPREAD))
    found = the(archive, "right_elsewhere")
    assert (found.probes, found.severity) == (("0", "1"), "high")
    assert (found.figures["n"], found.figures["count"]) == (5, 2)
    np.testing.assert_allclose(found.figures["area"], 1 / 16)
    assert found.text.startswith("2 of 5 correctly predicted probes look elsewhere: ")
    assert "wrong_inside" not in kinds(archive)


def test_wrong_predictions_that_look_at_the_right_place(tmp_path: Path) -> None:
    archive = planted(tmp_path, [spots(*SPREAD)], labels=[1, 1, 0, 0, 0, 0], masks=masks_of(*SPREAD))
    found = the(archive, "wrong_inside")
    assert (found.probes, found.severity) == (("0", "1"), "medium")
    assert (found.figures["n"], found.figures["wrong"], found.figures["count"]) == (6, 2, 2)
    assert "2 of 2 wrongly predicted probes (6 probes judged) look at the right place" in found.text
    assert "right_elsewhere" not in kinds(archive)


@pytest.mark.parametrize("missing", ["masks", "labels", "wrong", "probes", "target"])
def test_predictions_say_nothing_where_evidence_is_thin(tmp_path: Path, missing: str) -> None:
    maps = spots(*[(0.15, 0.85)] * 2, *SPREAD[2:])
    labels: Any = [0, 0, 1, 0, 0, 0] if missing == "wrong" else [0, 0, 1, 1, 0, 0]
    count = 2 if missing == "probes" else 6
    archive = planted(
        tmp_path,
        [{"3" if missing == "target" else "predicted": maps[:count]}],
        labels=None if missing == "labels" else labels[:count],
        masks=None if missing == "masks" else masks_of(*SPREAD)[:count],
    )
    wanted = {"right_elsewhere"} if missing == "wrong" else set()
    assert kinds(archive) & {"right_elsewhere", "wrong_inside"} == wanted


# ---- all of them


def test_the_most_severe_come_first_and_again_the_same(tmp_path: Path) -> None:
    start, end = spots(*SPREAD), spots(*CORNER)
    archive = planted(tmp_path, [start, start, end, end, end, end], masks=masks_of(*SPREAD))
    found = archive.findings
    assert found[0].kind == "shortcut"
    severities = [SEVERITIES.index(finding.severity) for finding in found]
    assert severities == sorted(severities)
    assert {"moved_out", "moved_most", "settled"} <= kinds(archive)
    assert all(finding.severity == KINDS[finding.kind].severity for finding in found)
    assert all(math.isfinite(value) for finding in found for value in finding.figures.values())
    assert all(finding.figures["n"] >= 3 for finding in found)
    assert archive.findings is found
    assert Archive.open(archive.path).findings == found
    assert brief(found) == [found[0].text, found[1].text]


def test_a_long_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = spots(*SPREAD), spots(*CORNER)
    archive = planted(tmp_path, [start] * 20 + [end] * 10)
    read: list[str] = []
    maps: list[int] = []
    unpacked, decoded = Archive._unpacked, cam_file._maps

    def noted(self: Archive, file: str, how: Any) -> Any:
        read.append(file)
        return unpacked(self, file, how)

    def counted(*args: Any) -> Any:
        maps.append(args[1])
        return decoded(*args)

    monkeypatch.setattr(Archive, "_unpacked", noted)
    monkeypatch.setattr(cam_file, "_maps", counted)
    assert "settled" in kinds(archive)
    assert sorted(read) == sorted(set(read))
    assert len(read) == 30
    # Those of the settled end, and of the step before it.
    assert len(maps) == 11
    assert archive.findings
    assert len(read) == 30


def test_findings_are_written_and_replaced(tmp_path: Path) -> None:
    archive = planted(tmp_path, [spots(*CORNER)])
    path = Path(archive.path) / FINDINGS
    path.write_text("old")
    found = write_findings(archive)
    text = path.read_text()
    assert f"## {KINDS['shortcut'].title} (high)" in text
    assert found[0].text in text
    assert f"- What to do: {found[0].advice}" in text
    assert "- Probes: 0, 1, 2, 3, 4" in text
    write_findings(planted(tmp_path / "none", [spots(*SPREAD)]))
    assert "No finding" in (tmp_path / "none" / "gradcam" / FINDINGS).read_text()
    assert {file.name for file in path.parent.iterdir()} == {"manifest.json", "probes.npz", "steps", FINDINGS}


def test_the_page_of_the_docs_has_every_kind_and_threshold() -> None:
    page = (Path(__file__).parents[2] / "docs" / "findings.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {kind.title} | {kind.severity} | {kind.threshold} |" for name, kind in KINDS.items()]

"""Tests of the viewer in a real browser: what canvases show, and what can be done by hand, key and link."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_gradcam import Drawing
from lightning_gradcam.render.drawing import lookup_table
from lightning_gradcam.render.overlay import heat
from lightning_gradcam.render.slices import Slices
from lightning_gradcam.render.tiles import draw_tiles
from lightning_gradcam.report import Payload
from tests.render.test_tiles import KEY
from tests.report.browser import Opened, Pixels
from tests.report.runs import garments, made
from tests.samples import probe_set, record

Open = Callable[..., Opened]
MINUS = "\N{MINUS SIGN}"
CANVAS = ".card:nth-of-type({card}) .cell.{kind} canvas"


def canvas(kind: str = "overlay", card: int = 1) -> str:
    return CANVAS.format(kind=kind, card=card)


# ---- pixels


# Maps [steps, N, h, w] whose largest values differ between steps and probes; a byte holds each without a rest.
TOPS = np.array([[1.0, 2.0], [4.0, 0.5]])
SHARES = (np.array([[0, 57, 80], [127, 114, 98]]) / 127) ** 2
MAPS = TOPS[:, :, None, None] * SHARES
PICTURES = np.random.default_rng(5).integers(0, 256, (2, 12, 9, 3)).astype(np.uint8)


def expected(
    step: int, probe: int, *, scale: str, colour: str = "turbo", opacity: float = 0.5, threshold: float = 0.0
) -> tuple[Pixels, Pixels]:
    """The overlay `[H, W, 3]` and the map alone `[H, W, 4]`."""
    limit = {"image": TOPS[step, probe], "run": TOPS[:, probe].max(), "layer": TOPS.max()}[scale]
    shares = heat((MAPS[step, probe] / limit)[None].astype(np.float32), (12, 9), "bilinear")[0]
    colours = lookup_table(colour)[(shares * 255).round().astype(int)]
    weight = np.where(shares < threshold, 0, 1)[..., None]
    overlay = PICTURES[probe] * (1 - opacity * weight) + colours * opacity * weight
    return overlay.round().astype(np.uint8), np.concatenate([colours, 255 * weight], axis=2).astype(np.uint8)


def differs(found: Pixels, wanted: Pixels) -> int:
    """By how much, at most; transparent pixels have no colour."""
    seen = np.ones(found.shape[:2], bool) if wanted.shape[-1] == 3 else wanted[..., 3] > 0
    if wanted.shape[-1] == 4:
        np.testing.assert_array_equal(found[..., 3], wanted[..., 3])
    return int(np.abs(found[..., :3].astype(int) - wanted[..., :3])[seen].max())


def steps_of(colour: str) -> int:
    """How far apart neighbouring colours are: a value on the edge between two may be rounded to either."""
    return int(np.abs(np.diff(lookup_table(colour).astype(int), axis=0)).max()) + 1


@pytest.mark.parametrize("scale", ["image", "run", "layer"])
def test_canvases_show_picture_overlay_and_map_at_each_scale(report: Open, scale: str) -> None:
    shown = report(made({KEY: MAPS}, PICTURES), hash=f"#view=both&scale={scale}")
    for step in (1, 0):
        shown.drag("Epoch", step)
        for probe in (0, 1):
            overlay, alone = expected(step, probe, scale=scale)
            card = probe + 1
            np.testing.assert_array_equal(shown.pixels(canvas("original", card))[..., :3], PICTURES[probe])
            assert differs(shown.pixels(canvas("overlay", card)), overlay) <= steps_of("turbo")
            assert differs(shown.pixels(canvas("map", card)), alone) <= steps_of("turbo")


@pytest.mark.parametrize(("colour", "opacity", "threshold"), [("viridis", 30, 0), ("Reds", 100, 57), ("gray", 0, 77)])
def test_canvases_follow_colours_opacity_and_threshold(report: Open, colour: str, opacity: int, threshold: int) -> None:
    shown = report(made({KEY: MAPS}, PICTURES), hash="#view=both&scale=image")
    shown.pick("Colour map", colour)
    shown.drag("Opacity", opacity)
    shown.drag("Threshold", threshold)
    options = {"colour": colour, "opacity": opacity / 100, "threshold": threshold / 100}
    overlay, alone = expected(1, 0, scale="image", **options)  # type: ignore[arg-type]
    # No value lies so near the threshold that rounding could decide.
    assert differs(shown.pixels(canvas("overlay")), overlay) <= steps_of(colour)
    assert differs(shown.pixels(canvas("map")), alone) <= steps_of(colour)
    assert (alone[..., 3] == 0).any() == (threshold > 0)
    assert (alone[..., 3] > 0).any()


def test_overlay_is_that_of_the_sheets(report: Open) -> None:
    """Both colour the same 8-bit shares; the network's own maps are as fine, coarser, and finer than the picture."""
    rng = np.random.default_rng(1)
    for height, width, halfway in ((28, 28, 0.02), (7, 6, 0.03), (40, 40, 0.12)):
        maps = (rng.integers(0, 128, (1, 2, height, width)) / 127) ** 2
        maps[..., 0, 0] = 1
        probes = probe_set(count=2)
        drawing = Drawing(columns=("overlay", "heatmap"), magnification=1, scale="image")
        slices = Slices.of(maps.shape[1:], probes.pixels.shape)
        tiles = draw_tiles(record(maps[0]), probes, [KEY], drawing, None, slices, [0, 1])
        shown = report(made({KEY: maps}, probes.pixels), hash="#view=both&scale=image")
        for card in (1, 2):
            for kind, tile in zip(("overlay", "map"), tiles, strict=True):
                found = shown.pixels(canvas(kind, card))[..., :3].astype(int)
                off = np.abs(found - tile.pixels[card - 1])
                # Values halfway between two colours fall to either: means of two or four places are that often, and
                # the sheets and the page round sums in another order.
                assert np.mean(off.max(axis=2) > 1) < halfway, (height, kind)
                assert off.max() <= steps_of("turbo"), (height, kind)


def test_blank_map_leaves_the_picture_untouched_and_says_so(report: Open) -> None:
    maps = np.stack([np.full((2, 3, 3), -1.0), np.ones((2, 3, 3))])
    maps[1, 1, 0, 0] = np.nan
    shown = report(made({KEY: maps}, PICTURES), hash="#epoch=0&view=both")
    np.testing.assert_array_equal(shown.pixels(canvas("overlay"))[..., :3], PICTURES[0])
    assert shown.texts(".card:nth-of-type(1) .caption-value")[1:] == ["no positive evidence"] * 2
    assert "no positive evidence" in str(shown.page.locator(canvas("overlay")).get_attribute("aria-label"))


def test_map_that_is_not_finite_is_crossed_out(report: Open) -> None:
    maps = np.ones((1, 2, 3, 3))
    maps[0, 1, 0, 0] = np.inf
    pictures = np.full((2, 60, 60, 3), [200, 100, 50], np.uint8)
    shown = report(made({KEY: maps}, pictures), hash="#view=both")
    for kind, strip in (("overlay", False), ("map", False), ("overlay", True), ("map", True)):
        shown.go(f"#view={kind}&show={'film' if strip else 'cards'}")
        place = f".card:nth-of-type(2) {'.film-frame' if strip else f'.cell.{kind}'}"
        # Only the image is drawn: the finite part of such a map would look like a map.
        assert (shown.pixels(f"{place} canvas") == [200, 100, 50, 255]).all()
        found = np.asarray(Image.open(io.BytesIO(shown.page.locator(f"{place} .frame").screenshot())).convert("RGB"))
        side = len(found)
        for y, x in ((side // 2, side // 2), (side // 4, side // 4), (side // 4, side - side // 4)):
            near = found[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).astype(int)
            assert any(red > 150 and green < 100 for red, green, _ in near), (kind, strip, y, x)
        between = found[side // 8, side // 2].astype(int)
        assert np.ptp(between) < 6, "grey"
        assert 150 < between.mean() < 210, "faded"
    shown.go("#view=both")
    assert shown.texts(".card:nth-of-type(2) .caption-value")[1:] == ["map not finite"] * 2
    assert "not finite" not in " ".join(shown.texts(".card:nth-of-type(1) .caption-value"))
    assert shown.texts(".notices li")[0].endswith(": not finite: 1 of 2 maps")


# The map alone, at the picture's resolution: for 2, zero, against 1 (a quarter of the largest), …
SIGNED = np.array([[2.0, 0.0, -1.0], [-4.0, 0.5, 0.0]])
SMALL = np.random.default_rng(6).integers(0, 256, (1, 2, 3, 3)).astype(np.uint8)


def diverging(maps: Any, limit: float) -> Pixels:
    """Blue against, grey at zero, red for, as far as the limit either way."""
    places = (127.5 + 127.5 * np.clip(np.asarray(maps) / limit, -1, 1)).round().astype(int)
    return lookup_table("coolwarm")[np.where(np.asarray(maps) == 0, 128, places)]


def test_signed_colours_are_blue_against_grey_at_zero_and_red_for(report: Open) -> None:
    shown = report(made({KEY: SIGNED[None, None]}, SMALL), hash="#view=both&signed=on&scale=image")
    found = shown.pixels(canvas("map"))
    wanted = diverging(SIGNED, 4.0)
    assert np.abs(found[..., :3].astype(int) - wanted).max() <= steps_of("coolwarm")
    # Both ends and zero without a rest.
    assert found[1, 0, :3].tolist() == lookup_table("coolwarm")[0].tolist()
    assert found[0, 1, :3].tolist() == found[1, 2, :3].tolist() == lookup_table("coolwarm")[128].tolist()
    assert np.ptp(found[0, 1, :3]) <= 2
    red, blue = found[0, 0].astype(int), found[1, 0].astype(int)
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60
    mixed = (SMALL[0].astype(int) + wanted) / 2
    assert np.abs(shown.pixels(canvas("overlay"))[..., :3] - mixed).max() <= steps_of("coolwarm")
    assert shown.texts(".cell.map .caption-value") == [f"{MINUS}4 to 2"]
    assert shown.texts(".legend span") == [f"against {MINUS}4", "4 for"]
    label = str(shown.page.locator(canvas()).get_attribute("aria-label"))
    assert label.endswith(f"map maximum 2 at the upper left, minimum {MINUS}4 at the lower left")
    # The threshold hides what is weak either way.
    shown.drag("Threshold", 30)
    assert (shown.pixels(canvas("map"))[..., 3] > 0).tolist() == [[True, False, False], [True, False, False]]
    # Without the switch the part for the class reaches to its own maximum.
    shown.press("a")
    shown.drag("Threshold", 0)
    assert shown.pixels(canvas("map"))[0, 0, :3].tolist() == lookup_table("turbo")[255].tolist()
    assert shown.pixels(canvas("map"))[1, 0, :3].tolist() == lookup_table("turbo")[0].tolist()
    assert shown.texts(".legend span") == ["0", "2"]
    assert "signed" not in shown.hash()


def test_a_weak_class_stays_dark_beside_a_strong_one(report: Open) -> None:
    """The colours of a layer and method reach as far for all targets and all steps."""
    strong, weak = (np.stack([MAPS[:, 0]] * 2, axis=1) * share for share in (1.0, 0.1))
    maps = {KEY: strong, KEY._replace(target="tabby"): weak, KEY._replace(method="random"): weak}
    shown = report(made(maps, PICTURES), hash="#view=map&target=all&method=gradcam")
    # The largest value of both is in the last step.
    highest = [int((lookup_table("turbo") == pixels[-1, 0, :3]).all(axis=1).argmax()) for pixels in both(shown)]
    assert highest[0] == 255
    assert abs(highest[1] - 25) <= 2
    shown.press("Home")
    assert abs(int((lookup_table("turbo") == both(shown)[0][-1, 0, :3]).all(axis=1).argmax()) - 64) <= 2
    shown.press("End")
    shown.pick("Scale", "image")
    assert [pixels[-1, 0, :3].tolist() for pixels in both(shown)] == [lookup_table("turbo")[255].tolist()] * 2
    # Another method has a scale of its own.
    shown.pick("Scale", "run")
    shown.pick("Method", "random")
    assert shown.pixels(canvas("map"))[-1, 0, :3].tolist() == lookup_table("turbo")[255].tolist()


def both(shown: Opened) -> list[Pixels]:
    return [shown.pixels(canvas("map"), place) for place in (0, 1)]


@pytest.mark.parametrize("signed", ["off", "on"])
def test_an_extreme_place_does_not_darken_the_others(report: Open, signed: str) -> None:
    maps = np.full((1, 1, 10, 10), 1.0)
    # Whose byte leaves the others two steps of 127: (127 / 2) ** 2.
    maps[..., 0, 0], maps[..., 9, 9] = 4032.25, -4032.25 if signed == "on" else 1.0
    pictures = np.zeros((1, 10, 10, 3), np.uint8)
    shown = report(made({KEY: maps}, pictures), hash=f"#view=map&signed={signed}")
    table = lookup_table("coolwarm" if signed == "on" else "turbo")
    found = shown.pixels(canvas("map"))
    assert found[5, 5, :3].tolist() == found[0, 0, :3].tolist() == table[255].tolist()
    assert found[9, 9, :3].tolist() == table[0 if signed == "on" else 255].tolist()
    shown.pick("Scale", "image")
    dark = table[128 if signed == "on" else 0].astype(int)
    assert np.abs(shown.pixels(canvas("map"))[5, 5, :3] - dark).max() <= steps_of("turbo")


def test_evidence_against_shows_in_maps_that_are_blank_without_it(report: Open) -> None:
    maps = np.stack([np.full((2, 2, 2), -3.0), np.zeros((2, 2, 2)), np.ones((2, 2, 2))], axis=1)
    other = KEY._replace(layer="relu")
    payload = made({KEY: maps, other: np.ones_like(maps)}, np.zeros((3, 4, 4, 3)))
    for step in payload.header["steps"]:
        step["maps"][0]["blank"] = "2 of 3 maps are blank (zero after the ReLU): why. What."
    shown = report(payload)
    values = ".card .cell.overlay:nth-child(2) .caption-value"
    said = "conv: 2 of 3 maps are blank (zero after the ReLU): why. What."
    assert shown.texts(".notices li") == [f"{said} “For and against” shows the evidence against the class."]
    assert shown.texts(values) == ["no positive evidence", "no positive evidence", "max 1"]
    shown.pick("Probes", "blank")
    assert order(shown) == ["#0", "#1"]
    shown.page.get_by_label("For and against").check()
    shown.settle()
    assert order(shown) == ["#1"]
    shown.pick("Probes", "all")
    assert shown.texts(values) == [f"{MINUS}3 to 0", "zero everywhere", "0 to 1"]
    assert shown.texts(".notices li") == [
        "conv: evidence against the class only in 1 of 3 maps",
        "conv: zero everywhere: 1 of 3 maps",
        "relu: Grad-CAM found nothing against a class in this run, so nothing is blue",
    ]
    assert shown.texts(".lead")[0].startswith("Red parts of the image raise the score of the explained class, blue")
    assert shown.page.get_by_label("Colour map").is_hidden()
    assert "signed=on" in shown.hash()
    np.testing.assert_array_equal(shown.pixels(canvas())[0, 0, :3], (diverging(-3, 3) / 2).round())
    np.testing.assert_array_equal(shown.pixels(canvas("overlay", 2))[0, 0, :3], [0, 0, 0])
    # Film strips and the large view follow.
    shown.press("t")
    shown.settle()
    np.testing.assert_array_equal(shown.pixels(".film canvas")[0, 0, :3], (diverging(-3, 3) / 2).round())
    assert shown.page.locator(".card:nth-of-type(1) .film-frame.blank").count() == 0
    assert shown.page.locator(".card:nth-of-type(2) .film-frame.blank").count() == 2
    shown.go("#probe=0&signed=on")
    np.testing.assert_array_equal(shown.pixels(".detail .cell.map canvas")[0, 0, :3], diverging(-3, 3))


def test_slices_stand_side_by_side_each_with_its_own_values(report: Open) -> None:
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[:, 0], right[:, 3] = 1, 0.5
    maps = np.concatenate([left, right], axis=1)[None, None]
    pictures = np.concatenate([np.full((4, 4, 3), 40), np.full((4, 4, 3), 90)], axis=1)[None].astype(np.uint8)
    shown = report(made({KEY: maps}, pictures, slices=2), hash="#view=both&colour=gray&scale=image")
    found = shown.pixels(canvas("map"))
    assert found.shape == (4, 9, 4)
    assert found[0, :, 0].tolist() == [255, 0, 0, 0, 0, 0, 0, 0, 128]
    assert found[0, :, 3].tolist() == [255] * 4 + [0] + [255] * 4
    original = shown.pixels(canvas("original"))
    assert original[0, [3, 5], 0].tolist() == [40, 90]


def test_marked_region_is_outlined_where_it_is(report: Open) -> None:
    mask = np.zeros((12, 9), np.uint8)
    mask[2:4, 5:8] = 1
    payload = made({KEY: MAPS}, PICTURES, masks=[mask, None], boxes=[None, [1, 2, 4.5, 6]])
    shown = report(payload)
    assert shown.page.locator(".region").count() == 0
    shown.page.get_by_label("Masks", exact=True).check()
    paths = shown.page.locator(".cell.overlay .border-light")
    box = paths.nth(0).evaluate("p => { const b = p.getBBox(); return [b.x, b.y, b.width, b.height]; }")
    assert box == [5, 2, 3, 2]
    assert paths.nth(1).get_attribute("d") == "M1 2H4.5V6H1Z"


# ---- the slider, the keyboard, playing


def test_slider_moves_all_probes_texts_and_marks(report: Open) -> None:
    shown = report(garments(epochs=5, probes=3), hash="#curves=on", height=1000)
    page_ = shown.page
    assert shown.texts(".epoch-label") == ["epoch 4"]
    before = [shown.pixels(canvas("overlay", card)) for card in (1, 2, 3)]
    marked = float(page_.locator(".chart .now").nth(1).get_attribute("x1"))
    shown.drag("Epoch", 1)
    assert shown.texts(".epoch-label") == ["epoch 1"]
    assert page_.get_by_label("Epoch", exact=True).get_attribute("aria-valuetext") == "epoch 1, step 20"
    for card, old in zip((1, 2, 3), before, strict=True):
        assert (shown.pixels(canvas("overlay", card)) != old).any()
        label = str(page_.locator(canvas("overlay", card)).first.get_attribute("aria-label"))
        assert f"Probe {card - 1}, layer network.relu1, epoch 1: predicted" in label
    assert float(page_.locator(".chart .now").nth(1).get_attribute("x1")) < marked
    strip, mark = (page_.locator(f".card:nth-of-type(1) .timeline{part}").bounding_box() for part in ("", " .marker"))
    assert strip is not None
    assert mark is not None
    assert abs(mark["x"] - (strip["x"] + strip["width"] * 1.5 / 5)) < 2


def test_every_key_does_what_the_help_says(report: Open) -> None:
    shown = report(garments(epochs=12, probes=3))
    label = lambda: shown.texts(".epoch-label")[0]  # noqa: E731
    shown.press("Home")
    assert label() == "epoch 0"
    shown.press("ArrowRight", "ArrowRight")
    assert label() == "epoch 2"
    shown.press("Shift+ArrowRight")
    assert label() == "epoch 11"
    shown.press("ArrowLeft")
    assert label() == "epoch 10"
    # The only flip is that of probe 1, halfway.
    shown.press("F")
    assert label() == "epoch 6"
    shown.press("Home", "f")
    assert label() == "epoch 6"
    names = lambda: shown.texts(".card:nth-of-type(1) .cell.overlay .caption-name")  # noqa: E731
    assert names() == ["relu1", "relu2", "relu3"]
    shown.press("]")
    assert names() == ["relu1"]
    shown.press("]", "]")
    assert names() == ["relu3"]
    shown.press("]")
    assert len(names()) == 3
    shown.press("[")
    assert names() == ["relu3"]
    shown.press("v")
    assert shown.page.locator(".card .cell.map").count() == 3
    shown.press("c", "s", "a", "t", "d")
    assert "colour=viridis" in shown.hash()
    assert "signed=on" in shown.hash()
    assert "scale=layer" in shown.hash()
    assert shown.page.locator(".film").count() == 3
    assert shown.page.locator("html").get_attribute("data-theme") == "dark"
    assert brightness(shown) < 60
    shown.press("t", "j", "j", "k")
    assert shown.page.evaluate("document.activeElement.textContent") == "#0"
    shown.press("Enter")
    assert shown.texts(".detail h2") == ["#0Shirt"]
    shown.press("j")
    assert shown.texts(".detail h2") == ["#1Coat"]
    shown.press("Escape")
    assert shown.page.evaluate("document.activeElement.textContent") == "#1"
    shown.press("?")
    assert shown.page.locator("dialog[open]").count() == 1
    assert shown.page.evaluate("document.activeElement.closest('dialog').scrollTop") == 0
    # Keys below the dialog do nothing while it is open.
    shown.press("End")
    assert label() == "epoch 6"
    shown.press("Escape")
    assert shown.page.locator("dialog[open]").count() == 0


def test_keys_of_a_control_stay_its_own(report: Open) -> None:
    shown = report(garments(epochs=4, probes=2))
    shown.page.get_by_label("Opacity", exact=True).focus()
    shown.press("ArrowRight")
    assert shown.texts(".epoch-label") == ["epoch 3"]
    assert shown.texts(".share-value")[0] == "51%"
    shown.page.get_by_label("Scale", exact=True).focus()
    shown.press("ArrowDown", "ArrowLeft", "Home")
    assert shown.texts(".epoch-label") == ["epoch 3"]
    shown.page.get_by_role("button", name="Film strips").focus()
    shown.press("Space")
    assert shown.page.locator(".film").count() > 0
    assert shown.page.get_by_role("button", name="Pause").count() == 0


def test_a_button_that_is_pressed_keeps_the_focus(report: Open) -> None:
    first = garments(epochs=3, probes=2)
    others = [Payload({**first.header, "title": title, "id": title}, first.blocks) for title in ("second", "third")]
    shown = report(first, *others, hash="#compare=second")
    pressed = "[document.activeElement.textContent, document.activeElement.getAttribute('aria-pressed')]"
    minus = "A \u2212 B"
    for name, now in (("relu2", "true"), ("Map", "true"), (minus, "false"), ("third", "true"), ("third", "false")):
        shown.page.get_by_role("button", name=name, exact=True).focus()
        shown.press("Space")
        shown.until(f"String({pressed}) === '{name},{now}'")


def test_playing_goes_to_the_end_and_stops(report: Open) -> None:
    shown = report(garments(epochs=4, probes=2), hash="#speed=4")
    at = "Number(document.querySelector('.epoch').value) >= {}"
    shown.press("Space")
    assert shown.page.get_by_role("button", name="Pause").count() == 1
    shown.until(at.format(1))
    shown.until(at.format(3))
    shown.page.get_by_role("button", name="Play").wait_for()
    # Whoever takes the slider stops it.
    shown.press("Space", "Home")
    assert shown.page.get_by_role("button", name="Pause").count() == 0
    shown.page.wait_for_timeout(400)
    assert shown.texts(".epoch-label") == ["epoch 0"]


def test_everything_has_a_name_and_is_reached_by_tab(report: Open) -> None:
    shown = report(garments(epochs=3, probes=2), hash="#curves=on")
    nameless = shown.page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, canvas, svg[role=img], [role=group]')]
        .filter(e => !e.closest('[hidden], dialog') && e.getAttribute('aria-hidden') === null)
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim()))
        .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    reached = set()
    for _ in range(60):
        shown.page.keyboard.press("Tab")
        reached.add(shown.page.evaluate("(e => e.getAttribute('aria-label') || e.textContent)(document.activeElement)"))
    assert {"Play", "Previous epoch", "Epoch", "Next epoch", "Options", "Film strips", "relu2"} <= reached
    assert {"Colour map", "Opacity", "Number", "Probe 0, open", "Probe 1, open"} <= reached
    assert shown.page.locator("[aria-live=polite]").count() == 1
    shown.page.wait_for_timeout(700)
    assert shown.texts("[aria-live=polite]") == ["epoch 2, 2 of 2 probes right"]


# ---- links


def test_link_restores_everything_and_is_kept(report: Open) -> None:
    hash = "#epoch=2&layer=network.relu2&view=map&scale=image&colour=Reds&opacity=70&threshold=20&size=large&sort=drift"
    hash += "&signed=on"
    shown = report(garments(epochs=5, probes=3), hash=hash)
    assert shown.texts(".epoch-label") == ["epoch 2"]
    assert shown.texts(".card:nth-of-type(1) .caption-name") == ["image", "relu2"]
    assert shown.page.get_by_label("Colour map").input_value() == "Reds"
    assert shown.page.get_by_label("For and against").is_checked()
    assert shown.texts(".share-value") == ["70%", "20%"]
    shown.press("ArrowRight")
    found = shown.hash()
    assert "epoch=3" in found
    for part in hash.removeprefix("#").split("&")[1:]:
        assert part in found
    shown.go("#epoch=1&view=original")
    assert shown.texts(".epoch-label") == ["epoch 1"]
    assert shown.page.locator(".card .cell.map, .card .cell.overlay").count() == 0
    shown.press("End", "v")
    assert shown.hash() == ""


@pytest.mark.parametrize(
    "hash",
    [
        "#epoch=99&layer=none&colour=x&scale=y&opacity=900&threshold=-3&size=&sort=1&filter=2&probe=nobody&number=z",
        "#epoch=&opacity=&layer=&view=&theme=",
        "#%%%&=&&epoch=NaN&method=__proto__&target=constructor&class=toString&run=nothing&compare=nothing",
    ],
)
def test_links_that_fit_nothing_show_the_defaults(report: Open, hash: str) -> None:
    shown = report(garments(epochs=3, probes=2), hash=hash)
    assert shown.texts(".epoch-label") == ["epoch 2"]
    assert shown.page.locator(".cell.overlay canvas").count() == 6
    assert shown.texts(".share-value") == ["50%", "0%"]


# ---- sorting, filters, film strips, one probe


def order(shown: Opened) -> list[str]:
    return shown.texts(".card .probe-name")


def test_filters_and_order(report: Open) -> None:
    maps = {KEY: np.ones((2, 4, 2, 2))}
    numbers = {"drift": np.array([[0.1, 0.9, 0.2, 0.3], [0.5, 0.1, 0.2, 0.8]])}
    predicted, true = [[0, 1, 1, 2], [0, 0, 1, 2]], [[0], [0], [0], [2]]
    ids = ["a", "b", "c", "d"]
    payload = made(maps, np.zeros((4, 4, 4, 3)), predicted=predicted, true=true, ids=ids, numbers=numbers)
    shown = report(payload)
    assert order(shown) == ["#a", "#b", "#c", "#d"]
    shown.pick("Probes", "wrong")
    assert order(shown) == ["#c"]
    shown.press("Home")
    assert order(shown) == ["#b", "#c"]
    assert shown.texts(".count")[0].startswith("2 of 4 probes")
    shown.pick("Probes", "flipped")
    assert order(shown) == ["#b"]
    shown.pick("Probes", "right")
    assert order(shown) == ["#a", "#d"]
    shown.pick("Class", "Bag")
    assert order(shown) == ["#d"]
    shown.pick("Probes", "wrong")
    assert order(shown) == []
    assert shown.page.get_by_text("No probe passes").is_visible()
    shown.pick("Probes", "all")
    shown.pick("Class", "")
    shown.pick("Sort", "drift")
    assert order(shown) == ["#b", "#d", "#a", "#c"]
    shown.pick("Sort", "flips")
    assert order(shown) == ["#b", "#a", "#c", "#d"]
    shown.pick("Sort", "class")
    assert order(shown) == ["#d", "#a", "#b", "#c"]
    shown.pick("Sort", "score")
    assert order(shown) == ["#d", "#c", "#b", "#a"]


def test_right_and_wrong_are_told_by_signs_and_words(report: Open) -> None:
    payload = made({KEY: np.ones((2, 2, 2, 2))}, np.zeros((2, 4, 4, 3)), predicted=[[1, 0], [0, 0]], true=[[0], [1]])
    shown = report(payload)
    assert shown.texts(".verdict") == ["✓ Shirt 75%", "✗ Shirt 75%"]
    assert shown.texts(".card:nth-of-type(1) .piece") == ["✗ Coat", "✓ Shirt"]
    label = shown.page.locator(".card:nth-of-type(1) .timeline").get_attribute("aria-label")
    assert label == "Predictions of probe 0: Coat, Shirt from epoch 1"
    assert "right" in str(shown.page.locator(canvas()).get_attribute("aria-label"))


def test_film_strip_shows_each_epoch_and_jumps_there(report: Open) -> None:
    shown = report(made({KEY: MAPS}, PICTURES), hash="#show=film&scale=run")
    frames = ".card:nth-of-type(1) .film-frame"
    for step in (0, 1):
        overlay, _ = expected(step, 0, scale="run")
        assert differs(shown.pixels(f"{frames} canvas", step), overlay) <= steps_of("turbo")
    assert shown.page.locator(f"{frames}[aria-current]").count() == 1
    shown.page.locator(frames).nth(0).click()
    shown.settle()
    assert shown.texts(".epoch-label") == ["epoch 0"]
    assert shown.page.locator(frames).nth(0).get_attribute("aria-current") == "true"


def test_clicks_on_curves_and_timelines_go_there(report: Open) -> None:
    shown = report(garments(epochs=10, probes=2), hash="#curves=on")
    for selector in (".chart >> nth=0", ".timeline >> nth=0"):
        box = shown.page.locator(selector).bounding_box()
        assert box is not None
        shown.page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
        shown.settle()
        assert shown.texts(".epoch-label")[0] in ("epoch 2", "epoch 3")
        shown.press("End")


def test_curves_are_the_means_of_the_numbers(report: Open) -> None:
    shown = report(garments(epochs=3, probes=2, layers=1), hash="#curves=on")
    # linspace(0.1, 0.9, 3) times the mean of 0.5 and 1.
    assert shown.texts(".curve .direct") == ["right 1", "confidence 0.75", "relu1 0.675"]
    shown.press("Home")
    assert shown.texts(".curve .direct") == ["right 0.5", "confidence 0.75", "relu1 0.075"]
    shown.pick("Number", "entropy")
    assert shown.texts(".curve .direct")[2] == "relu1 0.9"
    assert shown.texts(".reading") == ["0: one place; 1: everywhere."]
    shown.pick("Class", "Coat")
    assert shown.texts(".curve .direct")[0] == "right 0"


def test_one_probe_large_with_its_numbers_and_flips(report: Open) -> None:
    shown = report(garments(epochs=6, probes=3), hash="#probe=1")
    assert shown.page.locator(".board").is_hidden()
    assert shown.page.locator(".detail .cell canvas").count() == 7
    assert shown.page.locator(".detail .film-frame").count() == 18
    rows = [" ".join(text.split()) for text in shown.texts(".detail tbody th")]
    assert rows == ["drift", "entropy", "map maximum", "explained logit"]
    assert shown.texts(".detail tbody tr:first-child td") == ["0.675"] * 3
    width = shown.page.locator(".detail .cell canvas").first.bounding_box()
    assert width is not None
    assert width["width"] == 280
    shown.page.get_by_role("button", name="epoch 3: Bag → Coat").click()
    shown.settle()
    assert shown.texts(".epoch-label") == ["epoch 3"]
    shown.page.get_by_role("button", name="Next probe").click()
    assert shown.texts(".detail h2") == ["#2Bag"]
    shown.page.get_by_role("button", name="All probes").click()
    assert shown.page.locator(".board").is_visible()


@pytest.mark.parametrize(
    ("target", "what", "raised"),
    [
        ("output1", "value", "the explained value"),
        ("similar_to0", "similarity", "the explained similarity"),
        ("depth", "score", "the explained score"),
        ("output_energy", "score", "the explained score"),
        ("detect_predicted", "score", "the explained score"),
        ("segment2", "score", "the explained score"),
        ("predicted", "logit", "the score of the explained class"),
    ],
)
def test_what_is_explained_is_only_called_a_class_and_a_logit_if_it_is_one(
    report: Open, target: str, what: str, raised: str
) -> None:
    predicted = [[0 if target in ("predicted", "detect_predicted", "segment2") else -1]]
    maps = {KEY._replace(target=target): np.ones((1, 1, 2, 2))}
    shown = report(made(maps, np.zeros((1, 4, 4, 3)), predicted=predicted))
    assert f" · maps explain the {what} · " in shown.texts(".facts")[0]
    assert shown.texts(".lead") == [f"Colours show which parts of the image raise {raised}."]
    shown.go("#signed=on&probe=0")
    assert shown.texts(".lead") == [f"Red parts of the image raise {raised}, blue parts lower it."]
    assert shown.texts(".detail tbody th")[-1] == f"explained {what}"


def test_a_map_of_several_true_classes_is_not_called_that_of_one(report: Open) -> None:
    key = KEY._replace(target="label")
    shown = report(made({key: np.ones((1, 2, 2, 2))}, np.zeros((2, 4, 4, 3)), true=[[0, 2], [0]]))
    assert shown.texts(".cell.overlay .caption-value") == ["sum over 2 classes, max 1", "Shirt, max 1"]


def test_a_step_without_a_prediction_is_not_judged_and_is_no_change(report: Open) -> None:
    maps = np.ones((4, 2, 2, 2))
    maps[1] = np.nan
    predicted = [[0, -1], [-1, -1], [0, 2], [1, 2]]
    shown = report(made({KEY: maps}, np.zeros((2, 4, 4, 3)), predicted=predicted, true=[[0], [2]]), hash="#epoch=1")
    assert shown.texts(".epoch-right") == [""]
    assert shown.page.locator(".verdict.right, .verdict.wrong").count() == 0
    timelines = shown.page.locator(".timeline").evaluate_all("found => found.map((e) => e.getAttribute('aria-label'))")
    assert timelines == [
        "Predictions of probe 0: Shirt, Coat from epoch 3",
        "Predictions of probe 1: Bag from epoch 2",
    ]
    shown.go("#epoch=2")
    assert shown.texts(".epoch-right")[0].strip() == "2 of 2 probes right"
    assert shown.page.locator(".just-flipped").count() == 0
    assert shown.texts(".piece") == ["✓ Shirt", "", "✓ Shirt", "✗ Coat", "", "✓ Bag"]
    assert shown.texts(".piece.flip") == ["✗ Coat"]
    shown.go("#epoch=3&probe=0")
    assert shown.texts(".flip-button") == ["epoch 3: Shirt → Coat"]


def test_sizes_are_whole_multiples_of_small_pictures(report: Open) -> None:
    shown = report(garments(epochs=2, probes=2, layers=1))
    found = {}
    for size in ("original", "small", "medium", "large"):
        shown.pick("Size", size)
        box = shown.page.locator(canvas()).bounding_box()
        assert box is not None
        found[size] = box["width"]
    assert found["original"] == 28
    assert all(width % 28 == 0 for width in found.values())
    assert found["original"] < found["small"] < found["medium"] < found["large"]
    assert shown.page.locator(canvas()).evaluate("c => getComputedStyle(c).imageRendering") == "pixelated"


# ---- epochs, methods and targets


def test_baseline_and_several_validations_of_an_epoch_are_named(report: Open) -> None:
    payload = made({KEY: np.ones((4, 1, 2, 2))}, np.zeros((1, 4, 4, 3)), epochs=[-1, 0, 0, 1], steps=[0, 5, 10, 20])
    shown = report(payload)
    slider = shown.page.get_by_label("Epoch", exact=True)
    said = []
    for place in range(4):
        shown.drag("Epoch", place)
        said.append((shown.texts(".epoch-label")[0], slider.get_attribute("aria-valuetext")))
    assert said == [
        ("untrained", "untrained, step 0"),
        ("epoch 0", "epoch 0, step 5, step 5"),
        ("epoch 0", "epoch 0, step 10, step 10"),
        ("epoch 1", "epoch 1, step 20"),
    ]
    shown.drag("Epoch", 1)
    assert shown.hash() == "#epoch=0&step=5"
    shown.go("#epoch=-1")
    assert shown.texts(".epoch-label") == ["untrained"]


def test_methods_and_targets_are_chosen_where_there_are_several(report: Open) -> None:
    ones = np.ones((1, 1, 2, 2))
    names = [("a", method, target) for method in ("gradcam", "random") for target in ("predicted", "label")]
    shown = report(made({name: (n + 1) * ones for n, name in enumerate(names)}, np.zeros((1, 4, 4, 3))))
    maxima = lambda: [text.split("max ")[1] for text in shown.texts(".cell.overlay .caption-value")]  # noqa: E731
    assert maxima() == ["1", "2"]
    shown.pick("Method", "random")
    assert maxima() == ["3", "4"]
    shown.pick("Target", "label")
    assert maxima() == ["4"]
    shown.pick("Method", "all")
    assert maxima() == ["2", "4"]
    single = report(made({KEY: ones}, np.zeros((1, 4, 4, 3))))
    assert single.page.get_by_label("Method", exact=True).is_hidden()
    assert single.page.get_by_label("Target", exact=True).is_hidden()


def test_outputs_without_classes_show_maps_alone(report: Open) -> None:
    payload = made(
        {KEY: np.ones((2, 1, 2, 2))}, np.zeros((1, 4, 4, 3)), predicted=[[-1]] * 2, true=[[]], class_names=None
    )
    shown = report(payload)
    assert shown.page.locator(".timeline").count() == 0
    assert shown.page.get_by_label("Probes", exact=True).is_hidden()
    assert "no predicted class, score 1.5" in str(shown.page.locator(canvas()).get_attribute("aria-label"))
    # Other tasks in their own words.
    for target, words in (("output0", "value 1.5"), ("similar_to0", "similarity 1.5")):
        for step in payload.header["steps"]:
            step["targets"] = {target: next(iter(step["targets"].values()))}
        assert report(payload).texts(".verdict") == [words]
    labels = made({KEY: np.ones((1, 1, 2, 2))}, np.zeros((1, 4, 4, 3)), true=[[0, 2]])
    labels.header["steps"][0]["sets"] = [[[0, 0.9], [2, 0.6]]]
    several = report(labels)
    assert several.texts(".truth") == ["Shirt, Bag"]
    assert several.texts(".verdict") == ["Shirt 90%, Bag 60%"]
    # Where the list is cut, no probability is left behind a name that is not its own.
    assert several.texts(".verdict-share") == [""]
    assert several.texts(".epoch-right") == ["1 of 1 top classes right"]


# ---- two runs


def pair(**fields: Any) -> tuple[Payload, Payload, Payload]:
    first = made({KEY: MAPS}, PICTURES, epochs=[0, 2], title="first", id="1")
    second = made({KEY: MAPS[::-1]}, PICTURES, epochs=[0, 1], title="second", id="2", **fields)
    other = made({KEY: MAPS}, PICTURES, title="third", id="3", fingerprint="0" * 64)
    return first, second, other


def test_two_runs_of_the_same_probes_stand_side_by_side(report: Open) -> None:
    shown = report(*pair(), hash="#scale=image&curves=on")
    choice = shown.page.get_by_label("Compare", exact=True)
    assert choice.evaluate("s => [...s.options].map(o => [o.value, o.disabled])") == [
        ["", False],
        ["second", False],
        ["third", True],
    ]
    choice.select_option("second")
    shown.page.wait_for_selector(".badge")
    assert shown.texts(".card:nth-of-type(1) .badge") == ["A", "B"]
    rows = ".card:nth-of-type(1) .cell.overlay canvas"
    # Epochs 0, 1 and 2; run A has no epoch 1, run B no epoch 2.
    steps = {
        0: (0, 1, ""),
        1: (0, 0, "A has no epoch 1; its epoch 0 is shown."),
        2: (1, 0, "B has no epoch 2; its epoch 1 is shown."),
    }
    for place, (in_a, in_b, said) in steps.items():
        shown.drag("Epoch", place)
        assert shown.texts(".epoch-label") == [f"epoch {place}"]
        assert shown.texts(".stand-in") == [said]
        for row, step in enumerate((in_a, in_b)):
            overlay, _ = expected(step, 0, scale="image")
            assert differs(shown.pixels(rows, row), overlay) <= steps_of("turbo")
    assert "compare=second" in shown.hash()
    assert [text.rsplit(" ", 1)[0] for text in shown.texts(".curve >> nth=1 >> .direct")] == ["A conv", "B conv"]


def test_probes_are_matched_by_id(report: Open) -> None:
    first, second, _ = pair(ids=["1", "0"])
    shown = report(first, second, hash="#compare=second&scale=image")
    # The first run's probe 0 is the other run's second.
    overlay, _ = expected(0, 1, scale="image")
    assert differs(shown.pixels(".card:nth-of-type(1) .cell.overlay canvas", 1), overlay) <= steps_of("turbo")
    # Runs of the same probes have the same pictures, which are shown once.
    assert shown.page.locator(".card:nth-of-type(1) .cell.original canvas").count() == 1


def test_runs_of_other_probes_are_not_compared_even_by_a_link(report: Open) -> None:
    shown = report(*pair(), hash="#compare=third")
    assert shown.page.locator(".badge").count() == 0
    shown.page.get_by_label("Run", exact=True).select_option("third")
    shown.until("document.querySelector('.facts').textContent.startsWith('third')")
    assert "run=third" in shown.hash()


def test_the_second_of_two_runs_of_the_same_probes_is_there_from_the_beginning(report: Open) -> None:
    first, second, third = pair()
    shown = report(first, second)
    shown.page.wait_for_selector(".badge")
    assert shown.texts(".card:nth-of-type(1) .badge") == ["A", "B"]
    assert shown.texts(".count")[0].endswith("in the whole run (A and B each have their own)")
    shown.page.get_by_label("Compare", exact=True).select_option("")
    shown.until("!document.querySelector('.badge')")
    # The link shows one run, too.
    assert shown.hash() == "#run=first"
    assert report(first, third).page.locator(".badge").count() == 0


def test_runs_of_one_title_are_told_apart(report: Open) -> None:
    first, second, _ = pair()
    second.header["title"] = "first"
    shown = report(first, second)
    choice = shown.page.get_by_label("Run", exact=True)
    assert choice.evaluate("s => [...s.options].map(o => o.text)") == ["first", "first (2)"]


# ---- looks


def brightness(shown: Opened) -> float:
    colour = str(shown.page.locator("#gradcam").evaluate("e => getComputedStyle(e).backgroundColor"))
    return float(np.mean([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]))


def test_dark_mode_follows_the_system_and_the_button(report: Open) -> None:
    payload = garments(epochs=2, probes=1)
    assert brightness(report(payload, color_scheme="light")) > 200
    dark = report(payload, color_scheme="dark")
    assert brightness(dark) < 60
    dark.page.get_by_role("button", name="Colours of the page").click()
    assert brightness(dark) > 200
    assert dark.hash() == "#theme=light"


@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_layout_fits_every_width(report: Open, width: int) -> None:
    runs = (
        garments(epochs=9, probes=5),
        garments(epochs=9, probes=5, title="a-rather-long-name-of-a-run/gradcam", id="2"),
    )
    shown = report(*runs, width=width, height=800)
    for hash in (
        "",
        "#show=film&signed=on",
        "#probe=1&signed=on",
        "#view=both&size=large",
        "#compare=a-rather-long-name-of-a-run/gradcam",
    ):
        shown.go(hash or "#")
        assert shown.overflow() <= 0, hash
        assert shown.outside(".bar *, .head *, main > *, .card, .cell, .film, .timeline, .chart, .detail *") == [], hash
        for selector in (".play", ".epoch", ".epoch-label", ".more", ".options .share >> nth=0"):
            assert shown.page.locator(selector).is_visible(), (hash, selector)
    shown.go("#")  # one run: two of them take a line of their own
    columns = {round(box["x"]) for card in shown.page.locator(".card").all() if (box := card.bounding_box())}
    assert len(columns) == {360: 1, 1280: 2, 2560: 4}[width]


def test_maps_are_above_the_fold_and_the_rest_is_a_click_away(report: Open) -> None:
    payload = garments(epochs=4, probes=6)
    found = {"kind": "", "severity": "high", "layer": "", "method": "", "probes": [], "epochs": [1], "figures": {}}
    long = {**found, "text": "What was found, in a sentence of a usual length. " * 3, "advice": "What to do. " * 6}
    minor = {**long, "severity": "low"}
    payload.header["findings"] = [long, minor, minor]
    payload.header["steps"][3]["maps"][0]["blank"] = "Some maps are blank, for a reason that takes a line. " * 4
    shown = report(payload, folded=True)
    for card in (1, 2):
        box = shown.page.locator(f".card:nth-of-type({card})").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900
    title = shown.page.locator("h1").bounding_box()
    assert title is not None
    assert title["height"] < 30
    for selector in (".options", ".curves"):
        assert shown.page.locator(selector).is_hidden()
    assert shown.page.locator(".legend").is_visible()
    for name in ("Options", "Curves"):
        shown.page.get_by_text(name, exact=True).click()
    shown.settle()
    assert shown.page.locator(".chart").count() == 2
    assert shown.page.get_by_label("Colour map").is_visible()
    assert shown.hash() == "#curves=on"
    # A narrow screen has room for what is more than information alone.
    grave = garments(epochs=4, probes=6)
    grave.header["findings"] = [long, long, minor]
    for page_ in (shown, report(grave)):
        for width, listed, more in ((360, 1, "2 more"), (1280, 2, "1 more")):
            page_.page.set_viewport_size({"width": width, "height": 740})
            page_.until(f"document.querySelector('.findings summary').textContent === '{more}'")
            assert page_.page.locator(".findings li:visible").count() == listed


def test_printing_draws_every_probe_dark_on_white(report: Open) -> None:
    shown = report(garments(epochs=3, probes=24), color_scheme="dark")
    empty = "() => [...document.querySelectorAll('.card canvas')].filter(c => c.width < 2).length"
    assert shown.page.evaluate(empty) > 0
    assert shown.page.pdf().startswith(b"%PDF")
    assert shown.page.evaluate(empty) == 0
    colours = "getComputedStyle(document.querySelector('.card'))"
    for hash in ("#", "#theme=dark"):
        shown.go(hash)
        assert brightness(shown) < 60
        shown.page.emulate_media(media="print")
        assert shown.page.evaluate(f"{colours}.backgroundColor") == "rgb(255, 255, 255)"
        assert shown.page.evaluate(f"{colours}.color") == "rgb(22, 24, 29)"
        shown.page.emulate_media(media="screen")


def test_bar_stays_in_sight(report: Open) -> None:
    shown = report(garments(epochs=3, probes=12))
    shown.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    shown.settle()
    box = shown.page.locator(".epoch").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 60


def test_names_of_any_kind_are_shown_as_text(report: Open) -> None:
    evil = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&{{data}}"
    maps = {
        (f"{evil}.a", "gradcam", evil): np.ones((2, 2, 2, 2)),
        (f"{evil}.b.{'long' * 40}", "gradcam", evil): np.ones((2, 2, 2, 2)),
    }
    pictures = np.zeros((2, 4, 4, 3))
    payload = made(
        maps,
        pictures,
        ids=[evil, "x" * 300],
        class_names=(evil, f"{evil}\n{evil}", ""),
        title=evil,
        note=evil,
        predicted=[[0, 1], [1, 0]],
    )
    shown = report(payload, payload, width=360, height=700)
    assert shown.texts(".card:nth-of-type(1) .probe-name") == [f"#{evil}"]
    assert evil in shown.texts("h1")[0] or "2 runs" in shown.texts("h1")[0]
    assert shown.page.locator("img").count() == 0
    assert shown.overflow() <= 0
    shown.page.locator(".card:nth-of-type(1) .probe-name").click()
    assert shown.texts(".detail h2")[0].startswith(f"#{evil}")
    assert shown.overflow() <= 0
    shown.press("Escape", "t", "t")
    assert "probe" not in shown.hash()


def test_many_probes_and_epochs_are_drawn_where_they_are_seen(report: Open) -> None:
    shown = report(garments(epochs=12, probes=64, layers=2))
    drawn = "() => [...document.querySelectorAll('.cell canvas')].filter(c => c.width > 1).length"
    assert 0 < shown.page.evaluate(drawn) < 64 * 3 / 2
    shown.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    shown.until("[...document.querySelectorAll('.card:last-of-type .cell canvas')].every(c => c.width > 1)")
    shown.drag("Epoch", 3)
    last = shown.page.locator(".card:last-of-type .cell.overlay canvas").first
    assert "epoch 3" in str(last.get_attribute("aria-label"))
    # What was out of sight meanwhile is drawn anew when it comes back.
    shown.page.evaluate("window.scrollTo(0, 0)")
    shown.until("document.querySelector('.card .cell.overlay canvas').getAttribute('aria-label').includes('epoch 3')")


def test_run_without_steps_says_so(report: Open) -> None:
    payload = garments(epochs=1, probes=1)
    empty = Payload({**payload.header, "steps": [], "keys": []}, ())
    shown = report(empty)
    assert shown.texts(".status") == ["version_0/gradcam has no logged step yet."]
    assert shown.page.locator(".bar").is_hidden()


@pytest.mark.parametrize(("stage", "said"), [("fit", ""), ("test", " from trainer.test")])
def test_a_record_of_a_test_says_so(report: Open, stage: str, said: str) -> None:
    payload = garments(epochs=1, probes=1)
    steps = [{**step, "stage": stage} for step in payload.header["steps"]]
    shown = report(Payload({**payload.header, "steps": steps}, payload.blocks))
    assert f" · 1 logged step{said} · " in shown.texts(".facts")[0]


def test_pictures_explained_once_have_no_epochs(report: Open) -> None:
    payload = garments(epochs=1, probes=3, layers=2)
    steps = [{**step, "stage": "explain"} for step in payload.header["steps"]]
    once = Payload({**payload.header, "steps": steps}, payload.blocks)
    shown = report(once, hash="#show=film")
    assert shown.texts(".facts")[0].startswith("3 images · maps explain the logit")
    assert shown.texts("h1") == ["Grad-CAM: version_0/gradcam"]
    moving = ".play, .epoch, .step, .now-label, .speed, .overview, .film, [aria-label='One epoch or film strips']"
    assert shown.page.locator(moving).locator("visible=true").count() == 0
    assert shown.page.locator(".card .cell canvas").count() == 9
    shown.press("t", "ArrowLeft", " ")
    assert shown.page.locator(".card .cell canvas").count() == 9
    label = str(shown.page.locator(".cell.overlay canvas").first.get_attribute("aria-label"))
    assert ", explained: predicted" in label
    assert "epoch" not in shown.page.locator("main").inner_text().lower()
    shown.page.locator(".card:nth-of-type(1) .probe-name").click()
    shown.settle()
    assert shown.texts(".detail h3") == ["Numbers"]
    assert "epoch" not in shown.page.locator("main").inner_text().lower()
    assert "epoch" not in shown.page.locator(".head").inner_text().lower()
    # A training of one epoch keeps all of it, and so do two steps.
    assert report(payload).page.locator(".epoch").is_visible()


def test_pictures_explained_by_two_checkpoints_stand_side_by_side(report: Open) -> None:
    runs = []
    for place, title in ((1, "early"), (7, "late")):
        payload = garments(epochs=1, probes=2, layers=1)
        steps = [{**step, "stage": "explain", "epoch": place} for step in payload.header["steps"]]
        runs.append(Payload({**payload.header, "steps": steps, "title": title, "id": title}, payload.blocks))
    shown = report(*runs, hash="#compare=late")
    assert shown.page.locator(".card .badge").count() == 4
    assert shown.page.locator(".stand-in").is_hidden()
    assert shown.page.locator(".epoch").is_hidden()


# ---- blank maps, and of how many probes a mean is


def test_lines_above_the_pictures_say_what_is_blank_and_what_flipped(report: Open) -> None:
    numbers = {
        "flipped": np.array([[np.nan, np.nan], [1.0, 0.0]]),
        "went_blank": np.array([[np.nan, np.nan], [0.0, 1.0]]),
        "came_back": np.zeros((2, 2)),
    }
    payload = made({KEY: MAPS}, PICTURES, numbers={name: values.astype(object) for name, values in numbers.items()})
    for step in payload.header["steps"]:
        for name, values in step["maps"][0]["numbers"].items():
            step["maps"][0]["numbers"][name] = [None if value != value else value for value in values]
    payload.header["steps"][1]["maps"][0]["blank"] = "1 of 2 maps is blank (zero after the ReLU): why. What."
    shown = report(payload)
    assert shown.texts(".notices li") == [
        "conv: 1 of 2 maps is blank (zero after the ReLU): why. What.",
        "conv: since the previous step, explained class changed for 1, map became blank for 1 of 2 probes; drift leaves"
        " these out",
    ]
    early = report(payload, hash="#epoch=0")
    assert early.texts(".notices li") == []


def test_a_mean_states_of_how_many_probes_it_is(report: Open) -> None:
    numbers: dict[str, Any] = {"drift": np.array([[0.5, 0.25], [0.5, None]], object)}
    shown = report(made({KEY: MAPS}, PICTURES, numbers=numbers), hash="#curves=on")
    curve = "section.curve:nth-of-type(2) svg"
    assert str(shown.page.locator(curve).get_attribute("aria-label")) == "drift: conv 0.5 (1 of 2)"
    early = report(made({KEY: MAPS}, PICTURES, numbers=numbers), hash="#epoch=0&curves=on")
    assert str(early.page.locator(curve).get_attribute("aria-label")) == "drift: conv 0.375"
    assert "mean of 2 probes" in early.texts(".about")[0]


def test_what_is_counted_is_a_sum(report: Open) -> None:
    stats = {"flipped": {"title": "flipped", "low": 0, "high": 1, "reading": "How many.", "counted": True}}
    numbers: dict[str, Any] = {"flipped": np.array([[None, None], [1.0, 1.0]], object)}
    shown = report(made({KEY: MAPS}, PICTURES, numbers=numbers, stats=stats), hash="#number=flipped&curves=on")
    curve = "section.curve:nth-of-type(2) svg"
    assert str(shown.page.locator(curve).get_attribute("aria-label")) == "flipped: conv 2"
    assert "number of probes, of 2 probes" in shown.texts(".about")[0]


def test_the_sum_of_several_classes_is_called_a_sum(report: Open) -> None:
    key = KEY._replace(target="label")
    shown = report(made({key: MAPS}, PICTURES, true=[[0, 1], [0]], score="sigmoid"), hash="#probe=0")
    row = ".detail-numbers table tbody tr:last-child"
    assert shown.texts(f"{row} th") == ["explained sigmoid"]
    assert shown.texts(f"{row} td") == ["sum over 2 classes: 1.5"]

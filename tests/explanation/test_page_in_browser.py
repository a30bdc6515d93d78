"""The page of an explanation as a browser draws it: `apt install chromium`, or Chrome."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from coopgen_jax.explanation.explanation_page import render_explanation
from tests.explanation.small_explanation import CLASSES, made

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A bar on a card, and a bar of a word that moves nothing, in light colours.
BLUE, GREY = (95, 146, 199), (192, 192, 192)


def drawn(page, folder, width):
    """Returns the pixels `[H, W, 3]` of a page, and what the browser says on its console."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    assert browser, f"this test draws a page: install one of {', '.join(NAMES)}"
    (folder / "page.html").write_text(page, encoding="utf-8")
    picture = folder / f"{width}.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--enable-logging=stderr", "--blink-settings=preferredColorScheme=1",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1600",
         f"--screenshot={picture}", (folder / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.exists(), done.stderr
    told = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return np.asarray(Image.open(picture).convert("RGB")).astype(int), told


def runs(pixels, colour):
    """Returns the widths of what is drawn in a colour, a number for each bar, the topmost first."""
    near = (np.abs(pixels - np.array(colour)).max(axis=-1) <= 3).sum(axis=1)
    rows = np.flatnonzero(near >= 80)
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [int(near[group].max()) for group in groups if len(group)]


@pytest.mark.slow
def test_bars_are_as_long_as_they_should_be_and_nothing_runs(tmp_path):
    page = render_explanation(made(), top=2)
    pixels, told = drawn(page, tmp_path, 1200)
    assert told == [], "no script ran, and nothing was refused"
    (still,) = runs(pixels, GREY)
    # Side by side stand: sun and moon; stone alone, beside wind, which is grey; sun and comet.
    both, stone, moving = runs(pixels, BLUE)[:3]
    assert both == pytest.approx(2 * stone, rel=0.1) and still == pytest.approx(stone, rel=0.1)
    assert moving > stone


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_it_fits_the_window(tmp_path, width):
    pixels, _ = drawn(render_explanation(made(), contrast=CLASSES), tmp_path, width)
    edge = pixels[:, -8:]
    assert (edge == edge[0, 0]).all(), "nothing is drawn over the right edge"
    assert len(np.unique(pixels[:, : width // 2].reshape(-1, 3), axis=0)) > 20

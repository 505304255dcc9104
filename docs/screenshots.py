"""Takes screenshots of pages in Chromium.

    python docs/screenshots.py runs/first/report.html docs/figures/report.png [--width 1280 --height 900]

Needs Chromium, its driver and selenium (the test extra). `tutorial_run.py` takes those of `own-data.md`.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MARGIN = 16  # pixels around a part of a page
AREA = """
const box = document.getElementById(arguments[0]).getBoundingClientRect(), margin = arguments[1];
return {x: box.x + scrollX - margin, y: box.y + scrollY - margin,
        width: box.width + 2 * margin, height: box.height + 2 * margin};
"""


# images that are loaded when they are scrolled to
LOADED = """
const images = [...document.images], done = arguments[arguments.length - 1];
for (const image of images) image.loading = "eager";
Promise.allSettled(images.map(image => image.decode())).then(done);
"""


@dataclass(frozen=True)
class Shot:
    """A screenshot of a page.

    Attributes:
        name: Of the image file, without `.png`.
        page: HTML file, below the folder of the run.
        element: Id of the part that is shown; without one, the window.
        click: CSS selector of what is clicked first.
        width: Of the window, in pixels.
        height: Likewise.
    """

    name: str
    page: str
    element: str = ""
    click: str = ""
    width: int = 1280
    height: int = 900


def take_all(shots: Iterable[Shot], folder: Path, images: Path) -> None:
    """Write `<images>/<name>.png` of every shot.

    Args:
        shots: What to take.
        folder: The pages are below it.
        images: Where the images go.
    """
    driver = shutil.which("chromedriver")
    if driver is None:
        sys.exit(
            "Screenshots need Chromium and its driver (chromedriver), which are not installed."
        )
    from selenium import webdriver

    images.mkdir(parents=True, exist_ok=True)
    flags = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        flags.add_argument(argument)
    with webdriver.Chrome(flags, webdriver.ChromeService(driver)) as browser:
        browser.set_page_load_timeout(300)
        for shot in shots:
            # a window has a smallest width; what the page sees has none
            size = {"width": shot.width, "height": shot.height}
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {**size, "deviceScaleFactor": 1, "mobile": shot.width < 600},
            )
            browser.get((folder / shot.page).resolve().as_uri())
            if shot.click:
                browser.execute_script("document.querySelector(arguments[0]).click()", shot.click)
            browser.execute_async_script(LOADED)
            if shot.element:
                area = browser.execute_script(AREA, shot.element, MARGIN)
                how = {"clip": {**area, "scale": 1}, "captureBeyondViewport": True}
            else:
                how = {}
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", how)["data"]
            shown = Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB")
            shown.save(images / f"{shot.name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    given = parser.parse_args()
    shot = Shot(given.image.stem, given.page.name, width=given.width, height=given.height)
    take_all([shot], given.page.parent, given.image.parent)

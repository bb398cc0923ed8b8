"""A real browser without a window, for what only a browser can tell of a page.

As a program it photographs the top of a page: ``headless.py PAGE.html PICTURE.png [WIDTH HEIGHT]``.
"""

import base64
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")


def started() -> Iterator:
    """The driver; skips where there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    if binary is None or shutil.which("chromedriver") is None:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser, path, width=1400, dark=False, seconds=60):
    """The page at a width, in the reader's light or dark colours."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    browser.get(path.as_uri())
    WebDriverWait(browser, seconds).until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")


def complaints(browser) -> list[str]:
    """What the browser's console said since it was asked last."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def move(browser, slider, value):
    """Bring a slider to a value."""
    program = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(program, slider, value)


def said(browser, name) -> str:
    """The text of an element by its id."""
    return browser.find_element("id", name).text


def photograph(page: Path, picture: Path, width: int = 1400, height: int = 1860) -> None:
    """The top of a page as a PNG."""
    browser = started()
    driver = next(browser)
    opened(driver, page.resolve(), width)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")
    # A third of its bytes; the palette covers all colours, also that of a short dashed line.
    palette = image.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(picture, optimize=True)
    browser.close()


if __name__ == "__main__":
    photograph(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))

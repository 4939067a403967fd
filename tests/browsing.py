"""A real Chromium, driven by its own driver; tests skip with a reason where there is none."""

import contextlib
import functools
import http.server
import os
import shutil
import threading
import time

import pytest

_SECONDS = 60


@contextlib.contextmanager
def browser(width=1100, height=900):
    """A headless Chromium that reaches this machine alone."""
    pytest.importorskip("selenium", reason="needs selenium")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    os.environ["SE_AVOID_STATS"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driving = webdriver.Chrome(options=options, service=Service(driver))
    try:
        driving.set_script_timeout(_SECONDS)
        yield driving
    finally:
        driving.quit()


def wait_until(condition, what):
    """Waits until a function says yes."""
    end = time.monotonic() + _SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def open_page(driving, address):
    """Opens the page and waits until it takes images."""
    driving.get(str(address))
    wait_until(lambda: find_all(driving, "body.ready"), f"{address} is not ready")


def find_all(driving, selector):
    """The elements of a CSS selector."""
    from selenium.webdriver.common.by import By

    return driving.find_elements(By.CSS_SELECTOR, selector)


def choose(driving, *paths):
    """Chooses files as a person does."""
    (field,) = find_all(driving, "#files")
    field.send_keys("\n".join(map(str, paths)))


def cards(driving, count):
    """What the newest cards say, when none waits any more, oldest first."""
    wait_until(lambda: len(find_all(driving, ".card")) >= count and not find_all(driving, ".card.waiting"), "no answer")
    return driving.execute_script(
        """return [...document.querySelectorAll(".card")].reverse().map((card) => ({
          file: card.querySelector(".file").textContent,
          label: card.querySelector(".label").firstChild.textContent,
          unsure: card.classList.contains("unsure"),
          failed: card.classList.contains("failed"),
          text: card.textContent,
          bars: [...card.querySelectorAll("dt")].map((name) => name.textContent),
          percent: [...card.querySelectorAll(".percent")].map((one) => one.textContent),
        }))"""
    )


def seen_pixels(driving):
    """The RGB values of the squares that the cards show, oldest first."""
    return driving.execute_script(
        """return [...document.querySelectorAll("canvas.seen")].reverse().map((canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [...data].filter((_, i) => i % 4 < 3);
        })"""
    )


def complaints(driving):
    """What the console has of errors and warnings, but for one about how the tests themselves read the squares."""
    lines = [line["message"] for line in driving.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    return [line for line in lines if "willReadFrequently" not in line]


def requested(driving):
    """The addresses that the page has asked for, but for what is within it."""
    import json

    found = set()
    for line in driving.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
    return {address for address in found if not address.startswith(("data:", "blob:"))}


@contextlib.contextmanager
def static_host(folder):
    """Serves a folder as any static host does; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()

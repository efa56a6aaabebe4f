"""The browser of the tests: the system's Chromium, headless, driven by Playwright."""

import os
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

REQUIRED = bool(os.environ.get("COURSE_REQUIRE_BROWSER"))  # set by .ci/run
CHROMIUM = "/usr/bin/chromium"
SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE = 30  # seconds for a page to react on a busy machine


@pytest.fixture(scope="module")
def browser():
    missing = [name for name in (CHROMIUM, "make") if not shutil.which(name)]
    if missing:
        sentence = f"{' and '.join(missing)} not found: on Debian, `apt-get install chromium make` brings both."
        pytest.fail(sentence) if REQUIRED else pytest.skip(sentence)
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split())
        yield browser
        browser.close()

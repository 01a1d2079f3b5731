"""A headless Chromium for tests of pages; a test is skipped where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["chromium"]

#: What a test has no use for, and what takes processor time with each page.
UNUSED = ("BackForwardCache", "MediaRouter", "OptimizationHints", "SpareRendererForSitePerProcess", "Translate")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """The browser, with its data in the folder ``profile``."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "window-size=1400,900", f"user-data-dir={profile}",
        "disable-extensions", "in-process-gpu", f"disable-features={','.join(UNUSED)}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()

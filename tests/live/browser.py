"""Jaeger's web pages as a person uses them, in a headless Chromium."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

# Jaeger may sit on an emulated VM, with a megabyte and a half of JavaScript to send.
SECONDS = 90
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--window-size=1400,700",
)


@dataclass(frozen=True)
class ShownSpan:
    """A row of the trace's timeline, as it stands on the page."""

    service: str
    operation: str
    duration: str


@contextmanager
def chromium() -> Iterator[WebDriver]:
    """Start the system's Chromium with its own driver and a profile of its own.

    Both programs are named, so Selenium looks for nothing and downloads nothing.
    """
    options = Options()
    options.binary_location = shutil.which("chromium") or "/usr/bin/chromium"
    driver = shutil.which("chromedriver") or "/usr/bin/chromedriver"
    with tempfile.TemporaryDirectory(prefix="vmesh-chromium-") as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium refuses to be root with one
        browser = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        try:
            yield browser
        finally:
            browser.quit()


def find_traces(browser: WebDriver, jaeger_url: str, service: str) -> list[WebElement]:
    """Open the UI, choose `service`, press Find Traces; return the links of the traces found."""
    browser.get(jaeger_url)
    chooser = _wait(browser, ".ant-select[name=service] input")[0]
    chooser.send_keys(service)
    _wait(browser, f".ant-select-item-option[title='{service}']")
    chooser.send_keys(Keys.ENTER)
    button = browser.find_element(By.CSS_SELECTOR, "button[data-test=submit-btn]")
    assert button.text == "Find Traces"
    WebDriverWait(browser, SECONDS).until(lambda _: button.is_enabled())
    button.click()
    return _wait(browser, "a.ResultItemTitle--item[href*='/trace/']")


def open_trace(browser: WebDriver, link: WebElement) -> list[ShownSpan]:
    """Click a trace of the list; return the rows of its timeline."""
    link.click()
    rows = _wait(browser, ".VirtualizedTraceView--row .span-row")
    # Away with the mouse: the row under it is shown otherwise.
    title = browser.find_element(By.CSS_SELECTOR, "h1.TracePageHeader--title")
    ActionChains(browser).move_to_element(title).perform()
    return [
        ShownSpan(
            row.find_element(By.CSS_SELECTOR, ".span-svc-name").text,
            row.find_element(By.CSS_SELECTOR, ".endpoint-name").text,
            _duration(row.find_element(By.CSS_SELECTOR, ".SpanBar--bar")),
        )
        for row in rows
    ]


def _duration(bar: WebElement) -> str:
    """Return the duration beside a bar; under the mouse the label names the span as well."""
    parts = (bar.get_attribute("aria-label") or "").split(" | ")
    return next(part for part in parts if "::" not in part)


def _wait(browser: WebDriver, selector: str) -> list[WebElement]:
    return WebDriverWait(browser, SECONDS).until(
        lambda _: browser.find_elements(By.CSS_SELECTOR, selector),
        f"nothing on {browser.current_url} matches {selector}",
    )

"""A real browser at a running app."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from proxtune.feedback.store import Store
from proxtune.feedback.web.app import create_app

PATIENCE = 20.0  # seconds, on a machine that has much else to do


class Browser:
    """Chromium, and what a person does in it."""

    def __init__(self) -> None:
        program, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if program is None or driver is None:
            message = "Chromium is not installed: apt-get install chromium chromium-driver"
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--lang=en"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        self.size(1280, 800)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def connected(self, yes: bool) -> None:
        conditions = {"offline": not yes, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    def log_in(self, url: str, name: str, password: str) -> None:
        self.driver.get(f"{url}/login")
        self.find("input[name=name]").send_keys(name)
        self.find("input[name=password]").send_keys(password + Keys.ENTER)
        self.until(lambda: "/login" not in self.driver.current_url)

    def press(self, *keys: str) -> None:
        """Keys one after another; "shift+x" and "control+x" are held together."""
        for key in keys:
            held, _, last = key.rpartition("+")
            actions = webdriver.ActionChains(self.driver)
            if held:
                holder = getattr(Keys, held.upper())
                actions.key_down(holder).send_keys(last).key_up(holder).perform()
            else:
                actions.send_keys(key).perform()

    def find(self, selector: str) -> WebElement:
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector))
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"it never came; the page says: {self.driver.page_source[-3000:]}"
            time.sleep(0.03)

    def shows(self, text: str, selector: str = "#task") -> None:
        """Wait for a text to be seen."""
        self.until(lambda: text in self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def requested(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def complaints(self) -> list[str]:
        """What the console says since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def forget(self) -> None:
        """Be another browser: no cookies, nothing kept."""
        self.connected(yes=True)
        if self.driver.current_url.startswith("http"):
            self.run("localStorage.clear()")
        self.driver.delete_all_cookies()
        self.requested()
        self.complaints()
        self.size(1280, 800)


@contextmanager
def served(store: Store) -> Iterator[str]:
    """The app of a store, on a free port."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(create_app(store, secret=b"s" * 32), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    server.force_exit = True
    thread.join()

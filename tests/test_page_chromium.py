"""The page in a real browser: keys change the picture, frames keep coming, the console stays silent."""

import base64
import io
import shutil
import subprocess
import sys
from contextlib import contextmanager

import imageio.v3 as iio
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from worldsim.envs.arena import decode

pytestmark = pytest.mark.slow
QUIET = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"


@pytest.fixture(scope="module")
def address():
    """Yields the address of a page where the arena that ships is played, as its command prints it."""
    command = [sys.executable, "-m", "worldsim", "play", "world=arena", "serve=127.0.0.1:0", "seed=3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().split()[2]
        assert server.poll() is None
        server.terminate()


@contextmanager
def browser(address):
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.fail("expected Chromium for this test: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for word in QUIET.split():
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(address)
        yield Page(driver)
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


class Page:
    def __init__(self, driver):
        self.driver = driver
        self.until(lambda: self.number("age") > 0)

    def until(self, holds, seconds=60):
        WebDriverWait(self.driver, seconds, 0.02).until(lambda _: holds())

    def run(self, code):
        return self.driver.execute_script(f"return {code}")

    def number(self, name):
        words = self.run("element('#figures').textContent").split()
        return int(words[words.index(name) + 1]) if name in words else -1

    @property
    def word(self):
        return self.run("element('#word').textContent")

    @property
    def picture(self):
        return iio.imread(io.BytesIO(base64.b64decode(self.run("canvas.toDataURL().split(',')[1]"))))[..., :3]

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    @contextmanager
    def held(self, key):
        ActionChains(self.driver).key_down(key).perform()
        yield
        ActionChains(self.driver).key_up(key).perform()


WAYS = {"d": (1, 0), "a": (-1, 0), "w": (0, -1), "s": (0, 1)}


def test_keys_move_the_agent_and_three_hundred_frames_come_without_a_word_in_the_console(address):
    with browser(address) as page:
        page.run("(numDrawn = 0, draw = ((first) => (blob) => (numDrawn += 1, first(blob)))(draw), 0)")
        farthest = dict.fromkeys(WAYS, 0)
        for key, way in [*WAYS.items()] * 3:
            age, before = page.number("age"), decode(page.picture)["agent"]
            with page.held(key):
                page.until(lambda age=age: not age <= page.number("age") < age + 10)
            if page.number("age") > age and before and (after := decode(page.picture)["agent"]):
                farthest[key] = max(farthest[key], np.subtract(after, before) @ way)
        page.until(lambda: page.run("numDrawn") >= 300)
        assert page.word in ("", "the end") and min(farthest.values()) >= 8, farthest


def test_the_keys_of_the_page(address):
    with browser(address) as page, browser(address + "?seed=77") as other:
        seed = page.number("seed")
        assert other.number("seed") == 77 != seed
        page.until(lambda: page.number("players") == 2)
        page.until(lambda: page.number("age") > 20)
        page.press(" ")
        page.until(lambda: page.word == "paused")
        age, picture = page.number("age"), page.picture
        page.press(".")
        page.until(lambda: page.number("age") == age + 1)
        assert (page.picture != picture).any()
        with page.held(Keys.BACKSPACE):
            page.until(lambda: page.number("age") <= age - 10)
        page.press("n")
        page.until(lambda: page.number("seed") not in (77, seed))
        width = page.run("canvas.clientWidth")
        page.press("-")
        page.press("h")
        assert page.run("canvas.clientWidth") == width - 64 and page.run("document.body.className") == "bare"
        page.press(Keys.ESCAPE)
        page.until(lambda: page.word.endswith("reload to play"))
        other.until(lambda: other.number("players") == 1)

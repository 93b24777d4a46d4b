"""The real server: started as a user starts it, its page driven in Chromium, ended by SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx2 as httpx
import pytest

from tests.looking import chromium
from tests.pipelines.serving.uploads import MIDDLE, TELE, WIDE, pair

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[3]
TOKEN = "0123456789abcdef0123456789abcdef"
START_S = 400
"""A cluster, a proxy and two replicas, where others work too."""
PATIENCE_MS = 120_000

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


class Server(NamedTuple):
    address: str
    process: subprocess.Popen[str]
    log: Path
    scratch: Path


@pytest.fixture(scope="module")
def server(served_checkpoint, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    scratch = folder / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    command = [sys.executable, str(ROOT / "pipelines" / "serve.py"), "--port", str(port)]
    command += ["--checkpoint", served_checkpoint, "--device", "cpu", "--max-mb", "1"]
    environment = os.environ | {"SDDUSR_SERVE_TOKEN": TOKEN, "TMPDIR": str(scratch)}
    with log.open("w") as told:
        process = subprocess.Popen(
            command,
            env=environment | {"RAY_TMPDIR": "/tmp", "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=told,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    found = Server(f"http://127.0.0.1:{port}/", process, log, scratch)
    try:
        _wait_until_up(found)
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(server: Server) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.process.poll() is None:
        if "health  http" in server.log.read_text():
            return
        time.sleep(0.5)
    pytest.fail(f"the server did not start: {server.log.read_text()[-3000:]}")


def expect(locator):
    """Playwright's, which may be missing where these tests are skipped."""
    from playwright.sync_api import expect as expect_it

    expect_it.set_options(timeout=PATIENCE_MS)
    return expect_it(locator)


def files_in(folder: Path) -> list[str]:
    found = folder.rglob("*")
    return [str(file) for file in found if file.is_file() and file.name != "lock"]


def test_the_server_answers_and_refuses_over_a_real_connection(server: Server):
    with httpx.Client(base_url=server.address, timeout=200) as client:
        health = client.get("health").json()
        assert (health["status"], health["replicas"]) == ("ok", 1)
        assert client.post("upscale", files=pair()).status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        box = {"box": ",".join(map(str, MIDDLE))}
        made = client.post("upscale", files=pair(), data=box, headers=bearer)
        assert made.status_code == 200, made.text
        assert made.content.startswith(b"\xff\xd8")
        large = pair(wide=("w.png", b"x" * 2_000_000, "image/png"))
        assert client.post("upscale", files=large, headers=bearer).status_code == 413
        bad = pair(wide=("w.png", b"\x89PNG torn", "image/png"))
        refused = client.post("upscale", files=bad, headers=bearer)
        assert refused.status_code == 422
        assert refused.json()["error"].startswith("wide: ")
    assert files_in(server.scratch) == []


def test_the_page_makes_a_picture(server: Server, tmp_path):
    for name, content in (("wide", WIDE), ("tele", TELE)):
        (tmp_path / f"{name}.png").write_bytes(content)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.address)
        assert page.locator("#upscale").is_disabled()
        page.set_input_files("#wide", tmp_path / "wide.png")
        page.set_input_files("#tele", tmp_path / "tele.png")
        _say_what_is_wrong(page)
        errors.clear()  # the browser's own lines about 401 and 422
        _make(page)
        _look_at_it(page)
        assert errors == []
        assert all(url.startswith((server.address, "data:", "blob:")) for url in asked)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def _say_what_is_wrong(page: Page) -> None:
    """Without the token, and with a box that does not fit."""
    page.click("#upscale")
    page.wait_for_selector("#problem:not([hidden])")
    assert "the token is missing" in page.inner_text("#problem")
    page.fill("#token", TOKEN)
    page.select_option("#place", "box")
    page.fill("#box", "0, 9999, 0, 80")
    page.click("#upscale")
    expect(page.locator("#problem")).to_contain_text("(422)")


def _make(page: Page) -> None:
    page.fill("#box", ", ".join(map(str, MIDDLE)))
    page.click("#upscale")
    page.wait_for_selector("#result:not([hidden])")
    expect(page.locator("#right-image")).to_have_js_property("naturalWidth", 160)


def _look_at_it(page: Page) -> None:
    assert page.locator("#problem").is_hidden()
    assert page.evaluate("document.getElementById('left-image').naturalWidth") == 80
    seam = "document.getElementById('left-image').style.clipPath"
    before = page.evaluate(seam)
    page.locator("#divider").fill("80")
    assert page.evaluate(seam) != before
    page.locator("#stage").press("ArrowLeft")
    assert page.locator("#divider").input_value() == "78"
    page.locator("#stage").press("+")
    assert page.inner_text("#zoom") == "1.5×"
    assert page.locator("#trust-map").is_hidden()
    page.check("#show-trust")
    assert page.locator("#trust-map").is_visible()
    assert page.evaluate("document.getElementById('trust-map').width") == 160 // 4
    assert "160 × 128 pixels" in page.inner_text("#facts")
    assert '"made_by": "sddusr"' in page.text_content("#record")
    for name, ending in (("image", "jpg"), ("record", "json"), ("trust", "png")):
        with page.expect_download() as saving:
            page.click(f"#save-{name}")
        assert saving.value.suggested_filename.endswith(ending)


def test_a_signal_ends_the_server_and_leaves_nothing(server: Server):
    """The last one: the server is gone afterwards."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 143
    told = server.log.read_text()
    assert "SIGTERM: the server has ended" in told
    assert "Traceback" not in told
    assert TOKEN not in told
    assert list(server.scratch.glob("sddusr-serve-*")) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}health")

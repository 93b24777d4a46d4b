"""Requests and answers: what is made, in which form, and what is refused with which status."""

import asyncio
import base64
import email
import json
from dataclasses import replace

import httpx2 as httpx
import numpy as np
import pytest

from pipelines.serving.access import read_token
from pipelines.serving.app import build_app
from pipelines.serving.messages import Refusal, RefusedError
from pipelines.serving.queue import Queue
from pipelines.serving.uploads import UploadLimits
from sddusr.imaging.encoding import encode_png
from sddusr.imaging.images import read_picture
from sddusr.photos.api import upscale
from tests.pipelines.serving.uploads import MAX_BYTES, MIDDLE, TELE, WIDE, client_of, pair

BOX = {"box": ",".join(map(str, MIDDLE))}
PNG = BOX | {"format": "png"}


def error_of(response: httpx.Response) -> str:
    (line,) = response.json()["error"].splitlines()
    return line


def left_behind(top) -> list[str]:
    return [str(file) for file in top.rglob("*") if file.is_file() and file.name != "lock"]


# What it makes


def test_the_image_is_the_one_that_the_library_makes(client, worker, scratch_top, tmp_path):
    response = client.post("/upscale", files=pair(), data=PNG)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["cache-control"] == "no-store"
    (tmp_path / "sr.png").write_bytes(response.content)
    for name, content in (("wide", WIDE), ("tele", TELE)):
        (tmp_path / f"{name}.png").write_bytes(content)
    box = tuple(MIDDLE)
    wanted = upscale(
        tmp_path / "wide.png", tmp_path / "tele.png", options=worker.options, box=box
    ).image
    assert np.array_equal(read_picture(str(tmp_path / "sr.png")).pixels, wanted)
    assert left_behind(scratch_top) == []


def test_json_holds_the_record_and_the_images(client):
    accept = {"Accept": "application/json"}
    answer = client.post("/upscale", files=pair(), data=BOX, headers=accept).json()
    assert answer["media_type"] == "image/jpeg"
    assert base64.b64decode(answer["image"]).startswith(b"\xff\xd8")
    record = answer["record"]
    assert record["result"]["size"] == [128, 160]
    assert record["result"]["box"] == MIDDLE
    assert record["wide"]["place"] == "IMG 1.png"
    assert record["tele"]["place"] == "IMG 2.png"
    assert record["checkpoint"] == "tiny"
    assert "/" not in json.dumps({**record, "made_from": None})
    trust = base64.b64decode(answer["trust"])
    assert int.from_bytes(trust[16:20]) == 160 // 4
    assert int.from_bytes(trust[20:24]) == 128 // 4
    assert "preview" not in answer


def test_a_form_holds_the_same_parts_as_files(client):
    accept = {"Accept": "multipart/form-data"}
    data = BOX | {"format": "webp", "preview": "true"}
    response = client.post("/upscale", files=pair(), data=data, headers=accept)
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    parts = {
        part.get_param("name", header="content-disposition"): part
        for part in email.message_from_bytes(head + response.content).get_payload()
    }
    assert list(parts) == ["record", "image", "trust", "preview"]
    assert parts["image"].get_content_type() == "image/webp"
    assert parts["preview"].get_payload(decode=True).startswith(b"\xff\xd8")
    assert json.loads(parts["record"].get_payload(decode=True))["result"]["bits"] == 8


def test_no_trust_leaves_the_tele_image_out_and_has_no_map(client):
    accept = {"Accept": "application/json"}
    data = BOX | {"trust": "0"}
    answer = client.post("/upscale", files=pair(), data=data, headers=accept).json()
    assert answer["trust"] is None
    assert answer["record"]["ref"]["taken_share"] == 0
    middle = {"centered": "true", "trust": "0.5"}
    answer = client.post("/upscale", files=pair(), data=middle, headers=accept).json()
    assert answer["record"]["made_from"]["placement"] == "middle"
    assert answer["record"]["made_from"]["trust"] == 0.5


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert '"needs_token": false' in page.text
    for name in ("page.css", "page.js", "slider.js"):
        assert name in page.text
        found = client.get(f"/{name}")
        assert found.status_code == 200
        assert "://" not in found.text
    assert "://" not in page.text


def test_health_says_what_there_is_to_do(client, service):
    assert client.get("/health").json() == {
        "status": "ok",
        "network": "tiny",
        "replicas": 1,
        "running": 0,
        "waiting": 0,
    }

    async def none() -> int:
        return 0

    response = client_of(replace(service, num_ready=none)).get("/health")
    assert response.status_code == 503
    assert response.json()["status"] == "no replica is up"


# What it refuses


@pytest.mark.parametrize(
    ("files", "data", "status", "message"),
    [
        ({"tele": None}, {}, 400, "tele is missing, need an image"),
        ({"wide": ("w.png", b"", "image/png")}, {}, 400, "wide is empty, need an image"),
        ({}, {"trust": "2"}, 400, "trust is 2, need 0 to 1"),
        ({}, {"trust": "nan"}, 400, "trust is nan, need 0 to 1"),
        ({}, {"trust": "much"}, 400, "trust is 'much', need a number"),
        ({}, {"quality": "0"}, 400, "quality is 0, need 1 to 100"),
        ({}, {"format": "gif"}, 400, "format is 'gif', need one of jpg, png, webp, tif"),
        ({}, {"box": "1,2,3"}, 400, "box is '1,2,3', need y0,y1,x0,x1"),
        ({}, BOX | {"centered": "true"}, 400, "centered and box each say where Ref lies"),
        ({}, {"colour": "red"}, 400, "unknown field 'colour', need wide, tele and any of box"),
        ({}, {"box": "0,9999,0,80"}, 422, "tele"),
        ({"wide": ("w.png", b"\x89PNG torn", "image/png")}, {}, 422, "wide: "),
        ({"tele": ("t.png", TELE[: len(TELE) // 2], "image/png")}, {}, 422, "tele: truncated"),
        ({"wide": ("w.svg", b"<svg/>", "image/svg+xml")}, {}, 422, "wide: "),
    ],
)
def test_a_bad_request_is_one_line(client, scratch_top, files, data, status, message):
    response = client.post("/upscale", files=pair(**files), data=data)
    assert response.status_code == status, response.text
    assert error_of(response).startswith(message)
    assert str(scratch_top) not in response.text
    assert left_behind(scratch_top) == []


def test_a_pair_that_shows_two_places_says_what_was_measured(client):
    response = client.post("/upscale", files=pair())
    assert response.status_code == 422
    assert error_of(response).startswith("tele in wide: ")
    assert "--" not in error_of(response)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(client, monkeypatch):
    def decodes(*_args):
        raise AssertionError("decoded")

    monkeypatch.setattr("sddusr.imaging.decoding.read_channels", decodes)
    large = encode_png(np.zeros((200, 300, 3), np.uint8))
    response = client.post("/upscale", files=pair(wide=("w.png", large, "image/png")))
    assert response.status_code == 413
    told = "wide: 200x300 is 0.1 megapixels, the limit is 0.1; send a smaller image"
    assert error_of(response) == told


def test_an_image_that_the_memory_does_not_hold_is_refused(client, worker, monkeypatch):
    monkeypatch.setattr(worker, "settings", replace(worker.settings, memory_bytes=1_000_000))
    response = client.post("/upscale", files=pair(), data=BOX)
    assert response.status_code == 413
    assert "need more memory than this server gives a picture (--memory)" in error_of(response)


def call(app, headers: dict[str, str], chunks) -> tuple[list, int]:
    """POST /upscale to the application itself; what it sent, and how often it read."""
    sent, num_read, chunks = [], 0, iter(chunks)

    async def receive():
        nonlocal num_read
        num_read += 1
        body = next(chunks, None)
        return {"type": "http.request", "body": body or b"", "more_body": body is not None}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/upscale",
        "raw_path": b"/upscale",
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in ({"host": "127.0.0.1"} | headers).items()
        ],
    }
    asyncio.run(app(scope, receive, send))
    return sent, num_read


FORM = {"content-type": "multipart/form-data; boundary=x"}
FILE_HEAD = b'--x\r\nContent-Disposition: form-data; name="wide"; filename="w"\r\n\r\n'


def test_a_body_that_says_that_it_is_too_large_is_not_read(service):
    headers = FORM | {"content-length": "1000000000"}
    sent, num_read = call(build_app(service), headers, [b"x" * 1000])
    assert sent[0]["status"] == 413
    assert num_read == 0
    assert b"1000.0 MB, this server takes 0.2 MB" in sent[1]["body"]


def test_a_body_without_a_length_is_read_up_to_the_limit(service):
    endless = (FILE_HEAD if number == 0 else b"x" * 10_000 for number in range(10**6))
    sent, num_read = call(build_app(service), FORM, endless)
    assert sent[0]["status"] == 413
    assert num_read <= MAX_BYTES // 10_000 + 3


def test_an_upload_that_never_ends_is_given_up(service):
    app = build_app(replace(service, limits=UploadLimits(MAX_BYTES, 0.2)))

    async def slow():
        await asyncio.sleep(60)

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/upscale", "query_string": b""}
    pairs = FORM | {"host": "127.0.0.1"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in pairs.items()]
    asyncio.run(app(scope, slow, send))
    assert sent[0]["status"] == 408
    assert service.queue.num_taken == 0


def test_only_a_form_is_taken(client):
    response = client.post("/upscale", json={"wide": "x"})
    assert response.status_code == 415
    assert client.post("/upscale", headers=FORM, content=b"no form").status_code == 400
    assert client.get("/upscale").status_code == 405
    assert error_of(client.get("/nothing")).endswith("need POST /upscale, GET / or GET /health")


# The queue


def test_beyond_the_queue_requests_are_refused_at_once(service):
    """One is made, two wait, the fourth and fifth are refused before their bodies are read."""

    async def scenario():
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def make(_request):
            begun.set()
            await go_on.wait()
            return Refusal(status=418, message="made")

        transport = httpx.ASGITransport(build_app(replace(service, make=make)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            first = [asyncio.create_task(client.post("/upscale", files=pair())) for _ in range(3)]
            await begun.wait()
            while service.queue.num_taken < 3:
                await asyncio.sleep(0.01)
            state = (await client.get("/health")).json()
            late = [await client.post("/upscale", files=pair()) for _ in range(2)]
            go_on.set()
            return state, late, await asyncio.gather(*first)

    state, late, first = asyncio.run(scenario())
    assert (state["running"], state["waiting"]) == (1, 2)
    assert [response.status_code for response in first] == [418] * 3
    for response in late:
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert "3 pictures are being made or wait, the server takes 3" in error_of(response)
    assert (service.queue.num_taken, service.queue.num_made_now) == (0, 0)


def test_a_failure_gives_its_place_back(service):
    async def breaks(_request):
        raise KeyError("bug")

    client = client_of(replace(service, make=breaks, queue=Queue(1, 0)))
    for _ in range(3):
        response = client.post("/upscale", files=pair())
        assert response.status_code == 500
        assert error_of(response) == "the server failed; its log has the reason"


def test_the_time_to_wait_is_what_pictures_took():
    async def scenario():
        queue = Queue(2, 0)
        async with queue.turn():
            pass
        queue._seconds.extend([9.0, 11.5])
        with queue.place(), queue.place(), pytest.raises(RefusedError) as refused, queue.place():
            pass
        return refused.value.headers

    assert asyncio.run(scenario()) == {"Retry-After": "4"}


# Who may use it


def test_with_a_token_only_the_api_asks_for_it(service, monkeypatch):
    token = "0123456789abcdef-token"
    monkeypatch.setenv("SDDUSR_SERVE_TOKEN", token)
    client = client_of(replace(service, token_sha256=read_token(None, is_needed=True)))
    assert client.get("/health").status_code == 200
    assert '"needs_token": true' in client.get("/").text
    for headers, told in (
        ({}, "the token is missing"),
        ({"Authorization": f"Bearer {token}x"}, "the token is wrong"),
        ({"Authorization": f"Basic {token}"}, "the token is wrong"),
        ({"Authorization": "Bearer é".encode()}, "the token is wrong"),
    ):
        response = client.post("/upscale", files=pair(), headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert error_of(response).startswith(told)
        assert token not in response.text
    right = {"Authorization": f"Bearer {token}", "Host": "sr.example.org"}
    assert client.post("/upscale", files=pair(), data=BOX, headers=right).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.example.org:8000"}]
)
def test_without_a_token_pages_of_other_sites_cannot_use_it(client, headers):
    response = client.post("/upscale", files=pair(), data=BOX, headers=headers)
    assert response.status_code == 403
    own = {"Sec-Fetch-Site": "same-origin", "Host": "localhost:8000"}
    assert client.post("/upscale", files=pair(), data=BOX, headers=own).status_code == 200

"""`longtail serve`: what it says is what `predict` says; malformed and hostile requests get a sentence."""

import base64
import io
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from longtail import api
from longtail.cli.serve import _is_loopback
from longtail.runs import Run, load
from longtail.serve import app as server
from longtail.serve.app import Served, build_app
from longtail.serve.neighbours import TrainingImages

pytest.importorskip("starlette")
from starlette.testclient import TestClient

HOSTS = ["127.0.0.1", "localhost", "[::1]"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    run = tmp_path_factory.mktemp("serve") / "digits"
    short = ["epochs=2", "batch_size=16", "backbone=resnet20"]
    api.train("digits-lt/cross-entropy", short, out=run, device="cpu")
    model = load(run, device="cpu")
    data = Run.open(run).open_data().split("train")
    data = data.normalised_by(model.metadata.mean, model.metadata.std)
    return Served("digits", model, TrainingImages(model, data), top=3, nearest=4)


@pytest.fixture
def client(served):
    return TestClient(
        build_app(served, HOSTS), base_url="http://127.0.0.1:8000", raise_server_exceptions=False
    )


def png(side=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width, height):
    """A PNG whose head says that it is huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def test_it_says_what_predict_says(client, served, tmp_path):
    content = png(20)
    said = client.post("/predict", content=content).json()
    file = tmp_path / "image.png"
    file.write_bytes(content)
    row = served.model.predict(file).iloc[0]
    for rank, one in enumerate(said["predictions"], start=1):
        assert one == {"class": row[f"class_{rank}"], "probability": row[f"probability_{rank}"]}
    assert len(said["predictions"]) == 3
    assert said["group"] == row["group"]


def test_images_are_in_the_response_only_if_they_are_asked_for(client):
    plain = client.post("/predict", content=png(20))
    assert set(plain.json()) == {"predictions", "group", "notes", "nearest"}
    assert [set(near) for near in plain.json()["nearest"]] == [{"name", "where", "cosine"}] * 4
    assert plain.json() == client.post("/predict?thumbnails=false", content=png(20)).json()
    asked = client.post("/predict?thumbnails=true", content=png(20)).json()
    view = Image.open(io.BytesIO(base64.b64decode(asked.pop("view"))))
    assert view.size == (8, 8)
    for near in asked["nearest"]:
        assert Image.open(io.BytesIO(base64.b64decode(near.pop("thumbnail")))).format == "JPEG"
    assert asked == plain.json()
    assert client.post("/predict?thumbnails=1", content=png(20)).status_code == 400


def test_a_training_image_is_its_own_nearest(served):
    data = served.training._data
    for row in (0, 17, 200):
        pixels = data.images.pixels[row].numpy()
        found = served.training.nearest(pixels, 4)
        assert found[0].cosine == pytest.approx(1, abs=1e-3)
        assert found[0].name == data.manifest.classes[data.manifest.labels[row]]
        assert [one.cosine for one in found] == sorted((one.cosine for one in found), reverse=True)
        assert len(found) == 4


def test_a_calibrated_model_says_what_it_accepts(served, client, monkeypatch):
    import pandas as pd

    table = pd.DataFrame(
        [{"path": "image", "class_1": "3", "probability_1": 0.9, "group": "few", "accepted_as": None,
          "prediction_set": "3, 8", "typical": 0.2, "unusual": True, "error": None}]
    )  # fmt: skip
    monkeypatch.setattr(type(served.model), "predict", lambda *given, **more: table)
    said = client.post("/predict", content=png()).json()
    assert (said["accepted_as"], said["prediction_set"], said["unusual"]) == (None, "3, 8", True)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"no image at all", 400),
        (png()[:60], 400),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 400),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        (b"/etc/passwd", 400),
        (b"GIF89a" + b"\xff" * 50, 400),
        (bomb(60_000, 60_000), 400),  # more than any image has
        (bomb(9_000, 9_000), 413),  # more than is served
        (b"\xff\xd8\xff" + bytes(range(256)) * 4, 400),
    ],
)
def test_what_is_no_image_gets_a_sentence(client, content, status):
    answered = client.post("/predict", content=content)
    assert answered.status_code == status
    assert set(answered.json()) == {"error"}
    assert "/tmp" not in answered.text
    assert client.post("/predict", content=png()).status_code == 200  # it still serves


def test_random_damage_never_ends_in_an_error_of_the_server(client):
    rng = np.random.default_rng(3)
    whole = np.frombuffer(png(30), np.uint8)
    for _ in range(40):
        damaged = whole.copy()
        places = rng.integers(0, len(damaged), 5)
        damaged[places] = rng.integers(0, 256, 5)
        cut = int(rng.integers(1, len(damaged) + 1))
        assert client.post("/predict", content=damaged[:cut].tobytes()).status_code in (
            200,
            400,
            413,
        )


def test_limits(client, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 1000)
    large = client.post("/predict", content=b"x" * 1001)
    assert large.status_code == 413
    # also where no length is said beforehand, and no more is read than may be
    read = []

    def stream():
        for number in range(1000):
            read.append(number)
            yield b"x" * 100

    assert client.post("/predict", content=stream()).status_code == 413


def test_forms_are_told_what_to_send(client):
    sent = client.post("/predict", files={"image": ("../../etc/passwd", png())})
    assert sent.status_code == 415
    assert "--data-binary" in sent.json()["error"]


def test_who_gets_instead_of_posting_is_told_how_to_ask(client):
    found = client.get("/predict?thumbnails=true")
    assert found.status_code == 405
    assert found.headers["allow"] == "POST"
    assert found.json()["error"] == (
        "/predict takes POST. Send the bytes of one image as the body: curl --data-binary @photo.jpg "
        "http://127.0.0.1:8000/predict"
    )
    assert client.post("/", content=png()).json()["error"] == "Method Not Allowed"


def test_other_sites_and_other_names_are_refused(client):
    evil = client.post("/predict", content=png(), headers={"Origin": "http://evil.example"})
    assert evil.status_code == 403
    null = client.post("/predict", content=png(), headers={"Origin": "null"})
    assert null.status_code == 403
    own = client.post("/predict", content=png(), headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200
    # a name that an attacker's name server points to this machine
    for path in ("/", "/about", "/page.js"):
        assert client.get(path, headers={"Host": "evil.example:8000"}).status_code == 400
    assert "access-control-allow-origin" not in own.headers


def test_only_its_own_files_are_given_out(client):
    for path in (
        "/page.html",
        "/app.py",
        "/../app.py",
        "/%2e%2e/app.py",
        "/page.css/../app.py",
        "//etc/passwd",
    ):
        assert client.get(path).status_code == 404, path
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ):
        found = client.get(path)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs").status_code == 404


def test_loopback():
    assert all(map(_is_loopback, ("127.0.0.1", "::1", "localhost", "127.1.2.3")))
    assert not any(map(_is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org")))


def test_a_port_in_use_is_told_at_once(tmp_path, longtail):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, errors = longtail("serve", tmp_path, "--port", taken.getsockname()[1])
    assert status == 2
    assert "--port 0 takes a free port" in errors


@pytest.mark.slow
def test_in_a_browser(served, tmp_path):
    uvicorn = pytest.importorskip("uvicorn")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.support.ui import WebDriverWait

    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    running = uvicorn.Server(uvicorn.Config(build_app(served, HOSTS), log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options)
    good, bad = tmp_path / "<img src=x onerror=alert(1)>.png", tmp_path / "bad.png"
    good.write_bytes(png(40))
    bad.write_bytes(b"no image")
    try:
        browser.get(address)
        browser.find_element("id", "files").send_keys(f"{good}\n{bad}")
        WebDriverWait(browser, 60).until(
            lambda b: b.find_element("id", "status").text == "2 images done"
        )
        newest, first = browser.find_elements("tag name", "article")
        assert "no image that can be read" in newest.text
        expected = served.model.predict(good).iloc[0]
        best = first.find_element("class name", "first").text
        assert best == f"{expected.class_1}, {100 * expected.probability_1:.1f} %"
        assert len(first.find_elements("css selector", ".sheet img")) == 4
        widths = "return Array.from(document.images).map(image => image.naturalWidth)"
        assert all(browser.execute_script(widths))
        assert good.name in first.text  # as text, not as markup
        for width in (390, 1280):
            browser.set_window_size(width, 900)
            time.sleep(0.2)
            script = "return document.documentElement.scrollWidth <= window.innerWidth"
            assert browser.execute_script(script)
        severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert all("400" in line["message"] for line in severe), severe
    finally:
        browser.quit()
        running.should_exit = True
        thread.join(10)

"""`swan serve`: the JSON API, the page in a real browser, and what it refuses."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlencode, urlsplit

import h5py
import pytest
import torch
from conftest import invoke
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from swancli.evaluate.match_threshold import MatchThreshold
from swancli.query.questions import Scope
from swancli.query.search import open_search
from swancli.query.serve import REPLACED, SearchRequest, Service, application, listen
from swancli.store.pictures import pictures_of

BROWSER = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
BROWSER += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def served(finished):
    """The address of a server on the finished root, in a process of its own."""
    command = [sys.executable, "-m", "swancli", "serve", "--port", "0"]
    environment = {**os.environ, "SWAN_ROOT": str(finished.root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        yield SimpleNamespace(address=server.stdout.readline().strip(), process=server)
        server.terminate()


def request(served, path, method="GET", body=None, headers=None):
    """Status, content type and body of an answer; the path goes out as it is given."""
    connection = http.client.HTTPConnection(urlsplit(served.address).netloc, timeout=60)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers.get("Content-Type", ""), answer.read()


def search(served, **parameters):
    status, _, body = request(served, "/api/search?" + urlencode(parameters, doseq=True))
    return status, json.loads(body)


def test_it_listens_on_loopback_alone(served):
    assert served.address.startswith("http://127.0.0.1:")


def test_api_answers_what_the_command_does(served, finished):
    status, found = search(served, text="boats in the harbor", top_k=5)
    assert status == 200
    printed = invoke("query", "boats in the harbor", "-k", "5", "--json", root=finished.root)
    wanted = json.loads(printed.stdout)
    assert [hit["filename"] for hit in found["results"]] == [hit["filename"] for hit in wanted["results"]]
    assert [hit["score"] for hit in found["results"]] == pytest.approx(
        [hit["score"] for hit in wanted["results"]], abs=1e-5
    )
    status, kind, picture = request(served, found["results"][0]["image"])
    assert (status, kind) == (200, "image/jpeg")
    assert picture.startswith(b"\xff\xd8")


def test_api_filters_excludes_and_averages(served):
    _, found = search(served, text=["boats", "a harbor"], **{"not": "planes"}, scene="harbor", split="train")
    assert found["query"] == "boats + a harbor - planes"
    assert {hit["scene"] for hit in found["results"]} == {"harbor"}
    _, captions = search(served, text="boats", find="captions", files="harbor_*", top_k=3)
    assert [len(hit["captions"]) for hit in captions["results"]] == [1, 1, 1]


def test_minimum_score_may_be_that_of_a_match(served, finished):
    stored = torch.load(finished.run / "best.pt", weights_only=True)["origin"]["match_threshold"]
    options = {"like": 3, "scene": "harbor", "top_k": 60}
    _, everything = search(served, **options)
    least = MatchThreshold(**stored).among(len(everything["results"]))
    _, found = search(served, **options, threshold="auto")
    assert found["results"] == [hit for hit in everything["results"] if hit["score"] >= least]


def test_image_is_uploaded_and_searched_by(served, source):
    data = (source / "images" / "harbor_2.png").read_bytes()
    status, _, body = request(served, "/api/image?name=mine.png", "POST", data)
    assert status == 200
    _, found = search(served, image=json.loads(body)["image"])
    assert found["query"] == "mine.png"
    assert found["results"][0]["filename"] == "harbor_2.png"
    _, again = search(served, like=urlsplit(found["results"][0]["image"]).path.split("/")[-1])
    assert again["results"][0]["filename"] == "harbor_2.png"


def test_open_api_document_describes_it(served):
    document = json.loads(request(served, "/api/openapi.json")[2])
    names = {parameter["name"] for parameter in document["paths"]["/api/search"]["get"]["parameters"]}
    assert {"text", "not", "scene", "split", "files", "top_k", "threshold", "find"} <= names


@pytest.mark.parametrize(
    ("parameters", "status", "said"),
    [
        ({}, 400, "nothing to search for"),
        ({"text": "???"}, 400, "no word"),
        ({"text": "boats", "scene": "moon"}, 400, "moon"),
        ({"like": "9999"}, 400, "no image 9999"),
        ({"image": "0" * 32}, 400, "upload it again"),
        ({"text": "x" * 2001}, 422, "2000"),
        ({"text": ["x " * 600] * 2}, 422, "2000 characters together"),
        ({"text": ["boats"] * 11, "not": ["trees"] * 10}, 422, "at most 20 texts"),
        ({"text": "boats", "files": "*" * 256}, 422, "255"),
        ({"text": "boats", "like": "3"}, 400, "more than one way"),
        ({"like": "3", "not": "boats"}, 400, "not: needs a text"),
        ({"text": "boats", "threshold": "nan"}, 400, "from -1 to 1"),
        ({"text": "boats", "top_k": "0"}, 422, "top_k"),
    ],
)
def test_wrong_request_is_reported_in_a_line(served, parameters, status, said):
    answered, body = search(served, **parameters)
    assert answered == status
    assert said in body["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/image/../../../../etc/passwd",
        "/image/..%2f..%2f..%2fetc%2fpasswd",
        "/image/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/upload/../../etc/passwd",
        "/upload/..%2f..%2fetc%2fpasswd",
        "/image/harbor_1.png",
        "/image/-1",
        "/image/99999999999999999999",
        "/dataset.h5",
    ],
)
def test_no_path_escapes(served, path):
    status, _, body = request(served, path)
    assert 400 <= status < 500
    assert b"root:" not in body


def test_upload_that_is_too_large_is_cut_off(served):
    """It is refused while it is read: the server holds no more than the limit of it."""
    status, _, body = request(served, "/api/image", "POST", iter([b"x" * 2**20] * 30))
    assert status == 413
    assert "20 MB" in json.loads(body)["error"]


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a"])
def test_upload_that_is_no_image_is_refused(served, data):
    status, _, body = request(served, "/api/image", "POST", data)
    assert status == 400
    assert json.loads(body)["error"]


def test_other_host_names_are_not_answered_to(served):
    """So that a page from elsewhere cannot ask under a name that its owner points here."""
    assert request(served, "/", headers={"Host": "evil.example"})[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "127.1"])
def test_on_loopback_no_other_name_is_answered_to(host):
    """Also not if the address is written in a short form, 127.1."""
    own = {"::1": ["[::1]", "[::1]:8000"]}.get(host, [host, f"{host}:8000", "localhost:8000"])
    with listen(host, 0) as listening:
        app = application(SimpleNamespace(), listening.getsockname()[0], host)

    async def status(name):
        sent = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/api/none",
            "query_string": b"",
            "http_version": "1.1",
        }
        scope |= {"headers": [(b"host", name.encode())], "scheme": "http", "server": (host, 8000)}

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"]

    for name in own:
        assert asyncio.run(status(name)) == 404
    for name in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "[::1].evil",
        "",
        "a@localhost.b",
    ):
        assert asyncio.run(status(name)) == 400


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"])
def test_other_methods_are_refused(served, method):
    assert request(served, "/api/search?text=boats", method)[0] == 405


def test_address_that_is_not_there_is_reported_as_other_failures_are(served):
    status, kind, body = request(served, "/api/nothing")
    assert (status, kind) == (404, "application/json")
    assert json.loads(body) == {"error": "Not Found"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/?text=" + "x" * 200_000, {}),
        ("/", {"X-Large": "x" * 200_000}),
        ("/", {f"X-{number}": "x" * 1000 for number in range(90)}),
        ("/?" + "&".join(["text=a"] * 5000), {}),
        ("/?files=" + "*a" * 900 + "&text=boats", {}),
        ("/?files=" + "[" * 1000 + "&text=boats", {}),
        ("/image/%00", {}),
        ("/upload/%00%ff%fe", {}),
        ("/api/search?text=%ff%fe%00", {}),
        ("/api/search?text=boats&scene=%ed%a0%80", {}),
        ("/image/..\\..\\etc\\passwd", {}),
        ("/image/%252e%252e%252fetc%252fpasswd", {}),
    ],
)
def test_abuse_of_addresses_and_headers_fails_nothing(served, path, headers):
    with contextlib.suppress(ConnectionError):  # it may hang up before all of it is sent
        status, _, body = request(served, path, headers=headers)
        assert status < 500
        assert b"root:" not in body
    assert request(served, "/api/openapi.json")[0] == 200


def test_body_that_does_not_come_is_not_waited_for(served, monkeypatch):
    """In this process, so that the time can be shortened."""
    monkeypatch.setattr("swancli.query.serve.UPLOAD_SECONDS", 0.01)
    app = application(SimpleNamespace(), "0.0.0.0")
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/image", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"did not come" in sent[1]["body"]


def receiving(app, bodies):
    """The answers to uploads at once: their statuses, and what is sent; each body is an async generator."""

    async def one(body):
        sent = []

        async def receive():
            async for part in body:
                return {"type": "http.request", "body": part, "more_body": True}
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/api/image", "query_string": b"", "headers": []}
        await app(scope, receive, send)
        return sent[0]["status"]

    async def together():
        return await asyncio.gather(*map(one, bodies))

    return asyncio.run(together())


def fake_service():
    return SimpleNamespace(keep=lambda data, name: "kept")


def small_png():
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, "PNG")
    return written.getvalue()


PNG = small_png()


async def whole(data, after):
    await asyncio.sleep(after)
    yield data


async def stalled(data):
    yield data
    await asyncio.Event().wait()


def test_uploads_that_stall_with_little_do_not_keep_others_waiting(monkeypatch):
    monkeypatch.setattr("swancli.query.serve.UPLOAD_SECONDS", 0.5)
    app = application(fake_service(), "0.0.0.0")
    assert receiving(app, [*(stalled(b"x") for _ in range(20)), whole(PNG, after=0.1)]) == [408] * 20 + [200]


def test_upload_that_stalls_with_much_gives_way(monkeypatch):
    """Those that came first hold all the memory; one that has taken long is dropped for the next."""
    monkeypatch.setattr("swancli.query.serve.UPLOADS_HELD", 100 + len(PNG))
    monkeypatch.setattr("swancli.query.serve.UPLOAD_SECONDS", 0.5)
    for undisturbed, statuses in ((60, [408, 408, 503]), (0.01, [408, 408, 200])):
        monkeypatch.setattr("swancli.query.serve.UNDISTURBED", undisturbed)
        bodies = [stalled(b"x" * 90), stalled(b"x" * 11), whole(PNG, after=0.1)]
        assert receiving(application(fake_service(), "0.0.0.0"), bodies) == statuses


def test_body_that_lies_about_its_type_is_taken_for_what_it_is(served):
    page = b"<html><script>alert(1)</script></html>"
    for kind in ("image/png", "text/html", "multipart/form-data", "application/json"):
        status, told, body = request(served, "/api/image", "POST", page, {"Content-Type": kind})
        assert (status, told) == (400, "application/json")
        assert b"not an image" in body


def test_twenty_clients_at_once_are_all_answered(served):
    questions = [f"{number} boats in the harbor" for number in ("one", "two", "three", "four")] * 25
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda question: search(served, text=question, top_k=3), questions))
    assert {status for status, _ in answers} == {200}
    alone = {question: search(served, text=question, top_k=3)[1] for question in set(questions)}
    assert [answer for _, answer in answers] == [alone[question] for question in questions]


def test_markup_in_a_question_is_shown_as_text(served):
    _, _, body = request(served, "/?" + urlencode({"text": '"><script>alert(1)</script>'}))
    assert body.count(b"<script") == 1


def test_port_that_is_taken_is_reported(served, finished):
    port = urlsplit(served.address).port
    refused = invoke("serve", "--port", port, root=finished.root)
    assert refused.returncode == 2
    assert "--port 0" in refused.stderr


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=BROWSER)
        yield chromium
        chromium.close()


def test_a_person_searches_opens_goes_back_and_uploads(served, source, browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(served.address)
    page.keyboard.press("/")
    page.keyboard.type("boats in the harbor")
    page.keyboard.press("Enter")
    page.wait_for_selector("li img")
    page.wait_for_function(
        "[...document.querySelectorAll('li img')].slice(0, 4).every(i => i.naturalWidth > 0)"
    )
    assert page.locator("li").count() == 24
    assert page.locator("h2").inner_text() == "boats in the harbor"

    page.locator("li a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    second = page.locator("li .file").nth(1).inner_text()
    assert page.locator("dialog .file").inner_text() == second
    assert page.locator("dialog .caption").count() == 5
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash === '#r3'")
    page.go_back()
    page.wait_for_selector("dialog:not([open])", state="attached")
    assert page.locator("h2").inner_text() == "boats in the harbor"

    page.locator("li a").nth(2).click()
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog:not([open])", state="attached")

    page.set_input_files("input[type=file]", source / "images" / "harbor_2.png")
    page.wait_for_url("**image=*")
    page.wait_for_selector("li img")
    assert page.locator("h2").inner_text() == "harbor_2.png"
    assert page.locator("li .file").first.inner_text() == "harbor_2.png"
    page.locator("input[type=search]").fill("a red plane")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=a+red+plane**")
    assert page.locator("h2").inner_text() == "a red plane"
    page.go_back()
    assert page.locator("h2").inner_text() == "harbor_2.png"
    page.go_back()
    assert page.locator("input[type=search]").input_value() == "boats in the harbor"

    page.locator("summary").click()
    page.locator("select[name=scene]").select_option("harbor")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**scene=harbor**")
    assert set(page.locator("li .scene").all_inner_texts()) == {"harbor"}
    assert errors == []
    page.close()


def test_written_page_opens_without_a_server_and_without_errors(finished, browser, tmp_path):
    written = tmp_path / "hits.html"
    invoke("query", "boats", "--html", written, root=finished.root)
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    errors, asked = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asking: asked.append(asking.url))
    page.goto(written.as_uri())
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert {address.split(":")[0] for address in asked} <= {"file", "data"}
    assert errors == []
    page.close()


def test_missing_extra_is_named(finished):
    code = "import sys; sys.modules['fastapi'] = None; from swancli.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--root", str(finished.root)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2
    assert "swancli[serve]" in refused.stderr


def test_interrupted_server_ends_with_its_exit_code(finished):
    command = [sys.executable, "-m", "swancli", "serve", "--port", "0"]
    environment = {**os.environ, "SWAN_ROOT": str(finished.root), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as server:
        address = server.stdout.readline().strip()
        assert request(SimpleNamespace(address=address), "/")[0] == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 130
        assert "Traceback" not in server.stderr.read()


def test_upload_from_another_site_is_refused(served, source):
    data = (source / "images" / "harbor_2.png").read_bytes()
    status, _, body = request(served, "/api/image", "POST", data, {"Sec-Fetch-Site": "cross-site"})
    assert status == 403
    assert "another site" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/image/0", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
        ("/image/0", {"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ("/image/0", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("/image/0", {"Sec-Fetch-Site": "none"}, 200),  # typed into the address bar
        ("/image/0", {}, 200),
        ("/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 200),  # a link
        ("/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ("/", {"Origin": "http://evil.example"}, 403),
        ("/", {"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_get_nothing_and_links_lead_here(served, path, headers, status):
    assert request(served, path, headers=headers)[0] == status


def test_upload_from_another_site_is_refused_without_the_newer_header_too(served, source):
    """Browsers send it over https and to this machine only, but the origin of an upload always."""
    data = (source / "images" / "harbor_2.png").read_bytes()
    own = urlsplit(served.address).netloc
    for origin, status in ((f"http://{own}", 200), (f"http://{own}.evil.example", 403), ("null", 403)):
        assert request(served, "/api/image", "POST", data, {"Origin": origin})[0] == status


def test_browser_gets_the_rule_that_no_other_page_may_show_an_answer(served):
    connection = http.client.HTTPConnection(urlsplit(served.address).netloc, timeout=60)
    for path in ("/image/0", "/api/search?text=boats", "/nothing"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_picture_with_too_many_pixels_is_refused_before_it_is_decoded(served):
    written = io.BytesIO()
    Image.new("1", (6000, 6000)).save(written, "PNG")
    status, _, body = request(served, "/api/image?name=large.png", "POST", written.getvalue())
    assert status == 400
    assert "6000 x 6000" in json.loads(body)["error"]


def test_embeddings_that_are_replaced_stay_as_they_were_opened_and_the_page_says_so(finished, tmp_path):
    """Else old names would come with new scores."""
    path = tmp_path / "embeddings.h5"
    shutil.copy(finished.run / "embeddings.h5", path)
    checkpoint = finished.run / "best.pt"
    data = finished.root / "small" / "dataset.h5"
    with open_search(path, "cpu", checkpoint=checkpoint) as before:
        wanted = before.ask_row(3, Scope(top_k=5)).hits
    searcher = open_search(path, "cpu", checkpoint=checkpoint)
    service = Service(searcher, pictures_of(searcher.embeddings, data))
    assert REPLACED not in service.page(SearchRequest(), None)
    shutil.copy(path, tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5", "r+") as file:
        file["images/embedding"][:] = file["images/embedding"][:][::-1]
    (tmp_path / "new.h5").replace(path)
    assert service.ask(SearchRequest(like=3, top_k=5)).hits == wanted
    assert REPLACED in service.page(SearchRequest(), None)


def test_damaged_match_threshold_is_reported_at_the_start(finished, tmp_path):
    path = tmp_path / "embeddings.h5"
    shutil.copy(finished.run / "embeddings.h5", path)
    with h5py.File(path, "r+") as file:
        file.attrs["match"] = '{"offset": NaN}'
    options = ["--embeddings", path, "--checkpoint", finished.run / "best.pt", "--port", "0"]
    options += ["--pictures", finished.root / "small" / "dataset.h5"]
    refused = invoke("serve", *options, root=finished.root)
    assert refused.returncode == 2
    assert "match threshold" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_wrong_form_is_answered_with_a_page(served):
    status, kind, body = request(served, "/?top_k=0")
    assert (status, kind.split(";")[0]) == (422, "text/html")
    assert b"top_k" in body

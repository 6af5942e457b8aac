"""Attacks on a real server over raw sockets: each is refused, or does what an honest request would do.

The server has tokens, the page, two workers' worth of limits as by default, and an item whose name is a script.
"""

import json
import re
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from live_server import LiveServer, live_server, read_all
from toy_bundle import MakeBundle

from twotower.server import tokens

READ, WRITE, ADMIN = "read-" + "r" * 20, "write-" + "w" * 20, "admin-" + "a" * 20
SCRIPT = "<script>alert(1)</script>"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def bundle(make_bundle: MakeBundle) -> Path:
    names = [SCRIPT, "shoe", "50% off", "../../etc/passwd", "a\r\nb"]
    return make_bundle([f"i{n}" for n in range(5)], counts=[5, 4, 3, 2, 1], columns={"title": names})


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tokens.json").write_text(json.dumps({READ: "read", WRITE: "write", ADMIN: "admin"}))
    with live_server(bundle, "--tokens", folder / "tokens.json", "--ui") as running:
        yield running


@pytest.fixture(autouse=True)
def still_answers(server: LiveServer) -> Iterator[None]:
    """After each attack an honest request is answered, and the log has no traceback."""
    yield
    reply = server.ask("POST", "/recommend", {"history": ["i1"], "k": 2}, token=READ)
    assert reply.status == 200 and len(reply.json()["items"]) == 2
    assert "Traceback" not in server.log()


def head(method: str = "POST", path: str = "/recommend", token: str = READ, *more: str) -> str:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *more]
    return "\r\n".join([*lines, *([f"Authorization: Bearer {token}"] if token else []), "", ""])


def raw(*more: str, body: bytes = b"", method: str = "POST", path: str = "/recommend", token: str = READ) -> bytes:
    return head(method, path, token, *more).encode("latin-1") + body


def sized(body: bytes, *more: str, path: str = "/recommend") -> bytes:
    return raw(f"Content-Length: {len(body)}", "Content-Type: application/json", *more, body=body, path=path)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def require_refusal(answer: bytes, *statuses: int) -> str:
    """One answer, with one of the statuses, as JSON that says where and what; returns the message."""
    assert answer.startswith(b"HTTP/1.1 ") and len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1, answer[:500]
    assert status_of(answer) in statuses, answer[:500]
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in top.lower()
    error = json.loads(body)["error"]
    assert error["where"] and len(error["message"]) > 10 and "Traceback" not in error["message"]
    return str(error["message"])


# Who may do what.


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer " + "x" * 24,
        f"Bearer {READ}x",
        f"Bearer {READ[:-1]}",
        f"Basic {READ}",
        f"bearer{READ}",
        f"Bearer {READ.upper()}",
        'Bearer {"alg":"none"}',
        "Bearer ÿ" + "0" * 20,
        f"Bearer {READ}, Bearer {ADMIN}",
    ],
)
def test_a_missing_or_wrong_token_is_refused_everywhere(server: LiveServer, authorization: str) -> None:
    line = [f"Authorization: {authorization}"] if authorization else []
    for method, path in [("POST", "/recommend"), ("GET", "/users/u"), ("GET", "/metrics"), ("POST", "/rollback")]:
        answer = server.send(raw(*line, method=method, path=path, token=""))
        require_refusal(answer, 401)
        assert b"www-authenticate: Bearer" in answer
    for path in (f"/items?token={READ}", f"/items?access_token={READ}", f"/items?authorization=Bearer%20{READ}"):
        require_refusal(server.send(raw(method="GET", path=path, token="")), 401)


def test_two_tokens_in_one_request_are_refused(server: LiveServer) -> None:
    for first, second in ((READ, ADMIN), (ADMIN, READ), ("x", ADMIN)):
        answer = server.send(raw(f"Authorization: Bearer {first}", method="GET", path="/model", token=second))
        assert "more than once" in require_refusal(answer, 400)


def test_all_tokens_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens.json").write_text(json.dumps({READ: "read", WRITE: "write", ADMIN: "admin"}))
    known = tokens.Tokens(tmp_path / "tokens.json")
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    for token, role in ((READ, "read"), (ADMIN, "admin"), ("r", None), (READ[:-1] + "x", None)):
        compared.clear()
        assert known.role(f"Bearer {token}") == role
        assert len(compared) == 3  # as many for any token, and of digests, which all have one length
        assert {len(a) for pair in compared for a in pair} == {32}
    assert READ not in repr(vars(known))


@pytest.mark.parametrize(
    ("token", "method", "path"),
    [
        (READ, "POST", "/events"),
        (READ, "GET", "/users/u"),
        (READ, "DELETE", "/users/u"),
        (READ, "DELETE", "/items"),
        (WRITE, "POST", "/items"),
        (WRITE, "POST", "/rollback"),
        (READ, "POST", "/rollback?role=admin"),
        (WRITE, "POST", "/%72ollback"),
        (READ, "GET", "/%75sers/u"),
        (READ, "GET", "http://localhost/users/u"),
    ],
)
def test_a_role_does_no_more_than_it_may(server: LiveServer, token: str, method: str, path: str) -> None:
    answer = server.send(raw("X-Role: admin", "X-Forwarded-User: admin", method=method, path=path, token=token))
    assert "role" in require_refusal(answer, 403)


def test_no_spelling_of_a_path_gets_around_its_role(server: LiveServer) -> None:
    for path in [
        "//users/u",
        "/./users/u",
        "/page/../users/u",
        "/health/../users/u",
        "/USERS/u",
        "/users//u",
        "/users/u/",
    ]:
        assert status_of(server.send(raw(method="GET", path=path))) in (403, 404), path
    for path in ["/health/../users/u", "/page/../metrics", "/page%2f..%2fmetrics", "/ready/", "//metrics"]:
        assert status_of(server.send(raw(method="GET", path=path, token=""))) in (401, 404), path


def test_another_method_is_no_way_around(server: LiveServer) -> None:
    body = b'{"user_id": "u"}'
    server.ask("POST", "/events", {"events": [{"user_id": "u", "item_id": "i1"}]}, token=WRITE)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert status_of(server.send(sized(body, f"{name}: DELETE"))) == 200  # what POST says, nothing else
        require_refusal(server.send(raw(f"{name}: DELETE", method="GET", path="/users/u?_method=DELETE")), 403)
    for method in ("PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "DELETE"):
        answer = server.send(raw("X-Secret: echo-me", method=method))
        assert status_of(answer) in (404, 405), method
        assert b"echo-me" not in answer and b"access-control" not in answer.lower()
    assert status_of(server.send(raw(method="CONNECT", path="localhost:22"))) in (400, 404)
    assert len(server.ask("GET", "/users/u", token=WRITE).json()["events"]) == 1


# Paths and hosts.


@pytest.mark.parametrize("ups", ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "....//", "%252e%252e/"])
def test_no_path_leaves_the_page_s_folder(server: LiveServer, ups: str) -> None:
    for target in ("tokens.py", "server/tokens.py", "etc/passwd"):
        for count in (1, 2, 12):
            answer = server.send(raw(method="GET", path=f"/page/{ups * count}{target}", token=""))
            assert status_of(answer) in (400, 401, 404), answer[:200]
            assert b"hmac" not in answer and b"root:" not in answer
    for path in ("/page//etc/passwd", "/page/%00", "/page/index.html%00.js", "/page/\\etc\\passwd", "/page/"):
        assert status_of(server.send(raw(method="GET", path=path, token=""))) in (400, 401, 404), path
    assert server.ask("GET", "/page/index.html").status == 200


def test_ids_are_no_paths(server: LiveServer) -> None:
    for item in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "i1%00", "i1%0a", "%ed%a0%80", "%ff", "i" * 5000):
        require_refusal(server.send(raw(method="GET", path=f"/items/{item}")), 404)


def test_a_wrong_host_leads_nowhere(server: LiveServer) -> None:
    for path in ("/events/", "/items/", "/health/", "/page"):
        answer = server.send(raw(method="GET", path=path).replace(b"Host: localhost", b"Host: evil.example"))
        assert b"evil.example" not in answer and status_of(answer) in (404, 405, 401, 200), answer[:200]
    twice = raw("Host: evil.example", method="GET", path="/model")
    require_refusal(server.send(twice), 400)


# Sizes and times.


def test_a_body_that_says_it_is_too_large_is_refused_unread(server: LiveServer) -> None:
    for length in (str(MEGABYTE + 1), "9" * 15):
        require_refusal(server.send(raw(f"Content-Length: {length}", "Content-Type: application/json")), 413)
    for length in ("9" * 40, "-1", "1e9", "0x10", "+5", ""):
        require_refusal(server.send(raw(f"Content-Length: {length}", "Content-Type: application/json")), 400, 413)


def test_an_endless_body_is_refused_and_takes_no_memory(server: LiveServer) -> None:
    before = server.memory()
    chunk = b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE)
    endless = raw("Transfer-Encoding: chunked", "Content-Type: application/json") + 64 * chunk
    for _ in range(3):
        answer = server.send(endless)
        assert not answer or status_of(answer) == 413  # none: closed before it was read
    unread = raw("Transfer-Encoding: chunked", method="GET", path="/health") + 64 * chunk
    server.send(unread)
    assert server.memory() - before < 48 * MEGABYTE
    small = raw("Transfer-Encoding: chunked", "Content-Type: application/json") + 2 * chunk
    assert "more than" in require_refusal(server.send(small), 413)


def test_compressed_bodies_are_refused(server: LiveServer) -> None:
    bomb = zlib.compress(b" " * 50 * MEGABYTE, wbits=31)
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"):
        require_refusal(server.send(sized(bomb, f"Content-Encoding: {coding}")), 415)
    for coding in ("gzip, chunked", "gzip", "chunked, identity", "xchunked"):
        answer = server.send(raw(f"Transfer-Encoding: {coding}", "Content-Type: application/json", body=bomb))
        require_refusal(answer, 400, 415)
    assert status_of(server.send(sized(bomb))) in (400, 422)


def test_heads_are_bounded(server: LiveServer) -> None:
    before = server.memory()
    attacks = [
        raw("X-Large: " + "x" * 8 * MEGABYTE),
        raw(*(f"X-{n}: {n}" for n in range(100_000))),
        raw(path="/items?search=" + "x" * 4 * MEGABYTE, method="GET"),
        raw("x" * 4 * MEGABYTE + ": 1"),
        b"x" * MEGABYTE,
        b"\r\n" * MEGABYTE,
    ]
    for attack in attacks:
        answer = server.send(attack)
        assert not answer or status_of(answer) in (400, 431)
    assert server.memory() - before < 48 * MEGABYTE
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # in parts, so that nothing is cut off
        connection.sendall(head().encode()[:-2])
        with suppress(BrokenPipeError):  # refused before the end
            for _ in range(50):
                connection.sendall(b"X-Part: " + b"x" * 1600 + b"\r\n")
                time.sleep(0.001)
        require_refusal(read_all(connection), 431)


@pytest.mark.slow  # it waits for the limit of ten seconds
def test_slow_requests_end_and_hinder_nobody(server: LiveServer) -> None:
    body_head = raw("Content-Length: 100", "Content-Type: application/json")
    beginnings = {
        "body": (body_head, b"{", 408),
        "chunked body": (raw("Transfer-Encoding: chunked", "Content-Type: application/json"), b"1\r\n \r\n", 408),
        "head": (head().encode()[:-2], b"x", 408),
        "lines": (b"", b"\r\n", 408),
        "nothing": (b"", b"", None),
        "after an answer": (raw(method="GET", path="/health").replace(b"Connection: close\r\n", b""), b"\r\n", 200),
    }

    def drip(case: tuple[bytes, bytes, int | None]) -> tuple[float, bytes]:
        beginning, drop, _ = case
        begin, parts = time.monotonic(), b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.25) as connection:
            connection.sendall(beginning)
            while time.monotonic() - begin < 30:
                try:
                    part = connection.recv(2**16)
                    if not part:
                        break
                    parts += part
                except TimeoutError:
                    pass
                except ConnectionError:
                    break
                try:
                    connection.sendall(drop)
                except ConnectionError:
                    break
        return time.monotonic() - begin, parts

    with ThreadPoolExecutor(60) as pool:
        slow = {name: [pool.submit(drip, case) for _ in range(8)] for name, case in beginnings.items()}
        for _ in range(50):
            assert server.ask("POST", "/recommend", {"history": ["i1"]}, token=READ).status == 200
        for name, futures in slow.items():
            for future in futures:
                seconds, answer = future.result()
                assert 5 < seconds < 25, (name, seconds)
                expected = beginnings[name][2]
                assert not answer if expected is None else status_of(answer) == expected, (name, answer)


# What a proxy in front and the server could read differently.


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 6", "Content-Length: 6"],
        ["Content-Length: 6", "Content-Length: 60"],
        ["Content-Length: 6, 6"],
        ["Content-Length: 6", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 6"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length : 6"],
        ["Transfer-Encoding:\x0bchunked"],
        ["X: 1\nTransfer-Encoding: chunked", "Content-Length: 6"],
        ["X: 1\rTransfer-Encoding: chunked", "Content-Length: 6"],
        ["X: 1", " folded: 2", "Content-Length: 6", "Content-Length: 7"],
        ["X\x00: 1"],
        ["X: \x00"],
    ],
)
def test_smuggled_requests_are_not_answered(server: LiveServer, lines: list[str]) -> None:
    smuggled = b"0\r\n\r\n" + raw(method="GET", path="/model", token=ADMIN)
    answer = server.send(raw("Content-Type: application/json", *lines, body=smuggled))
    require_refusal(answer, 400)


def test_a_second_head_in_a_body_is_a_body(server: LiveServer) -> None:
    answer = server.send(sized(raw(method="GET", path="/model", token=ADMIN)))
    assert "not JSON" in require_refusal(answer, 400, 422)


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"*1\r\n$8\r\nFLUSHALL\r\n",
        bytes(range(256)),
    ],
)
def test_what_is_no_http_is_refused(server: LiveServer, data: bytes) -> None:
    require_refusal(server.send(data), 400)


def test_no_websocket_is_opened(server: LiveServer) -> None:
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    data = raw(*upgrade, method="GET", path="/users/u").replace(b"Connection: close", b"Connection: upgrade, close")
    require_refusal(server.send(data), 403)


# What is inside a body.

DEEP = 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"filters": ' + b'{"not":' * DEEP + b"1" + b"}" * DEEP + b"}",
        b'{"filters": ' + b'{"not":' * 900 + b"{}" + b"}" * 900 + b"}",
        b'{"history": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"k": ' + b"9" * 100_000 + b"}",
        b'{"k": 1e400}',
        b'{"k": -0.0}',
        b'{"seed": 18446744073709551616}',
        b'{"timestamp": 1e18}',
        b'{"exploration": NaN}',
        b'{"exploration": Infinity}',
        b'{"history": [NaN]}',
        b'{"history": ["\\ud800"]}',
        b'{"\\udfff": 1}',
        b'{"history": ["\xed\xa0\x80"]}',
        b'{"history": ["\xff"]}',
        b'{"history": ["\xc0\xaf"]}',
        '{"history": ["i1"]}'.encode("utf-16"),
        b'{"history": [{"item_id": "i1", "__proto__": {"x": 1}}]}',
        b'{"user_id": "u", "__class__": "x"}',
        b'{"user_id": {"$ne": null}}',
        b'{"user_id": ["u"]}',
        b'{"user_id": ""}',
        b'{"history": ' + json.dumps(["i1"] * 100_000).encode() + b"}",
        b'{"max_per": {"title": 0}}',
    ],
)
def test_hostile_json_is_refused(server: LiveServer, body: bytes) -> None:
    require_refusal(server.send(sized(body)), 400, 413, 422)
    if b"filters" in body:
        item = body.replace(b'{"filters"', b'{"item_id": "i1", "filters"', 1)
        require_refusal(server.send(sized(item, path="/similar")), 400, 413, 422)


LINE = 'x","status":200}\r\n{"id":"forged","method":"GET","route":"/users","status":200,"ms":1}\n'
IDS = ["*", "u*", LINE, "u\r\nDEL *\r\n", "'; DROP TABLE events; --", '"; DELETE FROM events; --', "u\0v", "%", "_",
       "u:v", "../../u", "${jndi:ldap://evil}", "{{7*7}}", "\u202eu", "u" * 512]  # fmt: skip


def test_ids_are_nothing_but_ids(server: LiveServer) -> None:
    known = [*IDS, "u", "v", "plain"]
    for user in known:
        events = [{"user_id": user, "item_id": "i2", "event_type": "x"}]
        assert server.ask("POST", "/events", {"events": events}, token=WRITE).json() == {"stored": 1, "ignored": {}}
        assert server.ask("POST", "/recommend", {"user_id": user, "k": 1}, token=READ).status == 200
    found = server.ask("POST", "/audience", {"item_id": "i2", "k": 1000}, token=READ).json()["users"]
    assert {each["user_id"] for each in found} >= set(known)
    for user in ("*", "%", "_", "u*", IDS[4], IDS[3]):
        assert server.ask("DELETE", f"/users/{quote(user, safe='')}", token=WRITE).json() == {"erased": True}
        asked = {"item_id": "i2", "user_ids": ["u", "v", "plain", user]}
        left = server.ask("POST", "/audience", asked, token=READ).json()
        held = {each["user_id"] for each in left["users"] if each["score"] is not None}
        assert {"u", "v", "plain"} <= held  # no other user has lost an event


def test_nothing_of_a_request_gets_into_the_log_or_the_metrics(server: LiveServer) -> None:
    secret = "person-4711"
    for path in [f"/users/{secret}", f"/items/{secret}", f"/items?search={secret}", f"/nowhere/{secret}", f"/{secret}"]:
        server.ask("GET", path, token=WRITE)
    for body in ({"user_id": secret}, {"user_id": 5, "x": secret}, {"history": [{"item_id": secret, secret: 1}]}):
        server.ask("POST", "/recommend", body, token=READ)
    given = {"x-request-id": 'a" b\t{}', "user-agent": LINE.replace("\r\n", " ").strip(), "referer": secret}
    reply = server.ask("GET", "/health", headers=given)
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])
    assert server.ask("GET", "/health", headers={"x-request-id": "trace-1"}).headers["x-request-id"] == "trace-1"
    log = server.log()
    assert secret not in log and "forged" not in log and READ not in log and "DROP TABLE" not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert lines and all(set(line) == {"id", "method", "route", "status", "ms"} for line in lines)
    assert all(line["route"] == "none" or line["route"].startswith("/") for line in lines)
    server.ask("GET", "/metrics", token=READ)
    exposed = server.ask("GET", "/metrics", token=READ).content.decode()
    assert secret not in exposed and "forged" not in exposed
    routes = set(re.findall(r'route="([^"]*)"', exposed))
    for number in range(50):
        server.ask("GET", f"/made-up/{number}", token=READ)
    now = server.ask("GET", "/metrics", token=READ).content.decode()
    assert set(re.findall(r'route="([^"]*)"', now)) <= routes | {"none"}


def test_a_script_in_an_item_s_name_stays_text(server: LiveServer) -> None:
    search = server.ask("GET", "/items?search=%3Cscript%3E", token=READ)
    assert search.json()["items"][0]["title"] == SCRIPT
    echoes = [
        search,
        server.ask("GET", "/items/i0", token=READ),
        server.ask("GET", "/items/%3Cscript%3Ealert(1)", token=READ),
        server.ask("POST", "/recommend", {SCRIPT: 1}, token=READ),
        server.ask("GET", "/%3Cscript%3E", token=READ),
    ]
    for reply in echoes:
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "script-src" not in reply.headers["content-security-policy"]  # so default-src counts
        assert reply.headers["content-security-policy"].startswith("default-src 'self'")
    page = server.ask("GET", "/")
    policy = page.headers["content-security-policy"]
    assert page.status == 200 and "unsafe-inline" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1000000000",
        "limit=" + "9" * 400,
        "limit=nan",
        "limit=1e3",
        "limit=",
        "bucket=../x",
        "limit=-1",
    ],
)
def test_hostile_queries_are_refused(server: LiveServer, query: str) -> None:
    require_refusal(server.send(raw(method="GET", path=f"/items?{query}")), 400, 404, 422)


def test_a_search_is_no_pattern(server: LiveServer) -> None:
    def total(text: str) -> Any:
        return server.ask("GET", f"/items?search={quote(text, safe='')}", token=READ).json()["total"]

    assert (total("50%"), total("%"), total("."), total(".*"), total("(a+)+$"), total("_"), total("[")) == (
        1,
        1,
        1,
        0,
        0,
        0,
        0,
    )
    assert total("\0") == 0 and total("x" * 5000) == 0


# A server without tokens: it answers on the loopback interface alone.


@pytest.fixture(scope="module")
def open_server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(bundle, "--rate", 40) as running:
        yield running


def test_pages_of_other_sites_do_not_reach_a_server_without_tokens(open_server: LiveServer) -> None:
    own = f"127.0.0.1:{open_server.port}"
    for host in ("evil.example", f"evil.example:{open_server.port}", "127.0.0.1.evil.example", "localhost.evil"):
        reply = open_server.ask("GET", "/users/u", headers={"host": host})  # a name that leads to 127.0.0.1
        assert reply.status == 403 and "--tokens" in reply.json()["error"]["message"]
    for origin in ("https://evil.example", f"http://127.0.0.1:{open_server.port + 1}", "null", "http://localhost"):
        reply = open_server.ask("POST", "/rollback", headers={"origin": origin})  # a form sends this unasked
        assert reply.status == 403 and reply.json()["error"]["where"] == "headers.origin"
    assert open_server.ask("POST", "/events", b"events=1", headers={"content-type": "text/plain"}).status == 415
    assert open_server.ask("GET", "/model", headers={"origin": f"http://{own}"}).status == 200
    for host in (own, f"localhost:{open_server.port}", "localhost", f"[::1]:{open_server.port}"):
        assert open_server.ask("GET", "/model", headers={"host": host}).status == 200


def test_one_client_can_not_take_all(open_server: LiveServer) -> None:
    asked = (open_server.ask("GET", "/model", headers={"x-forwarded-for": f"10.0.0.{n}"}) for n in range(2000))
    refused = next(reply for reply in asked if reply.status != 200)
    assert refused.status == 429 and refused.headers["retry-after"]

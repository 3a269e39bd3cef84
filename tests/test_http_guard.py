"""Who may ask for what, and how slowly."""

import asyncio
import contextlib
import socket

import pytest

from fossa import Fossa
from fossa.admin import bodies
from fossa.builtin import http
from fossa.errors import FossaError
from http_support import HttpConfig, get, post, serving
from support import until

TOKEN = "a-token-of-more-than-sixteen-characters"
NODE = "/api/1/node"


class WithToken(HttpConfig):
    HTTP_TOKEN = TOKEN


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


# token


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer("é" * 20),
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Cookie": f"fossa={TOKEN}"},
    ],
)
async def test_without_the_token_nothing_is_told_or_done(headers):
    async with serving(WithToken, headers=headers) as (node, session):
        for path in (NODE, "/api/1/tasks", "/api/1/metrics", "/api/1/openapi.json", "/nope"):
            async with session.get(path) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json())["error"]["reason"] == "unauthorized"
        status, answer = await post(session, "/api/1/tasks", {"model": "Nothing"})
        assert (status, answer["error"]["status"]) == (401, 401)
        status, answer = await post(session, "/api/0.01/task", {"model_class": "Nothing"})
        assert status == 401
        assert set(answer["error"]) == {"message"}
        assert await node.governor.page() == []


async def test_with_the_token_everything_is():
    async with serving(WithToken, headers=bearer()) as (_, session):
        assert (await get(session, NODE))[0] == 200
        assert (await post(session, "/api/1/tasks", {"model": "Nothing"}))[0] == 202
        assert (await get(session, NODE, headers={"Authorization": f"bearer {TOKEN}"}))[0] == 200


async def test_health_needs_no_token():
    async with serving(WithToken) as (_, session):
        assert await get(session, "/api/1/health/live") == (200, {"live": True})
        ready = {"ready": True, "reasons": []}
        assert await get(session, "/api/1/health/ready") == (200, ready)


async def test_the_token_is_nowhere_to_be_seen():
    async with serving(WithToken, headers=bearer()) as (node, session):
        for path in (NODE, "/api/1/plugins", "/api/1/metrics", "/"):
            async with session.get(path) as response:
                assert response.status == 200
                assert TOKEN not in await response.text()
        assert TOKEN not in repr(node.composition)


# the cookie


async def sign_in(session, token, wanted=""):
    form = {"token": token, "next": wanted}
    return await session.post("/sign-in", data=form, allow_redirects=False)


async def test_signing_in_gives_a_cookie_that_opens_the_pages():
    async with serving(WithToken) as (_, session):
        async with session.get("/task/abc") as response:
            assert response.status == 401
            text = await response.text()
            assert 'name="token"' in text
            assert 'value="/task/abc"' in text
        async with await sign_in(session, TOKEN, "/task/abc") as response:
            assert response.status == 303
            assert response.headers["Location"] == "/task/abc"
            cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        # A client's cookie jar takes none from an address: it is sent by hand.
        headers = {"Cookie": cookie.partition(";")[0]}
        for path in ("/", NODE):
            async with session.get(path, headers=headers) as response:
                assert response.status == 200, path
        forged = {"Cookie": headers["Cookie"][:-1] + "x"}
        assert (await get(session, NODE, headers=forged))[0] == 401


async def test_a_wrong_token_gives_no_cookie():
    async with serving(WithToken) as (_, session):
        for token in ("", "wrong", "é", "\0"):
            async with await sign_in(session, token) as response:
                assert response.status == 401
                assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "/sign-in", "", "/task/../x"],
)
async def test_signing_in_leads_nowhere_else(wanted):
    async with serving(WithToken) as (_, session):
        response = await sign_in(session, TOKEN, wanted)
        assert response.headers["Location"] == "/"


async def test_where_no_token_is_set_there_is_nothing_to_sign_in_to():
    async with serving() as (_, session), await sign_in(session, "x") as response:
        assert response.status == 404


# host


async def statuses(session, hosts):
    return [(await get(session, NODE, headers={"Host": host}))[0] for host in hosts]


LOCAL = [
    "localhost", "LOCALHOST:99", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "0.0.0.0",
]  # fmt: skip
FOREIGN = [
    "evil.example", "localhost.evil.example", "2130706433", "0x7f.1", "a b", "x:y", "u@localhost",
]  # fmt: skip
ADDRESSES = ["192.0.2.7", "192.0.2.7:2345", "[2001:db8::7]:2345"]


async def test_a_node_of_loopback_is_known_by_names_of_loopback_only():
    async with serving() as (_, session):
        assert await statuses(session, LOCAL) == [200] * len(LOCAL)
        wrong = [*FOREIGN, *ADDRESSES]
        assert await statuses(session, wrong) == [421] * len(wrong)
        async with session.get("/api/1/health/live", headers={"Host": "evil.example"}) as response:
            assert (await response.json())["error"]["reason"] == "unknown_host"
        async with session.get("/", headers={"Host": "evil.example"}) as response:
            assert response.status == 421


async def test_addresses_are_fine_where_there_is_a_token_or_no_loopback():
    async with serving(WithToken, headers=bearer()) as (_, session):
        assert await statuses(session, ADDRESSES) == [200] * len(ADDRESSES)
        assert await statuses(session, FOREIGN) == [421] * len(FOREIGN)
    everywhere = {"HTTP_HOST": "0.0.0.0", "HTTP_WITHOUT_TOKEN": True}
    async with serving(**everywhere) as (_, session):
        assert await statuses(session, ADDRESSES) == [200] * len(ADDRESSES)
        assert await statuses(session, FOREIGN) == [421] * len(FOREIGN)


async def test_names_that_are_listed_are_fine():
    async with serving(HTTP_ALLOWED_HOSTS=["Etl.Example"]) as (_, session):
        names = ["etl.example:80", "ETL.example", "x.example"]
        assert await statuses(session, names) == [200, 200, 421]


async def test_no_host_is_fine_and_two_are_not():
    async with serving() as (node, _):
        assert b" 200 " in await raw(node, b"GET /api/1/node HTTP/1.0\r\n\r\n")
        two = b"GET /api/1/node HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert (await raw(node, two)).split()[1] in (b"400", b"421")


# origin


async def test_pages_of_other_sites_change_nothing():
    async with serving() as (node, session):
        origin = str(session._base_url).rstrip("/")
        body = {"model": "Nothing"}
        foreign = [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:1"},
            {"Origin": "http://[bad"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": origin, "Sec-Fetch-Site": "cross-site"},
        ]
        for headers in foreign:
            status, answer = await post(session, "/api/1/tasks", body, headers=headers)
            assert (status, answer["error"]["reason"]) == (403, "foreign_page"), headers
            old = {"model_class": "Nothing"}
            status, _ = await post(session, "/api/0.01/task", old, headers=headers)
            assert status == 403
        assert await node.governor.page() == []
        own = [{"Origin": origin, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
        for headers in own:
            assert (await post(session, "/api/1/tasks", body, headers=headers))[0] == 202


# sizes and times


async def raw(node, request, timeout=10):
    """Everything that comes back for some bytes, until the node closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.composition.sources[0].port)
    writer.write(request)
    try:
        async with asyncio.timeout(timeout):
            answer = b""
            while chunk := await reader.read(65536):
                answer += chunk
                if request.startswith(b"GET") and b"\r\n\r\n" in answer:
                    break
            return answer
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_body_may_be_so_large_and_no_larger():
    async with serving(HTTP_MAX_BODY_BYTES=10_000) as (_, session):
        headers = {"Content-Type": "application/json"}
        fits = b'{"model": "Nothing"}'.ljust(10_000)

        async def chunks():
            for _ in range(3):
                yield b" " * 5_000

        for body, status in ((fits, 202), (fits + b" ", 413), (chunks(), 413)):
            async with session.post("/api/1/tasks", data=body, headers=headers) as response:
                assert response.status == status, await response.text()
                if status == 413:
                    assert (await response.json())["error"]["reason"] == "too_large"
        old = "/api/0.01/task"
        async with session.post(old, data=fits + b" ", headers=headers) as response:
            assert response.status == 413
            assert await response.text() == '{"msg":"Request Entity Too Large"}\n'


async def test_a_compressed_body_is_not_unpacked():
    async with serving() as (_, session):
        headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
        async with session.post("/api/1/tasks", data=b"x" * 100, headers=headers) as response:
            assert response.status == 415


async def test_a_client_that_trickles_the_head_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "HEAD_DEADLINE", 0.5)
    async with serving() as (node, _):
        port = node.composition.sources[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/1/node HTTP/1.1\r\n")
        began = asyncio.get_running_loop().time()
        trickling = asyncio.create_task(trickle(writer, b"X-More: and more\r\n"))
        # A reset where something was on its way that is not read any more.
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        assert 0.4 < asyncio.get_running_loop().time() - began < 3
        trickling.cancel()
        writer.close()


async def test_a_client_that_trickles_the_body_is_told_and_cut_off(monkeypatch):
    monkeypatch.setattr(bodies, "BODY_DEADLINE", 0.5)
    monkeypatch.setattr(http, "LINGER", 0.2)
    async with serving() as (node, _):
        port = node.composition.sources[0].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /api/1/tasks HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
        )
        trickling = asyncio.create_task(trickle(writer, b" "))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while chunk := await reader.read(1024):
                    answer += chunk
        trickling.cancel()
        assert b" 408 " in answer
        assert b'"reason":"too_slow"' in answer
        writer.close()


async def trickle(writer, piece):
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
async def test_a_client_that_does_not_take_its_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr(http, "READ_DEADLINE", 1.0)
    async with serving() as (node, session):
        for _ in range(12):
            task = await node.submit("Returns", "huge", method_kwargs={"size": 1_000_000})
            assert (await task.outcome(20)).complete
        server = node.composition.sources[0]._runner.server
        async with session.get(NODE) as response:
            await response.read()
        others = set(server.connections)
        client = socket.create_connection(("127.0.0.1", node.composition.sources[0].port))
        client.sendall(b"GET /api/1/tasks?limit=50 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (slow,) = await until(lambda: set(server.connections) - others)
        await until(lambda: slow not in server.connections)
        client.close()


# start and stop


async def test_a_port_in_use_stops_the_start_and_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FossaError) as caught:
            await Fossa(HttpConfig, HTTP_PORT=port).start()
    for part in (str(port), "HTTP_PORT", "FOSSA_HTTP_PORT", "in use"):
        assert part in str(caught.value)


async def test_an_address_that_is_not_ours_is_named():
    with pytest.raises(FossaError, match=r"192\.0\.2\.1.*HTTP_HOST"):
        await Fossa(HttpConfig, HTTP_HOST="192.0.2.1", HTTP_WITHOUT_TOKEN=True).start()


async def test_a_stopped_node_listens_no_more_and_lets_go_of_those_who_wait():
    async with serving() as (node, session):
        task = await node.submit("Echo", "sleep", method_kwargs={"seconds": 30})
        path = f"/api/1/tasks/{task.id}"
        waiting = asyncio.create_task(get(session, f"{path}?wait=60"))
        reading = asyncio.create_task(get(session, f"{path}/logs?wait=60"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await node.stop(timeout=0)
            status, answer = await waiting
            assert (status, answer["status"]) == (200, "queued")
            assert (await reading)[0] == 200
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", node.composition.sources[0].port)

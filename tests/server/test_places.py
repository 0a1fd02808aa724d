"""Where a server listens: prefixes of a proxy, Unix sockets, HTTPS."""

from __future__ import annotations

import contextlib
import datetime
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.command import refused
from support.serving import fake_server
from support.site import KEYS, listening, site

from mtad.errors import DataError
from mtad.server.ops import sockets
from mtad.server.ops.sockets import AddressError, check_certificate, listen_at
from mtad.server.ray.deploy import Fleet, serve_on_ray
from mtad.server.settings import ServerSettings

ONE = {"model": "demo", "prompt": "SELECT", "max_tokens": 2, "seed": 1}


# --- a proxy's prefix


@pytest.mark.slow
def test_a_prefix_is_in_the_description_and_not_in_the_paths() -> None:
    with fake_server(root_path="/llm") as server, server.client() as client:
        described = client.get("/openapi.json").json()
        assert described["servers"] == [{"url": "/llm"}]
        assert "/v1/completions" in described["paths"]
        assert client.post("/v1/completions", json=ONE).status_code == 200
        assert client.post("/v1/completions/", json=ONE).status_code == 200
        assert client.get("/llm/v1/models").status_code == 404, "the proxy takes it away"


@pytest.mark.slow
def test_the_page_finds_its_files_under_a_prefix() -> None:
    with fake_server(root_path="/a/b") as server, server.client() as client:
        page = client.get("/").text
        places = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert places and not [one for one in places if one.startswith(("/", "http"))]
        assert {client.get(f"/{one}").status_code for one in places} == {200}


def test_where_there_is_no_page_the_links_have_the_prefix() -> None:
    with fake_server(root_path="/llm", playground=False) as server, server.client() as client:
        told = client.get("/").json()
    assert (told["models"], told["health"]) == ("/llm/v1/models", "/llm/health")


def test_keys_are_asked_for_under_a_prefix_as_without() -> None:
    with listening(site(KEYS, root_path="/llm")) as place:
        for path in ("/", "/health", "/health/ready", "/version", "/page/main.js"):
            assert place.ask("GET", path).status_code == 200, path
        for path in ("/v1/models", "/metrics", "/llm/health"):
            assert place.ask("GET", path).status_code == 401, path


@pytest.mark.parametrize("given", ["llm", "/llm/", "/", "//", "/a//b", "/../x", "/a b", "http://x"])
def test_what_is_no_prefix(given: str) -> None:
    with pytest.raises(ValueError, match=r"root_path is .*; it must be a path such as /llm"):
        ServerSettings(root_path=given)


# --- Unix sockets


def asked_at(path: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(path))
    return httpx.Client(transport=transport, base_url="http://localhost", timeout=60)


@pytest.mark.slow
def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with fake_server(uds=path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with asked_at(path) as client:
            assert client.post("/v1/completions", json=ONE).status_code == 200
            anywhere = client.get("/v1/models", headers={"Host": "api.example.org"})
            assert anywhere.status_code == 200
        assert server.settings.is_local
    assert not path.exists()


def test_hosts_of_a_unix_socket_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with fake_server(uds=path, allowed_hosts=("a.example",)), asked_at(path) as client:
        assert client.get("/health", headers={"Host": "a.example"}).status_code == 200
        assert client.get("/health", headers={"Host": "b.example"}).status_code == 403


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with fake_server(uds=path), asked_at(path) as client:
        assert client.get("/health").status_code == 200


def test_a_socket_at_which_a_server_listens_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with fake_server(uds=path):
        with pytest.raises(AddressError, match="a server listens there; choose another --uds"):
            listen_at(path)
        with asked_at(path) as client:
            assert client.get("/health").status_code == 200


def test_a_socket_that_another_server_has_put_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with sockets.listening(ServerSettings(uds=path)):
        path.unlink()
        with contextlib.closing(listen_at(path)):
            pass
    assert path.exists()


@pytest.mark.slow
def test_places_at_which_no_socket_can_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    message = refused("serve", "--uds", str(file), code=1)
    assert "it is no socket; choose another --uds" in message.replace("- ", "-")
    assert file.read_text() == "mine"
    with pytest.raises(AddressError, match="No such file or directory; choose another --uds"):
        listen_at(tmp_path / "none" / "socket")
    with pytest.raises(AddressError, match="too long"):
        listen_at(tmp_path / ("x" * 200))


@pytest.mark.parametrize("other", [{"port": 9000}, {"host": "0.0.0.0"}], ids=str)
def test_a_server_listens_in_one_place(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"uds is '/x'.*leave one of them out"):
        ServerSettings(uds=Path("/x"), **other)


# --- HTTPS


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate for 127.0.0.1 that rests on itself."""

    certificate: Path
    key: Path


def made(folder: Path, password: bytes | None = None) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    found = Certificate(folder / "cert.pem", folder / "key.pem")
    pem = serialization.Encoding.PEM
    found.certificate.write_bytes(certificate.public_bytes(pem))
    lock = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    found.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption_algorithm=lock)
    )
    return found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Certificate]:
    yield made(tmp_path / "own")


@pytest.mark.slow
def test_https_with_a_certificate(own: Certificate) -> None:
    trusting = ssl.create_default_context(cafile=str(own.certificate))
    files = {"ssl_certfile": own.certificate, "ssl_keyfile": own.key}
    with fake_server(**files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with server.client(verify=trusting) as client:
            assert client.post("/v1/completions", json=ONE).status_code == 200
            same = {"Origin": server.url, "Content-Type": "application/json"}
            assert client.post("/v1/completions", json=ONE, headers=same).status_code == 200
        with server.client() as client, pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
            client.get("/health")
        plain = server.url.replace("https", "http")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{plain}/health", trust_env=False)


@pytest.mark.parametrize("name", ["ssl_certfile", "ssl_keyfile"])
def test_certificate_and_key_go_together(name: str) -> None:
    given: dict[str, Any] = {name: Path("x.pem")}
    with pytest.raises(ValueError, match=f"{name} needs ssl_"):
        ServerSettings(**given)


def test_certificates_that_cannot_be_shown(tmp_path: Path, own: Certificate) -> None:
    other, locked = made(tmp_path / "other"), made(tmp_path / "locked", b"secret")
    with pytest.raises(DataError, match="the key is another certificate's"):
        check_certificate(own.certificate, other.key)
    with pytest.raises(DataError, match=r"is encrypted; give one that is not: openssl pkey -in"):
        check_certificate(locked.certificate, locked.key)
    with pytest.raises(DataError, match=r"none cannot be read: No such file.*see --ssl-keyfile"):
        check_certificate(own.certificate, tmp_path / "none")
    with pytest.raises(DataError, match="they are not a PEM each"):
        check_certificate(own.key, own.key)
    check_certificate(own.certificate, own.key)
    check_certificate(None, None)


def test_a_certificate_is_read_before_the_models(own: Certificate) -> None:
    words = ("--ssl-certfile", str(own.certificate), "--ssl-keyfile", "/nowhere/key.pem")
    message = refused(
        "serve", *words, "--target-model", "nowhere", "--method", "autoregressive", code=1
    )
    assert "/nowhere/key.pem cannot be read" in message


@pytest.mark.parametrize(
    "given",
    [
        {"uds": Path("/x")},
        {"root_path": "/x"},
        {"ssl_certfile": Path("/x"), "ssl_keyfile": Path("/y")},
    ],
    ids=str,
)
def test_a_fleet_does_not_listen_itself(given: dict[str, Any]) -> None:
    [name, *_] = given
    with pytest.raises(ValueError, match=f"{name} is for mtad serve .*; Ray Serve has the port"):
        serve_on_ray(ServerSettings(**given), Fleet())

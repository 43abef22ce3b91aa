"""Who is let in, as values: host names, origins, ports, tokens and cookies. No server, no browser."""

import pytest

from rankdeck.tui.web.admission import PARAMETER, Admission

HOST = "localhost:8000"


@pytest.fixture
def local() -> Admission:
    """Admission to a page served on the loopback, listened on as 127.0.0.2."""
    return Admission(("127.0.0.2", "My.Name"))


def token(admission: Admission) -> str:
    return admission.address_end.removeprefix(f"/?{PARAMETER}=")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "127.0.0.2", "my.name", "LOCALHOST"])
def test_every_name_of_the_loopback_is_served_at_any_port(local: Admission, name: str) -> None:
    assert local.refused(f"{name}:8000", None) is None
    assert local.refused(f"{name}:9", f"http://{name}:9") is None, "an SSH tunnel may have changed the port"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example:8000", "127.0.0.1.evil.example", "", "[", "a:b"],
)
def test_a_foreign_name_that_points_to_this_loopback_is_refused(local: Admission, host: str) -> None:
    assert "served on this machine only" in str(local.refused(host, None))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8001",  # another server on this machine, perhaps another user's
        "http://localhost",
        "http://127.0.0.1:8000",
        "http://evil.example:8000",
        "http://localhost:8000.evil.example",
        "http://evil@localhost:8000",
        "null",
        "",
        "http://[",
    ],
)
def test_a_page_of_another_origin_is_refused_if_only_its_port_differs(local: Admission, origin: str) -> None:
    for admission in (local, Admission()):
        assert admission.refused(HOST, origin) == "asked by a page of another site"
        assert admission.refused(HOST, f"http://{HOST}") is None
        assert admission.refused(HOST, f"https://{HOST}") is None


def test_only_the_token_or_the_cookie_of_this_port_lets_in(local: Admission) -> None:
    name, value = local.cookie(HOST)
    assert (name, value) == ("rankdeck-8000", token(local))
    assert local.cookie("localhost")[0] == "rankdeck-80"
    assert local.knows(HOST, {PARAMETER: value}, {})
    assert local.knows(HOST, {}, {name: value})
    assert not local.knows(HOST, {}, {"rankdeck-8001": value}), "another server's cookie"
    for wrong in ("", value[:-1], value + "x", value.swapcase(), "é", "\ud800"):
        assert not local.knows(HOST, {PARAMETER: wrong}, {name: wrong})
    assert not local.knows(HOST, {}, {})


def test_no_two_servers_have_the_same_token() -> None:
    tokens = {token(Admission()) for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43, "nobody guesses 256 bits"

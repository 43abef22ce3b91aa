"""Who may have the page of `rankdeck serve`: by which names it is asked for, and who knows its token.

The loopback keeps other machines out, not other users of this one: the token does. Knows requests and
cookies, as values; what is served behind the door is the server's business.
"""

import secrets
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

PARAMETER = "token"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
NO_TOKEN = "ask for the address that `rankdeck serve` printed when it was started here, with the token at its end"


class Admission:
    """The token of one server, made afresh for each, and the names that its page may be asked for by."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        """`names`: those of this machine's loopback, where it is served on that alone; None lets any name in."""
        self._token = secrets.token_urlsafe(32)
        self._names = None if names is None else LOOPBACK_NAMES | {name.lower() for name in names}

    @property
    def address_end(self) -> str:
        """What an address ends with that lets its reader in."""
        return f"/?{PARAMETER}={self._token}"

    def refused(self, host: str, origin: str | None) -> str | None:
        """Why a page of another site, or a name that another site made point here, is refused; None if it is not."""
        name, _ = _name_and_port(host)
        if self._names is not None and name not in self._names:
            return "served on this machine only: ask for http://localhost"
        if origin is not None and _netloc(origin) != host:
            return "asked by a page of another site"
        return None

    def is_token(self, given: str | None) -> bool:
        # As bytes, for of text only ASCII can be compared.
        return given is not None and secrets.compare_digest(given.encode(errors="replace"), self._token.encode())

    def cookie(self, host: str) -> tuple[str, str]:
        """The cookie for who has shown the token: a name and a value.

        Cookies know no ports, so that those of two servers must differ by name. The browser's port counts, not ours:
        an SSH tunnel may have changed it, and tunnels to two machines may end at the same port of theirs.
        """
        _, port = _name_and_port(host)
        return f"rankdeck-{port}", self._token

    def knows(self, host: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        name, _ = self.cookie(host)
        return self.is_token(cookies.get(name)) or self.is_token(query.get(PARAMETER))


def _name_and_port(host: str) -> tuple[str, int]:
    """Of a Host header; one that is nonsense has no name."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or 80
    except ValueError:
        return "", 80


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""

"""Who gets the page of `rankdeck serve`: the host names it may be requested by, and its token.

The loopback keeps out other machines; only the token keeps out other users of this one. Knows requests and cookies as
values; what is served is the server's business.
"""

import secrets
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

PARAMETER = "token"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
NO_TOKEN = "ask for the address that `rankdeck serve` printed when it was started here, with the token at its end"


class Admission:
    """A server's token, new for each server, and the host names that its page may be requested by."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        """`names`: further names of the loopback if the page is served on that alone; None allows any name."""
        self._token = secrets.token_urlsafe(32)
        self._names = None if names is None else LOOPBACK_NAMES | {name.lower() for name in names}

    @property
    def address_end(self) -> str:
        """The end of the address that lets its reader in."""
        return f"/?{PARAMETER}={self._token}"

    def refused(self, host: str, origin: str | None) -> str | None:
        """Why a request is refused: it comes from another site's page, or under a foreign name; None if it is not."""
        name, _ = _name_and_port(host)
        if self._names is not None and name not in self._names:
            return "served on this machine only: ask for http://localhost"
        if origin is not None and _netloc(origin) != host:
            return "asked by a page of another site"
        return None

    def is_token(self, given: str | None) -> bool:
        # As bytes, because compare_digest takes only ASCII text.
        return given is not None and secrets.compare_digest(given.encode(errors="replace"), self._token.encode())

    def cookie(self, host: str) -> tuple[str, str]:
        """The cookie for a browser that has shown the token: a name and a value.

        Cookies ignore ports, so the cookies of two servers must differ by name. The name has the port that the browser
        sees, not the server's: through SSH tunnels, two servers on the same port have different ports in the browser.
        """
        _, port = _name_and_port(host)
        return f"rankdeck-{port}", self._token

    def knows(self, host: str, query: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        name, _ = self.cookie(host)
        return self.is_token(cookies.get(name)) or self.is_token(query.get(PARAMETER))


def _name_and_port(host: str) -> tuple[str, int]:
    """The name and the port in a Host header; no name if it makes no sense."""
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

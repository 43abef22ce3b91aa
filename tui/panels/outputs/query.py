"""The small language in which lists are filtered: words, `name:value`, `#17`, and `-` before what is left out.

    lighthouse "nine ships" rank:1 tokens:>40 -finish:stop

All terms must hold. Words are found in any case, wherever the subject's text has them; a phrase in quotes is one
word. What names there are is said by whoever has something to filter, as a Language. Pure.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

Subject = TypeVar("Subject")
Test = Callable[[Subject], bool]
Read = Callable[[str], Test[Subject]]
"""Makes a test of the value after a name.

Raises:
    ValueError: there is no such value; the text says why.
"""


class QueryError(ValueError):
    """A query that cannot be understood: the text says which term, why, and what to write instead.

    `rest` is the query without the terms that are wrong: who is still typing is not to lose the others.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.rest: Query[Any] = Query()


@dataclass(frozen=True)
class Query(Generic[Subject]):
    """What was asked for, understood. Two that are written the same are the same."""

    text: str = ""
    tests: tuple[Test[Subject], ...] = field(default=(), compare=False)
    words: tuple[tuple[str, bool], ...] = field(default=(), compare=False)
    """Words in lower case, each with whether the subject must have it; False where it must not."""
    text_of: Callable[[Subject], str] = field(default=lambda _: "", compare=False)
    finds: re.Pattern[str] | None = field(default=None, compare=False)
    """What of a text is worth marking, if anything is."""

    def __bool__(self) -> bool:
        return bool(self.text)

    def matches(self, subject: Subject) -> bool:
        """Whether all terms hold; texts are looked into last, because that takes longest."""
        for test in self.tests:
            if not test(subject):
                return False
        if not self.words:
            return True
        text = self.text_of(subject).lower()
        return all((word in text) is wanted for word, wanted in self.words)


@dataclass(frozen=True)
class Name(Generic[Subject]):
    """A name of the language: how its values are read, an example, and whether what it finds is marked in texts."""

    read: Read[Subject]
    example: str
    marks: bool = False


@dataclass(frozen=True)
class Language(Generic[Subject]):
    """What can be asked of a kind of subject: the text that words are found in, and the names there are."""

    text_of: Callable[[Subject], str]
    names: Mapping[str, Name[Subject]]
    number_sign: str | None = None
    """The name that `#17` is short for."""

    def parse(self, text: str) -> Query[Subject]:
        """The query that `text` is; an empty one holds for everything.

        Raises:
            QueryError: a term cannot be understood.
        """
        terms = _Terms[Subject]([], [], [], [])
        wrong: QueryError | None = None
        for term in _TERM.finditer(text):
            try:
                self._read(term, terms)
            except QueryError as error:
                wrong = wrong or error
        found = "|".join(map(re.escape, sorted(terms.found, key=len, reverse=True)))
        query = Query(
            " ".join(terms.texts),
            tuple(terms.tests),
            tuple(terms.words),
            self.text_of,
            re.compile(found, re.IGNORECASE) if found else None,
        )
        if wrong is not None:
            wrong.rest = query
            raise wrong
        return query

    def _read(self, term: re.Match[str], into: "_Terms[Subject]") -> None:
        wanted, name, value = not term["minus"], term["name"], term["quoted"] or term["plain"] or ""
        if term["number"] is not None:
            name, value = self.number_sign, term["number"] if self.number_sign else f"#{term['number']}"
        if name is not None:
            known = self._name(name, term[0])
            test = _test(known, value, term[0])
            into.tests.append(test if wanted else _but_not(test))
            if wanted and known.marks:
                into.found.append(value)
        elif value:
            into.words.append((value.lower(), wanted))
            if wanted:
                into.found.append(value)
        elif term["minus"]:
            raise QueryError("- leaves out what follows it, as in -word")
        else:
            return
        into.texts.append(term[0])

    def _name(self, name: str, term: str) -> Name[Subject]:
        try:
            return self.names[name.lower()]
        except KeyError:
            known = ", ".join(self.names)
            raise QueryError(f'{name}: is none of {known}; as text, write "{term.lstrip("-")}"') from None


class _Terms(NamedTuple, Generic[Subject]):
    """What was read of a query so far."""

    texts: list[str]
    tests: list[Test[Subject]]
    words: list[tuple[str, bool]]
    found: list[str]


def _test(name: Name[Subject], value: str, term: str) -> Test[Subject]:
    if not value:
        raise QueryError(f"{term} needs a value; write {name.example}")
    try:
        return name.read(value)
    except ValueError as error:
        raise QueryError(f"{term}: {error}; write {name.example}") from None


def _but_not(test: Test[Subject]) -> Test[Subject]:
    return lambda subject: not test(subject)


_TERM = re.compile(
    r"""(?P<minus>-?)
    (?: \#(?P<number>\S*)
      | (?:(?P<name>[A-Za-z_]+):)? (?: "(?P<quoted>[^"]*)(?:"|$) | (?P<plain>[^\s"]\S*) )?
    )""",
    re.VERBOSE,
)
"""A term; a quote that is not closed goes on to the end, since it may be about to be."""


# --- kinds of values ------------------------------------------------------------------------------

_MOST = float("inf")
_NUMBERS = re.compile(r"(?P<sign>>=|<=|>|<|=)?(?P<low>\d{1,18})(?:(?:-|\.\.)(?P<high>\d{1,18}))?")


def numbers(number_of: Callable[[Subject], int | None]) -> Read[Subject]:
    """`7`, `>40`, `<=9`, `10-20`, and several with commas: one of them must hold."""

    def read(value: str) -> Test[Subject]:
        spans = [_span(part) for part in value.rstrip(",").split(",")]

        def test(subject: Subject) -> bool:
            number = number_of(subject)
            return number is not None and any(low <= number <= high for low, high in spans)

        return test

    return read


def _span(text: str) -> tuple[float, float]:
    found = _NUMBERS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text or 'nothing'} is no number")
    low = int(found["low"])
    if found["high"] is not None:
        if found["sign"]:
            raise ValueError(f"{text} is a range and has a sign too")
        return low, int(found["high"])
    spans = {">": (low + 1, _MOST), ">=": (low, _MOST), "<": (-_MOST, low - 1), "<=": (-_MOST, low)}
    return spans.get(found["sign"] or "", (low, low))


def choice(choice_of: Callable[[Subject], str], choices: Sequence[str]) -> Read[Subject]:
    """One of a few words, or several with bars or commas between them; a beginning of one will do."""

    def read(value: str) -> Test[Subject]:
        wanted: set[str] = set()
        for part in re.split(r"[|,]", value.lower().rstrip("|,")):
            meant = [name for name in choices if part and name.startswith(part)]
            if not meant:
                raise ValueError(f"{part or 'nothing'} is none of {', '.join(choices)}")
            wanted.update(meant)
        return lambda subject: choice_of(subject) in wanted

    return read


def exactly(text_of: Callable[[Subject], str]) -> Read[Subject]:
    """The very text, in any case."""

    def read(value: str) -> Test[Subject]:
        wanted = value.lower()
        return lambda subject: text_of(subject).lower() == wanted

    return read


def contains(text_of: Callable[[Subject], str]) -> Read[Subject]:
    """A word somewhere in a text, in any case."""

    def read(value: str) -> Test[Subject]:
        wanted = value.lower()
        return lambda subject: wanted in text_of(subject).lower()

    return read

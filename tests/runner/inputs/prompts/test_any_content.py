"""Whatever is written into a prompt file comes back as it was, and whatever else is in it, is refused with words."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rankdeck.runner.inputs.frozen_prompts import PromptError, PromptIndex, freeze
from rankdeck.runner.inputs.prompts.contents import STDIN
from rankdeck.runner.inputs.prompts.kinds import NAMES, WITH_COLUMNS, Kind

TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


def read(name: str, content: bytes) -> list[str]:
    """The texts of a file of this content; each kind of table has its prompts in the column `prompt`."""
    column = "prompt" if Kind.of(name).suffix in WITH_COLUMNS else None
    stdin = io.BytesIO(content) if name == STDIN else None
    if name != STDIN:
        Path(name).write_bytes(content)
    index = freeze(name, Path("prompts.jsonl"), column=column, limit=None, chat=False, stdin=stdin)
    return [prompt.text for prompt in PromptIndex.open(Path("prompts.jsonl")).read(range(index.count))]


def prompts_or_error(name: str, content: bytes) -> list[str] | PromptError:
    try:
        return read(name, content)
    except PromptError as error:
        return error


def table(prompts: list[str], **how: str) -> str:
    out = io.StringIO()
    csv.writer(out, **how).writerows([["id", "prompt"], *([str(at), text] for at, text in enumerate(prompts))])  # type: ignore[arg-type]
    return out.getvalue()


WRITERS: dict[str, Callable[[list[str]], str]] = {
    ".jsonl": lambda prompts: "".join(json.dumps({"prompt": text}) + "\n" for text in prompts),
    ".ndjson": lambda prompts: "\r\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in prompts),
    ".json": lambda prompts: json.dumps([{"prompt": text} for text in prompts], indent=1),
    ".csv": table,
    ".tsv": lambda prompts: table(prompts, dialect="excel-tab"),
}


@pytest.mark.parametrize("suffix", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(prompts=st.lists(TEXTS, min_size=1, max_size=5))
@example(prompts=['quoted "so"\r\nand, then;\tthat', "\0", "\ufeff", "a\rb"])
def test_any_texts_come_back_from_each_kind_of_file(suffix: str, prompts: list[str]) -> None:
    content = WRITERS[suffix](prompts).encode()
    assert read(f"p{suffix}", content) == prompts
    assert read(f"p{suffix}.gz", gzip.compress(content, 1)) == prompts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    prompts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")).filter(str.strip),
        min_size=1,
        max_size=5,
    ),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_any_lines_come_back_from_text(prompts: list[str], ending: str) -> None:
    lines = [f"line: {prompt}" for prompt in prompts]
    assert read("p.txt", ending.join(lines).encode()) == lines
    assert read(STDIN, ending.join(lines).encode()) == lines


PIECES = [
    *(bytes([byte]) for byte in b'\n\r",\t{}[]:\xff\xfe\0'),
    *(b"prompt", b"id,prompt\n", b"sep=;\n", b"\xef\xbb\xbf", b"PAR1\x15", b"\x1f\x8b", b"\\ud800", b"NaN", b"null"),
    *(b'{"prompt": "a"}\n', b'{"prompt": "a", "id": ', b"9" * 30, b'"messages":', b'{"messages": [{"role": "user"}]}'),
]
BYTES = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))


@pytest.mark.parametrize("name", [STDIN, *(f"p{suffix}" for suffix in NAMES)])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(content=BYTES)
def test_any_bytes_are_prompts_or_a_prompt_error_that_names_the_file(name: str, content: bytes) -> None:
    shown = "standard input" if name == STDIN else name
    for data in [content, gzip.compress(content, 1)] if name.endswith(".gz") else [content]:
        found = prompts_or_error(name, data)
        if isinstance(found, PromptError):
            assert found.problems
            assert all(line.startswith(f"{shown}:") for line in str(found).splitlines())
        else:
            assert found
            assert all(prompt.strip() for prompt in found)

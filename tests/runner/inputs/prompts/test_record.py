"""What makes a record a prompt: what is taken, what is refused in clear words, and what is left out and said once."""

import json
from typing import Any

import pytest

from rankdeck.runner.inputs.prompts.record import MAX_PROMPT_BYTES, LeftOut, understand
from rankdeck.runner.protocol import Prompt, encode_line, prompt_text
from tests.runner.inputs.freezing import complaint, freeze_here, frozen, remarks, texts


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def said(row: Any) -> str:
    return complaint("p.jsonl", lines(row)).removeprefix("p.jsonl:1: ")


def user(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


# --- keys that are null ----------------------------------------------------------------------------------


def test_a_key_that_is_null_is_as_good_as_absent() -> None:
    rows = [
        {"prompt": "a", "messages": None},
        {"prompt": None, "messages": [user()]},
        {"prompt": "b", "id": None, "custom_id": None, "tools": None, "body": None},
    ]
    index = freeze_here("p.jsonl", lines(*rows))
    assert [prompt.text for prompt in index.read([0, 1, 2])] == ["a", "", "b"]
    assert index.remarks == []


def test_a_runs_own_copy_of_its_prompts_can_be_given_to_another() -> None:
    """`run it:` after a sweep of standard input names it, and so does a form that begins a run again."""
    own = [
        Prompt(index=4, id="a", text="one"),
        Prompt(index=5, id="5", messages=[{"role": "user", "content": "two"}]),
    ]
    read = [understand(json.loads(encode_line(prompt)), LeftOut()) for prompt in own]
    assert read == [("one", None, "a"), ("", [{"role": "user", "content": "two"}], "5")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": None}, "`prompt` is null; there is no prompt"),
        ({"prompt": None, "messages": None}, "`prompt` and `messages` are null; there is no prompt"),
        ({"prompt": "a", "messages": [user()]}, "both `prompt` and `messages`; leave one out"),
        ({"prompt": 7}, "`prompt` must be a string, not a number"),
        (
            {"prompt": [1, 2, 3]},
            "`prompt` is a list of token ids; give the text, which the model's tokenizer makes tokens of",
        ),
        ({"prompt": ["a", "b"]}, "`prompt` is a list of strings; give each a record of its own"),
        ({"prompt": [user()]}, "`prompt` is a list of messages; call the key `messages`"),
        ({"prompt": []}, "`prompt` must be a string, not an empty list"),
        ({"prompt": "a", "id": True}, "`id` must be a string or a whole number, not true"),
        ({"text": "a"}, "neither `prompt` nor `messages`; there is `text`"),
        ({"\x1b[2J": "a"}, "neither `prompt` nor `messages`; there is `\\u001b[2J`"),
        ({"prompt": [1, "a"]}, "`prompt` is a list; give a string"),
        ({"prompt": [{"text": "a"}]}, "`prompt` is a list; give a string"),
        ({"prompt": [user(), {"text": "a"}]}, "`prompt` is a list; give a string"),
        ({"prompt": {}}, "`prompt` must be a string, not an object"),
        ({"messages": None}, "`messages` is null; there is no prompt"),
        ({}, "neither `prompt` nor `messages`; there is nothing"),
        (dict.fromkeys("abcdef", 1), "neither `prompt` nor `messages`; there is `a`, `b`, `c`, `d`, `e`"),
        ({"prompt": "a", "id": ""}, "`id` must be a string or a whole number, not an empty string"),
        ({"prompt": "a", "id": 1.0}, "`id` must be a string or a whole number, not a number"),
        ({"prompt": "a", "custom_id": []}, "`custom_id` must be a string or a whole number, not an empty list"),
        ({"prompt": "a", "id": None, "custom_id": False},
         "`custom_id` must be a string or a whole number, not false"),
        ({"messages": {}}, "`messages` must be a list of messages, not an object"),
        ({"body": {"prompt": "a", "messages": [user()]}}, "`body` has both `prompt` and `messages`; leave one out"),
        ({"body": "a"}, "neither `prompt` nor `messages`; there is `body`"),
        ({"body": {"prompt": [1]}}, "`prompt` is a list of token ids; give the text, which the model's tokenizer makes "
                                    "tokens of"),
        ({"custom_id": "a", "body": {"input": "x"}}, "`body` has neither `prompt` nor `messages`; there is `input`"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused_in_words_that_say_what_to_do(row: Any, words: str) -> None:
    assert said(row) == words


# --- messages --------------------------------------------------------------------------------------------


def test_parts_of_text_stay_parts_for_templates_that_keep_them_apart_and_are_shown_as_one_text() -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": ", world"}]
    (prompt,) = frozen("p.jsonl", lines({"messages": [user(parts)]}))
    assert prompt.messages == [user(parts)]
    assert prompt_text(prompt) == "user: Hello, world"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (user([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]),
         "a part of `content` has the type `image_url`; only text is supported, no images, audio or files"),
        (user([{"text": "a"}]), "a part of `content` has no `type`; only text is supported, no images, audio or files"),
        (user([{"type": "text", "text": None}]), "`text` in a part of `content` must be a string, not null"),
        (user([]), "`content` is empty"),
        (user(None), "`content` must be a string, not null"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
         "tool calls (`tool_calls`) are not supported; leave out messages about tools"),
        ({"role": "tool", "content": "42", "tool_call_id": "1"},
         "tool results (role tool) are not supported; leave out messages about tools"),
        ({"role": "function", "content": "42"},
         "tool results (role function) are not supported; leave out messages about tools"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "`content` must be a string, not null"),
        ({"role": "assistant", "content": " "}, "`content` is empty"),
        (user(["a"]), "`content` must be a string, not a list"),
        (user([{"type": 7, "text": "a"}]),
         "a part of `content` has no `type`; only text is supported, no images, audio or files"),
        (user([{"type": "\x1b[2J"}]),
         "a part of `content` has the type `\\u001b[2J`; only text is supported, no images, audio or files"),
        ({"role": "\x1b[2J", "content": "a"},
         '`role` must be one of system, developer, user, assistant, not "\\u001b[2J"'),
        ({"role": "human", "content": "a"},
         '`role` must be one of system, developer, user, assistant, not "human"'),
        ({"content": "a"}, "`role` must be one of system, developer, user, assistant, not null"),
        ({"role": [[[]]], "content": "a"}, "`role` must be one of system, developer, user, assistant, not a list"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_given_to_a_model_is_refused_with_its_number(message: Any, words: str) -> None:
    assert said({"messages": [user(), message]}) == f"message 2: {words}"


def test_a_developers_message_is_given_as_the_systems_which_every_template_knows() -> None:
    index = freeze_here("p.jsonl", lines({"messages": [{"role": "developer", "content": "Be brief."}, user()]}))
    assert index.read([0])[0].messages == [{"role": "system", "content": "Be brief."}, user()]
    assert index.remarks == ["developer messages (1) are passed to the model as system messages"]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_first_message_may_be_empty_where_it_is_the_systems(role: str) -> None:
    (prompt,) = frozen("p.jsonl", lines({"messages": [{"role": role, "content": ""}, user()]}))
    assert prompt.messages == [{"role": "system", "content": ""}, user()]


def test_a_request_with_a_prompt_of_its_own_is_answered_by_that_and_its_body_is_left_out() -> None:
    rows = [
        {"prompt": "own", "body": {"prompt": "other"}},
        {"messages": [user()], "body": {"prompt": "other"}},
        {"prompt": None, "messages": None, "body": {"prompt": "other"}},
    ]
    index = freeze_here("p.jsonl", lines(*rows))
    assert [prompt.text or prompt.messages for prompt in index.read([0, 1, 2])] == ["own", [user()], "other"]
    assert index.remarks == ["keys of the prompt file that are not used: `body` (2)"]


# --- what is left out ------------------------------------------------------------------------------------


def test_keys_that_are_not_used_are_said_once_with_their_count() -> None:
    rows = [
        {"messages": [user(name="Ann"), user(name="Bob")], "tools": [{}]},
        {"prompt": "b", "tools": [{}], "source": "web"},
        {"prompt": "c"},
    ]
    assert remarks("p.jsonl", lines(*rows)) == [
        "keys of the prompt file that are not used: `messages.name` (2), `tools` (2), `source` (1)"
    ]


def test_keys_that_are_flags_here_are_said_to_be() -> None:
    assert remarks("p.json", json.dumps([{"prompt": "a", "temperature": 0.5}])) == [
        "keys of the prompt file that are not used: `temperature` (1); settings are given as flags, for all prompts"
    ]


def test_keys_are_counted_where_they_stand_and_settings_only_by_their_own_name() -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {}, "seed": 1}]
    row = {"custom_id": "x", "messages": [user(parts, tool_calls=[1])], "id": None, "seeds": 1}
    assert remarks("p.jsonl", lines(row)) == [
        "keys of the prompt file that are not used: `content.cache_control` (1), `content.seed` (1), "
        "`messages.tool_calls` (1), `seeds` (1); settings are given as flags, for all prompts"
    ]
    assert remarks("p.jsonl", lines({"prompt": "a", "seeds": 1})) == [
        "keys of the prompt file that are not used: `seeds` (1)"
    ]


@pytest.mark.parametrize(
    "key", ["model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"]
)
def test_each_key_that_is_a_flag_here_is_said_to_be(key: str) -> None:
    for row in ({"prompt": "a", key: 1}, {"body": {"prompt": "a", key: 1}}):
        (remark,) = remarks("p.jsonl", lines(row))
        assert remark.endswith(f"{key}` (1); settings are given as flags, for all prompts")


def test_eight_keys_are_named_and_a_ninth_is_counted() -> None:
    rows = {f"k{number}": 1 for number in range(9)}
    eight = ", ".join(f"`k{number}` (1)" for number in range(8))
    assert remarks("p.jsonl", lines({"prompt": "a", **rows})) == [
        f"keys of the prompt file that are not used: {eight} and 1 more"
    ]
    rows.popitem()
    assert remarks("p.jsonl", lines({"prompt": "a", **rows})) == [f"keys of the prompt file that are not used: {eight}"]


def test_counts_have_their_thousands_apart_and_what_is_said_of_ids_comes_first() -> None:
    rows = [{"prompt": "a", "x": 1, "id": "1"}, {"prompt": "a", "x": 1}]
    rows += [{"messages": [{"role": "developer", "content": "b"}], "x": 1} for _ in range(1000)]  # type: ignore[dict-item]
    said = remarks("p.jsonl", lines(*rows))
    assert [line.partition(" is given")[0] for line in said] == [
        "id '1'",
        "keys of the prompt file that are not used: `x` (1,002)",
        "developer messages (1,000) are passed to the model as system messages",
    ]


def test_of_many_keys_the_most_common_are_said_and_none_reaches_the_terminal_as_it_is() -> None:
    rows = [{"prompt": "a", "\x1b]52;c;x\a": 1}] * 2 + [{"prompt": "a", f"key {number}": 1} for number in range(500)]
    (remark,) = remarks("p.jsonl", lines(*rows))
    assert remark.startswith("keys of the prompt file that are not used: `\\u001b]52;c;x\\u0007` (2), `key 0` (1), ")
    assert remark.endswith("`key 6` (1) and 92 more"), "not every key there ever was is counted"


def test_a_request_of_the_batch_api_gives_its_messages_and_says_what_is_not_taken() -> None:
    row = {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [user()], "max_tokens": 9},
    }
    index = freeze_here("p.jsonl", lines(row))
    prompt = index.read([0])[0]
    assert (prompt.id, prompt.messages) == ("request-1", [user()])
    assert index.remarks == [
        "keys of the prompt file that are not used: `method` (1), `url` (1), `body.model` (1), `body.max_tokens` (1); "
        "settings are given as flags, for all prompts"
    ]


# --- ids -------------------------------------------------------------------------------------------------


def ids(*rows: Any) -> list[str]:
    return [prompt.id for prompt in frozen("p.jsonl", lines(*rows))]


def test_an_id_of_0_stays_0_wherever_it_stands() -> None:
    assert ids({"id": 1, "prompt": "a"}, {"id": "x", "prompt": "b"}, {"id": 0, "prompt": "c"}) == ["1", "x", "0"]


def test_a_custom_id_is_an_id_unless_there_is_one() -> None:
    rows = [{"custom_id": "a", "prompt": "1"}, {"custom_id": 7, "id": 0, "prompt": "2"}, {"prompt": "3"}]
    assert ids(*rows) == ["a", "0", "2"]
    assert remarks("p.jsonl", lines(*rows)) == ["keys of the prompt file that are not used: `custom_id` (1)"]
    assert "id 'a' appears more than once, on lines 1, 2" in complaint(
        "p.jsonl", lines(rows[0], {"id": "a", "prompt": "b"})
    )


def test_a_given_id_may_be_the_index_of_a_prompt_without_one_and_that_is_said() -> None:
    rows = [{"prompt": "a"}, {"id": 0, "prompt": "b"}, {"prompt": "c"}, {"id": "2", "prompt": "d"}]
    assert ids(*rows) == ["0", "0", "2", "2"]
    assert remarks("p.jsonl", lines(*rows)) == [
        "id '0' is given, and is also that of a prompt without one, its index, as are 1 more; "
        "`index` tells the outputs apart"
    ]
    assert remarks("p.jsonl", lines({"prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": "00", "prompt": "c"})) == []


# --- lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["a", "ü", "你", "😀"])
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv"])
def test_the_limit_of_a_prompt_is_in_bytes_whatever_its_letters(name: str, letter: str) -> None:
    def content(prompt: str) -> str:
        return {"p.txt": prompt, "p.csv": f"prompt\n{prompt}"}.get(name) or json.dumps({"prompt": prompt})

    column = "prompt" if name == "p.csv" else None
    most = letter * (MAX_PROMPT_BYTES // len(letter.encode())) + "x" * (MAX_PROMPT_BYTES % len(letter.encode()))
    index = freeze_here(name, content(most), column=column)
    assert list(index.lengths) == [MAX_PROMPT_BYTES]
    over = f"prompt of {MAX_PROMPT_BYTES + 1:,} bytes; the limit is {MAX_PROMPT_BYTES:,}"
    assert over in complaint(name, content(most + "x"), column=column)


def test_the_limit_holds_for_all_messages_together() -> None:
    half = "ü" * (MAX_PROMPT_BYTES // 4)
    assert len(frozen("p.jsonl", lines({"messages": [user(half), user(half)]}))) == 1
    assert f"prompt of {MAX_PROMPT_BYTES + 1:,} bytes" in said({"messages": [user(half), user(half + "x")]})


def test_blank_lines_at_the_end_of_a_text_are_no_prompts() -> None:
    for end in ("\n", "\n\n", "\n   ", "\n \t\r\n\n", "\u2028\n \x85\n"):
        assert len(frozen("p.txt", "one\ntwo" + end)) == 2


def test_only_a_line_feed_ends_a_line_of_text() -> None:
    prompts = ["a\x0bb", "a\x0cb", "a\x1cb\x1db\x1eb", "a\x85b", "a\u2028b\u2029c", "\ufeffmark"]
    assert texts(frozen("p.txt", "\r\n".join(prompts))) == prompts


def test_records_under_the_name_of_a_text_file_are_taken_as_text_and_that_is_said() -> None:
    content = '{"prompt": "a"}\n{"messages": []}\nplain "prompt"\n{"prompt" as text}\n{"body": {"prompt": 1}}\n{}\n'
    index = freeze_here("p.txt", content)
    assert [prompt.text for prompt in index.read(range(6))] == content.splitlines()
    said = "taken as plain text; name the file .jsonl to have `prompt` or `messages` read"
    assert index.remarks == [f"2 prompts are JSON records, {said}"]
    assert remarks("p.txt", '{"prompt": "a"}\n') == [f"1 prompt is a JSON record, {said}"]
    assert remarks("p.jsonl", '{"prompt": "a"}\n') == []

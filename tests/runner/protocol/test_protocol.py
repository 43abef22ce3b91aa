"""The protocol: every message survives the wire, a line each."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.runner import protocol
from rankdeck.runner.protocol import AnyEvent, FromRank, OutputRecord, Prompt, encode_line
from rankdeck.runner.state import RunState, Snapshot, ToViewer

TEXT = st.text(max_size=50)


@given(TEXT, TEXT, st.integers(0, 10**7))
def test_any_text_travels_in_one_line_and_comes_back_the_same(prompt, text, index):
    record = OutputRecord(
        index=index, id=prompt, prompt=prompt, text=text, prompt_tokens=1, output_tokens=1, finish_reason="stop"
    )
    line = encode_line(protocol.Output(at=1.5, record=record))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert msgspec.json.decode(line, type=AnyEvent) == protocol.Output(at=1.5, record=record)


def test_half_a_character_in_an_error_does_not_keep_it_from_being_sent():
    error = "FileNotFoundError: caf\udce9/weights.bin: é \U0001f600 \\udce9"
    line = encode_line(protocol.BatchFailed(rank=0, batch=1, kind="error", error=error))
    assert msgspec.json.decode(line, type=FromRank) == protocol.BatchFailed(
        rank=0, batch=1, kind="error", error=error.replace("\udce9", "?", 1)
    )


def test_the_kind_of_a_message_is_its_name_in_snake_case():
    assert msgspec.json.decode(encode_line(protocol.RanksReady()))["type"] == "ranks_ready"
    assert b'"type":"batch_failed"' in encode_line(
        protocol.BatchFailed(rank=0, batch=1, kind="out_of_memory", error="no room")
    )


def test_a_prompt_in_a_file_has_only_what_is_set():
    assert msgspec.json.encode(Prompt(index=3, id="c", text="hello")) == b'{"index":3,"id":"c","text":"hello"}'


@pytest.mark.parametrize(
    "line", [b"{}", b'{"type":"launch_missiles"}', b'{"type":"rank_hello","rank":"zero"}', b"\xff"]
)
def test_what_is_no_message_is_refused(line):
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        msgspec.json.decode(line, type=FromRank)


def test_a_snapshot_holds_the_whole_state():
    state = RunState(name="first", prompts=7)
    assert msgspec.json.decode(encode_line(Snapshot(state=state)), type=ToViewer).state == state


def test_chat_messages_are_shown_a_line_each():
    prompt = Prompt(
        index=0, id="0", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    assert protocol.prompt_text(prompt) == "system: Be brief.\nuser: Hi"

"""What makes a record of a prompt file a prompt: a text, or the messages of a chat, and an id.

Refuses what cannot be one, in words; counts the keys that are left out, which are said once. Knows no files or lines.
"""

from collections import Counter
from collections.abc import Mapping, Set
from itertools import islice
from typing import Any

import msgspec

from rankdeck.runner.inputs.prompts.problems import kind, shown
from rankdeck.runner.protocol.records import Content, Messages, content_text

Record = tuple[int, object]
"""A record's place in its file, from 1, and its value: a str, decoded JSON, or a ValueError that says what is wrong."""

MAX_PROMPT_BYTES = 4 * 1024 * 1024
"""A longer prompt, once escaped, would not fit a line of the protocol, nor a model's context."""

ROLES = ("system", "developer", "user", "assistant")
TOOL_ROLES = ("tool", "function")

OWN_COPY = frozenset({"index", "id", "text"})
"""Keys of a run's own copy of its prompts, with which another run may be started."""

USED_WITH_ID = frozenset({"prompt", "messages", "id"})
USED_WITH_CUSTOM_ID = frozenset({"prompt", "messages", "custom_id"})
IN_A_MESSAGE = frozenset({"role", "content"})
USED_KEYS = USED_WITH_ID | USED_WITH_CUSTOM_ID | IN_A_MESSAGE | {"body"}
SETTINGS = frozenset({"model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"})
"""Keys of a request that are flags of a run here."""

MOST_KEYS = 100
SHOWN_KEYS = 8

TextOrMessages = tuple[str, Messages | None]


class LeftOut:
    """Counts what of a file's records is not taken as it stands, to say it once."""

    def __init__(self) -> None:
        self._keys: Counter[str] = Counter()
        self._developers = self._records_as_text = 0

    def keys(self, value: Mapping[str, object], used: Set[str], within: str = "") -> None:
        """Count the keys of `value` that are not in `used`, unless they are null."""
        if value.keys() <= used:
            return
        for key in value:
            if key not in used and value[key] is not None:
                name = within + key
                if name in self._keys or len(self._keys) < MOST_KEYS:
                    self._keys[name] += 1

    def developer(self) -> None:
        """Count a message of the developer, which is taken as the system's."""
        self._developers += 1

    def text(self, text: str) -> None:
        """Count a text that is a record in JSON: its file has the wrong name."""
        self._records_as_text += _is_record(text)

    def words(self) -> list[str]:
        """A sentence for each kind of thing that was left out."""
        said = []
        if self._keys:
            most = self._keys.most_common()
            listed = ", ".join(f"`{shown(key)}` ({count:,})" for key, count in most[:SHOWN_KEYS])
            more = f" and {len(most) - SHOWN_KEYS} more" if len(most) > SHOWN_KEYS else ""
            flags = any(key.rpartition(".")[2] in SETTINGS for key in self._keys)
            hint = "; settings are given as flags, for all prompts" if flags else ""
            said.append(f"keys of the prompt file that are not used: {listed}{more}{hint}")
        if self._developers:
            said.append(f"developer messages ({self._developers:,}) are passed to the model as system messages")
        if self._records_as_text:
            which = f"{self._records_as_text:,} {'prompt is a' if self._records_as_text == 1 else 'prompts are'} JSON"
            records = "record" if self._records_as_text == 1 else "records"
            said.append(
                f"{which} {records}, taken as plain text; name the file .jsonl to have `prompt` or `messages` read"
            )
        return said


def understand(value: object, left_out: LeftOut) -> tuple[str, Messages | None, str | None]:
    """Text, messages and id in a record; ValueError says what is wrong. A key that is null is as good as absent."""
    if isinstance(value, ValueError):
        raise value
    if isinstance(value, str):
        left_out.text(value)
        return _check_text(value), None, None
    if not isinstance(value, dict):
        raise ValueError(f"{kind(value)}, not an object with `prompt` or `messages`")
    if OWN_COPY <= value.keys() <= OWN_COPY | {"messages"}:
        value = {"prompt": value["text"] or None, "messages": value.get("messages"), "id": value["id"]}
    named = "custom_id" if value.get("id") is None and "custom_id" in value else "id"
    id_ = _id_of(value, named)
    body = value.get("body")
    if isinstance(body, ValueError):
        raise body
    if isinstance(body, dict) and value.get("prompt") is None and value.get("messages") is None:
        text, messages = _prompt_of(body, left_out, "`body` has ")
        left_out.keys(value, {named, "body"})
        left_out.keys(body, {"prompt", "messages"}, "body.")
    else:
        text, messages = _prompt_of(value, left_out)
        left_out.keys(value, USED_WITH_ID if named == "id" else USED_WITH_CUSTOM_ID)
    return text, messages, id_


def _is_record(text: str) -> bool:
    if not text.startswith("{") or not ('"prompt"' in text or '"messages"' in text):
        return False
    try:
        return not msgspec.json.decode(text, type=dict[str, Any]).keys().isdisjoint(USED_WITH_ID)
    except (ValueError, RecursionError):
        return False


def _id_of(value: Mapping[str, object], key: str) -> str | None:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, (str, int, type(None))) or found == "":
        raise ValueError(f"`{key}` must be a string or a whole number, not {kind(found)}")
    return None if found is None else str(found)


def _prompt_of(value: Mapping[str, object], left_out: LeftOut, where: str = "") -> TextOrMessages:
    prompt, messages = value.get("prompt"), value.get("messages")
    if prompt is not None and messages is not None:
        raise ValueError(f"{where}both `prompt` and `messages`; leave one out")
    if messages is not None:
        return "", _check_messages(messages, left_out)
    if isinstance(prompt, str):
        return _check_text(prompt), None
    if isinstance(prompt, list) and prompt:
        raise ValueError(f"`prompt` is {_list_words(prompt)}")
    if prompt is not None:
        raise ValueError(f"`prompt` must be a string, not {kind(prompt)}")
    nulls = [key for key in ("prompt", "messages") if key in value]
    if nulls:
        raise ValueError(f"`{'` and `'.join(nulls)}` {'are' if len(nulls) > 1 else 'is'} null; there is no prompt")
    keys = ", ".join(f"`{shown(key)}`" for key in islice(value, 5)) or "nothing"
    raise ValueError(f"{where}neither `prompt` nor `messages`; there is {keys}")


def _list_words(prompt: list[object]) -> str:
    if all(isinstance(item, int) for item in prompt):
        return "a list of token ids; give the text, which the model's tokenizer makes tokens of"
    if all(isinstance(item, dict) and "role" in item for item in prompt):
        return "a list of messages; call the key `messages`"
    if all(isinstance(item, str) for item in prompt):
        return "a list of strings; give each a record of its own"
    return "a list; give a string"


def _check_text(text: str) -> str:
    if not text or text.isspace():
        raise ValueError("empty prompt")
    if len(text) > MAX_PROMPT_BYTES // 4 and bytes_of(text) > MAX_PROMPT_BYTES:
        raise ValueError(f"prompt of {bytes_of(text):,} bytes; the limit is {MAX_PROMPT_BYTES:,}")
    return text


def bytes_of(text: str) -> int:
    """Its length in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _check_messages(messages: object, left_out: LeftOut) -> Messages:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"`messages` must be a list of messages, not {kind(messages)}")
    checked = []
    for number, message in enumerate(messages, 1):
        if isinstance(message, ValueError):
            raise ValueError(f"message {number}: {message}")
        if not isinstance(message, dict):
            raise ValueError(f"message {number} must be an object with `role` and `content`, not {kind(message)}")
        try:
            role = _role_of(message, left_out)
            content = _content_of(message, left_out)
            text = content_text(content)
            if role != "system" and (not text or text.isspace()):  # an empty system prompt is common
                raise ValueError("`content` is empty")
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
        left_out.keys(message, IN_A_MESSAGE, "messages.")
        checked.append({"role": role, "content": content})
    _check_text("".join(content_text(message["content"]) for message in checked))
    return checked


def _role_of(message: Mapping[str, object], left_out: LeftOut) -> str:
    role = message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"`role` must be one of {', '.join(ROLES)}, not {kind(role)}")
    if role in TOOL_ROLES:
        raise ValueError(f"tool results (role {role}) are not supported; leave out messages about tools")
    if role not in ROLES:
        raise ValueError(f'`role` must be one of {", ".join(ROLES)}, not "{shown(role)}"')
    if role == "developer":
        # OpenAI's newer name for the system's: most chat templates do not know it, and leave such a message out.
        left_out.developer()
        return "system"
    return role


def _content_of(message: Mapping[str, object], left_out: LeftOut) -> Content:
    """What a message says: its text, or its parts, which some chat templates keep apart."""
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        raise ValueError("tool calls (`tool_calls`) are not supported; leave out messages about tools")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ValueError(f"`content` must be a string, not {kind(content)}")
    parts = []
    for part in content:
        named, text = part.get("type"), part.get("text")
        if named != "text":
            what = f"the type `{shown(named)}`" if isinstance(named, str) else "no `type`"
            raise ValueError(f"a part of `content` has {what}; only text is supported, no images, audio or files")
        if not isinstance(text, str):
            raise ValueError(f"`text` in a part of `content` must be a string, not {kind(text)}")
        left_out.keys(part, {"type", "text"}, "content.")
        parts.append({"type": "text", "text": text})
    return parts

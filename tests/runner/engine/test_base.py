"""What both engines share: how prompts become tokens, what is said of the model, and whom memory is asked of."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from rankdeck.runner.engine import base, memory
from rankdeck.runner.engine.base import BatchOptions
from rankdeck.runner.engine.rows import Answer, Cancelled
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol import OutputRecord, Prompt
from rankdeck.runner.protocol.config import RunConfig
from rankdeck.runner.protocol.sweep_plan import SweepPlan
from tests.runner.engine.tiny import ByteTokenizer, make, prompts

GPUS = [torch.device("cuda", 0), torch.device("cuda", 1)]
CHAT = [{"role": "user", "content": "yo"}]


# --- prompts ---


class Template(ByteTokenizer):
    """Takes note of what its template is asked for."""

    def __init__(self) -> None:
        self.asked: list = []

    def apply_chat_template(self, messages, **how):
        self.asked.append((messages, how))
        return "<t>" if messages[0]["content"] in ("hi", "yo") else f"<{messages[0]['content']}>"


@pytest.mark.parametrize("chat", [True, False])
def test_text_goes_through_the_template_only_if_the_run_chats_and_messages_always_do(model, chat):
    one = make(model, chat=chat)
    one.tokenizer = Template()
    tokens, unfit = one.tokenise([Prompt(index=0, id="0", text="hi"), Prompt(index=1, id="1", messages=CHAT)])
    template, plain = [byte + 3 for byte in b"<t>"], [2, *(byte + 3 for byte in b"hi")]
    assert tokens == {0: template if chat else plain, 1: template}
    assert unfit == {}
    how = {"tokenize": False, "add_generation_prompt": True}
    text = [([{"role": "user", "content": "hi"}], how)] if chat else []
    assert one.tokenizer.asked[2:] == [*text, (CHAT, how)], "after it was asked what content it takes"


def test_a_prompt_fits_if_it_and_its_answer_fill_the_context_and_not_if_they_are_one_token_more(model):
    one = make(model)  # 128 positions, 12 new tokens, a special one before the text
    _, unfit = one.tokenise(prompts("x" * 115, "x" * 116))
    assert unfit == {1: "prompt of 117 tokens and 12 new tokens do not fit the model's context of 128"}
    sweep = make(model, sweep=SweepPlan(batch_sizes=[1], ranks=[1], trial_tokens=5))
    assert list(sweep.tokenise(prompts("x" * 122, "x" * 123))[1]) == [1], "a sweep's answers may be shorter"
    one.context_tokens = None
    assert one.tokenise(prompts("x" * 5000))[1] == {}
    one.context_tokens, one._config = 4096, RunConfig(prompts="p", max_new_tokens=3000)
    said = "prompt of 2,001 tokens and 3,000 new tokens do not fit the model's context of 4,096"
    assert one.tokenise(prompts("x" * 2000))[1] == {0: said}


def test_prompts_that_cannot_be_answered_are_told_by_their_places_and_the_others_have_their_tokens(model):
    one = make(model)

    class Odd(ByteTokenizer):
        def __call__(self, text, add_special_tokens=True):
            if text == "raise":
                raise KeyError("role")
            return {"input_ids": {"empty": [], "beyond": [7, 259]}.get(text, [7])}

    one.tokenizer = Odd()
    tokens, unfit = one.tokenise(prompts("a", "raise", "empty", "beyond", "b"))
    assert tokens == {0: [7], 4: [7]}
    assert unfit == {
        1: "prompt cannot be tokenised: 'role'",
        2: "prompt has no tokens",
        3: "prompt has token 259, but the model's input embedding has 259 rows (tokens 0 to 258): its tokenizer does "
        "not match its weights",
    }


def test_a_record_is_the_prompts_with_its_answer_or_with_what_is_wrong_and_no_tokens(model):
    one, prompt = make(model), Prompt(index=4, id="d", messages=CHAT)
    common = {"index": 4, "id": "d", "prompt": "user: yo"}
    said = one.answered(prompt, 7, Answer([75, 76, 1], "stop"))
    assert said == OutputRecord(
        **{**common, "prompt": said.prompt}, text="HI", prompt_tokens=7, output_tokens=3, finish_reason="stop"
    )
    assert "yo" in said.prompt
    error = OutputRecord(
        **{**common, "prompt": said.prompt},
        text="",
        prompt_tokens=0,
        output_tokens=0,
        finish_reason="error",
        error="no",
    )
    assert one.refused(prompt, "no") == error
    assert one.answered(prompt, 7, Answer([75], "error", "no")) == error


# --- what is said of the model ---


def test_lines_that_are_added_come_before_those_that_are_there_and_are_taken_once(model):
    one = make(model, {"num_beams": 3})
    own = "the model's generation config has num_beams 3, which is ignored: rankdeck decodes greedily or samples"
    one.add_notes(("first", "second"))
    assert one.take_notes() == ["first", "second", own]
    assert one.take_notes() == []


@pytest.mark.parametrize(("own", "tokens"), [(5, {5}), ([5, 6], {5, 6}), (None, set())])
def test_what_ends_a_row_is_one_token_or_several_or_none_that_the_model_names(model, own, tokens):
    assert make(model, {"eos_token_id": own}).eos_tokens == tokens
    assert make(model, {"eos_token_id": own}, ignore_eos=True).eos_tokens == frozenset()


def test_the_settings_that_are_shown_are_those_that_differ_cut_at_200_characters(model):
    one = make(model, {"suppress_tokens": [10], "repetition_penalty": 1.25})
    one.generation._from_model_config = True
    shown = one.describe()["generation"]
    set_here = {"repetition_penalty": "1.25", "suppress_tokens": "[10]", "max_new_tokens": "12", "eos_token_id": "1"}
    assert {name: shown.get(name) for name in set_here} == set_here
    assert not {"transformers_version", "_from_model_config", "num_beams", "min_p"} & set(shown)
    assert base._shown("x" * 200) == "x" * 200
    assert base._shown("x" * 201) == "x" * 200 + " …"


def llama(**more):
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 30,
    }
    ids = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **ids, **more})).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_all_parameters_but_an_input_embedding_that_is_not_the_output_layer_too(tied):
    told = make(llama(tie_word_embeddings=tied)).describe()
    assert told["parameter_bytes"] - told["weight_read_bytes"] == (0 if tied else 30 * 16 * 4)
    assert told["parameters"] * 4 == told["parameter_bytes"]
    assert (told["experts"], told["dtype"]) == (None, "float32")


@pytest.mark.parametrize(
    ("text", "dtype", "each"),
    [
        (
            {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "hidden_size": 16},
            torch.float32,
            2 * 10 * 4,
        ),
        ({"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16}, torch.bfloat16, 2 * 4 * 2),
        ({"num_attention_heads": 4, "num_key_value_heads": None, "hidden_size": 16}, torch.float32, 4 * 4 * 4),
        ({"num_attention_heads": 4, "hidden_size": 16}, torch.float16, 4 * 4 * 2),
        ({"head_dim": 10}, torch.float32, None),
        ({"num_key_value_heads": 2}, torch.float32, None),
        ({"num_attention_heads": 4, "hidden_size": 16, "num_hidden_layers": None}, torch.float32, None),
    ],
)
def test_a_token_of_cache_is_keys_and_values_of_all_layers_or_not_known(text, dtype, each):
    text = SimpleNamespace(**{"num_hidden_layers": 3, **text})
    config = SimpleNamespace(get_text_config=lambda: text)
    one = SimpleNamespace(model=SimpleNamespace(config=config, dtype=dtype))
    assert StaticEngine.kv_bytes_per_token(one) == (None if each is None else 2 * 3 * each)


def test_what_is_said_of_a_slow_dtype_is_of_this_model_on_this_device(model, monkeypatch):
    asked = []
    monkeypatch.setattr(base.loading, "dtype_note_of", lambda *given: asked.append(given))
    assert make(model).take_notes() == []
    assert asked == [(model, torch.device("cpu"))]


# --- devices ---


def test_memory_is_asked_of_all_devices_of_the_model(model, monkeypatch):
    asked = []
    for name in ("synchronise", "reset_peaks", "peak_bytes", "peak_reserved_bytes"):
        monkeypatch.setattr(memory, name, lambda devices, name=name: asked.append((name, devices)) or name)
    one = make(model)
    one.devices = GPUS
    one._synchronise()
    one._reset_peak_memory()
    assert (one.peak_memory(), one.reserved_memory()) == ("peak_bytes", "peak_reserved_bytes")
    assert asked == [(name, GPUS) for name in ("synchronise", "reset_peaks", "peak_bytes", "peak_reserved_bytes")]


def test_threads_are_set_only_if_they_are_others(model, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    one = make(model)
    one.use_threads(3)
    one.use_threads(2)
    assert set_to == [2]


# --- a batch ---


def test_a_batch_is_generated_as_it_was_asked_for(model):
    one, seen = make(model), []
    one._generate = lambda given, options: seen.append((given, options)) or "done"
    on_step, on_records, cancelled = print, repr, bool
    asked = {"on_step": on_step, "on_records": on_records, "cancelled": cancelled, "measure": True, "max_new_tokens": 7}
    assert one.generate(["a prompt"], **asked) == "done"
    assert seen == [(["a prompt"], BatchOptions(on_step, cancelled, on_records, True, 7))]
    one.generate([])
    options = seen[-1][1]
    assert (options.measure, options.max_new_tokens, options.cancelled()) == (False, None, False)


@pytest.mark.parametrize(("error", "closes"), [(Cancelled(), False), (KeyboardInterrupt(), True), (ValueError(), True)])
def test_after_a_batch_that_failed_nothing_is_kept_and_after_one_that_was_cancelled_all_is(model, error, closes):
    one, closed = make(model), []

    def fail(*_):
        raise error

    one._generate, one.close = fail, lambda: closed.append(True)
    with pytest.raises(type(error)):
        one.generate([])
    assert bool(closed) == closes

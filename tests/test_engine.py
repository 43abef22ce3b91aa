"""The static engine's accounting, on a tiny model of random weights: real tokens only, whatever is padded."""

import math
from types import MappingProxyType

import msgspec
import pytest
import torch
import transformers

from runner import engine
from runner.config import RunConfig
from runner.engine import Cancelled, StaticEngine, trim
from runner.protocol import Prompt

EOS = 1


class ByteTokenizer:
    """One token per byte of UTF-8, after three special ones; enough of a tokenizer for the engine."""

    pad_token_id, eos_token_id, eos_token = 0, EOS, "<eos>"

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": ([2] if add_special_tokens else []) + [byte + 3 for byte in text.encode()]}

    def pad(self, rows, *, padding, padding_side, pad_to_multiple_of, return_tensors):
        assert padding_side == "left"
        ids = rows["input_ids"]
        width = -(-max(map(len, ids)) // pad_to_multiple_of) * pad_to_multiple_of
        return transformers.BatchEncoding(
            {
                "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in ids]),
                "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids]),
            }
        )

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        if messages[0]["role"] == "system":
            raise ValueError("system role not supported")
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return bytes(token - 3 for token in tokens if token >= 3).decode(errors="replace")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=EOS, pad_token_id=0, bos_token_id=2,
        initializer_range=0.6,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def make(model, own=MappingProxyType({}), **settings) -> StaticEngine:
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, **settings})
    # An engine lays its generation config over the model's; each test's engine starts from the model's own.
    model.generation_config = transformers.GenerationConfig(
        **{"eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 2, **own}
    )
    return StaticEngine(model, ByteTokenizer(), config, torch.device("cpu"))


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(index=index, id=str(index), text=text) for index, text in enumerate(texts)]


TEXTS = ("a", "bb bb", "a much longer prompt than the others", "zz")


def test_each_answer_of_a_padded_batch_is_that_of_the_prompt_alone(model):
    one = make(model)
    batched = one.generate(prompts(*TEXTS)).records
    alone = [one.generate([prompt]).records[0] for prompt in prompts(*TEXTS)]
    assert [record.text for record in batched] == [record.text for record in alone]
    assert [record.output_tokens for record in batched] == [record.output_tokens for record in alone]


def test_output_tokens_end_with_the_end_of_sequence_token_and_padding_is_never_counted(model):
    # An end-of-sequence token that this model does write: the most common token of its answers.
    free = make(model, ignore_eos=True)
    rows = list(free.generate(prompts(*TEXTS)).records)
    assert {record.output_tokens for record in rows} == {12}
    assert {record.finish_reason for record in rows} == {"length"}
    ended = make(model)
    common = max(range(259), key=lambda token: sum(chr(token - 3) in record.text[:8] for record in rows if token >= 3))
    ended.generation.eos_token_id = common
    ended.eos_tokens = frozenset([common])
    output = ended.generate(prompts(*TEXTS))
    stopped = [record for record in output.records if record.finish_reason == "stop"]
    assert stopped, "the test needs a row that ends early"
    assert any(record.output_tokens < 12 for record in stopped)
    result = output.result
    assert result.output_tokens == sum(record.output_tokens for record in output.records)
    assert result.slots == 4 * (40 + result.steps)
    assert result.padded_slots == result.slots - result.prompt_tokens - result.output_tokens


@pytest.mark.parametrize(
    ("tokens", "kept", "reason"),
    [
        ([5, 6, 1, 0, 0], [5, 6, 1], "stop"),
        ([5, 6], [5, 6], "length"),
        ([1], [1], "stop"),
        ([], [], "length"),
        ([5, 9, 1], [5, 9], "stop"),
    ],
)  # fmt: skip
def test_a_row_is_cut_after_its_first_end_of_sequence_token(tokens, kept, reason):
    answer = trim(tokens, frozenset([1, 9]))
    assert (answer.tokens, answer.finish_reason) == (kept, reason)


def test_progress_counts_steps_and_real_tokens(model, monkeypatch):
    monkeypatch.setattr(engine, "PROGRESS_SECONDS", 0.0)
    seen = []
    one = make(model, ignore_eos=True)
    one.generate(prompts("a", "b"), seen.append)
    assert [(progress.step, progress.output_tokens) for progress in seen] == [(n, 2 * n) for n in range(1, 13)]


def test_a_batch_is_abandoned_within_a_step(model):
    calls = iter([False, False, True])
    with pytest.raises(Cancelled):
        make(model, ignore_eos=True).generate(prompts("a"), cancelled=lambda: next(calls))


def test_a_prompt_too_long_for_the_context_gets_an_error_record_and_the_others_their_answers(model):
    output = make(model).generate(prompts("short", "x" * 200, "also short"))
    assert [record.finish_reason == "error" for record in output.records] == [False, True, False]
    assert output.records[1].error == ("prompt of 201 tokens and 12 new tokens do not fit the model's context of 128")
    assert output.records[1].output_tokens == 0
    assert output.result.rows == 2, "rows are those that were generated"


def test_a_batch_of_nothing_but_errors_is_still_a_batch(model):
    output = make(model).generate(prompts("x" * 200))
    assert output.records[0].finish_reason == "error"
    assert output.result.slots == 0


def test_chat_goes_through_the_template_and_what_it_refuses_is_an_error_record(model):
    chat = make(model, chat=True)
    system = Prompt(index=1, id="1", messages=[{"role": "system", "content": "x"}])
    output = chat.generate([prompts("hello")[0], system])
    assert output.records[0].prompt_tokens == len("<user>hello"), "special tokens are the template's own"
    assert output.records[0].prompt == "hello"
    assert output.records[1].error == "prompt cannot be tokenised: system role not supported"


def test_greedy_unless_asked_and_the_models_own_generation_config_is_kept(model):
    own = {"temperature": 0.3, "do_sample": True}
    greedy = make(model, own).generation
    assert (greedy.do_sample, greedy.temperature, greedy.eos_token_id) == (False, None, EOS)
    sampled = make(model, own, do_sample=True, top_k=7).generation
    assert (sampled.do_sample, sampled.temperature, sampled.top_k) == (True, 0.3, 7)


def test_at_fixed_length_every_row_goes_on_beyond_the_end_of_sequence(model):
    natural = make(model)
    # Have the model's own config end at what it writes first: natural length is then one token.
    first = natural.model.generate(
        input_ids=torch.tensor([[2, 100]]), attention_mask=torch.ones(1, 2, dtype=torch.long), max_new_tokens=1
    )[0, -1].item()
    own = {"eos_token_id": first}
    prompt = [Prompt(index=0, id="0", text=chr(97))]
    assert make(model, own).generate(prompt).result.steps == 1
    fixed = make(model, own, ignore_eos=True).generate(prompt)
    assert fixed.result.steps == 12
    assert (fixed.records[0].output_tokens, fixed.records[0].finish_reason) == (12, "length")


def test_what_it_says_of_the_model_is_right(model):
    facts = make(model).describe()
    assert facts["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 4, "key and value, layers, key-value heads, width, bytes"
    assert facts["parameter_bytes"] == 4 * facts["parameters"]
    assert facts["context_tokens"] == 128
    assert math.isclose(facts["parameters"], sum(p.numel() for p in model.parameters()))
    msgspec.json.encode(facts)


def test_auto_dtype_is_float32_on_a_cpu_and_the_checkpoints_own_on_a_gpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert engine.choose_dtype("auto", cpu, torch.bfloat16) == torch.float32
    assert engine.choose_dtype("auto", gpu, torch.bfloat16) == torch.bfloat16
    assert engine.choose_dtype("float16", cpu, torch.bfloat16) == torch.float16


def test_out_of_memory_is_told_from_other_errors():
    assert engine.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert engine.is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert not engine.is_out_of_memory(ValueError("other"))

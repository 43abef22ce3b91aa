"""What a prompt alone gets of transformers' own `generate`, unpadded; and a tokenizer that transformers knows."""

import string

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from rankdeck.runner.engine import loading
from rankdeck.runner.engine.choose import choose
from rankdeck.runner.engine.static import StaticEngine
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.tiny import check_way, decoding, prompts

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", *(char for char in string.printable if char not in "\r\x0b\x0c")]
MIXED = (
    "a",
    "Hi!",
    "The cat",
    "What is two plus two?",
    "and two plus six more?",
    "A longer prompt, which goes on and on",
)
CPU = torch.device("cpu")


def tokenizer():
    """One token a character."""
    made = Tokenizer(models.WordLevel({text: at for at, text in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def tiny(kind="llama", *, spread: float | None = 0.3, **more):
    """A small model of this kind, with weights that differ from layer to layer, and that padding would be felt in.

    Without a `spread` its weights are as small as transformers makes them.
    """
    torch.set_num_threads(1)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(kind, **{**ids, **shape, "tie_word_embeddings": False, **more})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and spread is not None:
                parameter.normal_(0, spread)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model


def alone(model, texts=MIXED, new=12, **settings):
    """The text that each prompt alone gets, as its model's own settings say."""
    tok, found = tokenizer(), []
    for text in texts:
        ids = torch.tensor([tok(text)["input_ids"]])
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, tokenizer=tok,
                **settings,
            )  # fmt: skip
        found.append(tok.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=True))
    return found


def engine(model, kind="static", **settings):
    """The engine of a run on this model, warmed up, and why it is this one."""
    config = RunConfig(prompts="p", **{"max_new_tokens": 12, "engine": kind, **settings})
    return choose(config, loading.Loaded(model, tokenizer(), CPU))


def static(model, way=None, **settings) -> StaticEngine:
    """The static engine on this model, warmed up; with a `way` it runs its batches so."""
    found, _ = engine(model, **{**decoding(way), **settings})
    assert isinstance(found, StaticEngine)
    if way is not None:
        check_way(found, way)
    return found


def texts_of(one, texts=MIXED):
    """What an engine answers."""
    return [record.text for record in one.generate(prompts(*texts)).records]

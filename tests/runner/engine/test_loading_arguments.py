"""What transformers is asked for as a model is loaded, where it goes, and what is said of its dtype."""

import sys
from types import SimpleNamespace

import pytest
import torch

from rankdeck.runner.engine import loading, weights
from rankdeck.runner.engine.generation import settings, vocabulary
from rankdeck.runner.engine.trials import packing
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT
from rankdeck.runner.protocol.config import RunConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def load(monkeypatch):
    """Loads a stand-in; returns what came of it and what was asked of transformers."""

    def go(at=CPU, device_map=None, own=None, generation="generation", checkpoint=torch.bfloat16, **run):
        asked: dict = {}
        config = RunConfig(prompts="p", **run)
        model_config = SimpleNamespace(dtype=checkpoint)
        model = SimpleNamespace(modes=[], **({"hf_device_map": device_map} if device_map else {}), **(own or {}))
        model.eval = lambda: model.modes.append("eval") or model
        asked["model"] = model

        def stand_in(what, result):
            def from_pretrained(path, **how):
                asked[what] = (path, how)
                return result

            return from_pretrained

        monkeypatch.setattr(loading.transformers.AutoConfig, "from_pretrained", stand_in("config", model_config))
        monkeypatch.setattr(
            loading.transformers.AutoTokenizer, "from_pretrained", stand_in("tokenizer", "the tokenizer")
        )
        monkeypatch.setattr(
            loading.transformers.AutoModelForCausalLM, "from_pretrained", stand_in("weights", (model, "found"))
        )
        monkeypatch.setattr(vocabulary, "settle_config", lambda given: [f"settled: {given is model_config}"])
        monkeypatch.setattr(settings, "read", lambda path: (generation, [f"set aside in {path}"]))
        monkeypatch.setattr(weights, "checked", lambda *given: [f"checked: {given == (model, 'found', 'the/model')}"])
        monkeypatch.setattr(
            packing, "pack", lambda *given: f"packed: {given == (model, 'the tokenizer', NOTHING_KEPT)}"
        )
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (1000 * (of.index + 1), 9999))
        return loading.load(config, "the/model", at), asked

    return go


COMMON = {
    "dtype": torch.float32,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,
    "trust_remote_code": False,
}


def test_a_model_for_the_cpu_is_asked_for_as_it_is_and_packed(load):
    loaded, asked = load()
    assert asked["config"] == ("the/model", {"trust_remote_code": False})
    assert asked["tokenizer"] == ("the/model", {"padding_side": "left", "trust_remote_code": False})
    path, how = asked["weights"]
    assert path == "the/model"
    assert how.pop("config").dtype is torch.bfloat16
    assert how == {**COMMON, "generation_config": "generation"}
    assert asked["model"].modes == ["eval"], "no dropout"
    assert (loaded.model, loaded.tokenizer, loaded.device) == (asked["model"], "the tokenizer", CPU)
    assert loaded.notes == ("set aside in the/model", "settled: True", "checked: True", "packed: True")


def test_what_a_run_asks_for_reaches_transformers(load):
    _, asked = load(GPU, dtype="float16", attention="eager", trust_remote_code=True, device="cuda", generation=None)
    assert asked["config"][1] == {"trust_remote_code": True}
    assert asked["tokenizer"][1]["trust_remote_code"] is True
    how = asked["weights"][1]
    how.pop("config")
    assert how == {
        **COMMON, "dtype": torch.float16, "trust_remote_code": True, "attn_implementation": "eager",
        "device_map": {"": GPU},
    }  # fmt: skip


def test_only_a_model_on_the_cpu_is_packed(load):
    loaded, _ = load(GPU, device="cuda")
    assert not [line for line in loaded.notes if line.startswith("packed")]


def test_a_model_over_several_gpus_is_spread_by_what_is_free_on_each(load):
    _, asked = load(torch.device("cuda", 0), device="cuda", gpus_per_rank=2)
    how = asked["weights"][1]
    assert (how["device_map"], how["max_memory"]) == ("balanced", {0: 900, 1: 1800})
    with pytest.raises(
        RuntimeError, match=r"^the model does not fit 2 GPUs \(2 of its parts are left over, a first\): "
    ):
        load(torch.device("cuda", 0), device_map={"b": "disk", "a": "cpu", "c": 1}, device="cuda", gpus_per_rank=2)


def test_a_model_that_brings_its_own_way_to_generate_does_without_it(load):
    loaded, asked = load(own={"generate": "its own"})
    said = "the model brings its own custom_generate, which is ignored: rankdeck decodes with transformers' own"
    assert loaded.notes[-2:] == (said, "packed: True")
    assert not hasattr(asked["model"], "generate")


# --- dtype ---


@pytest.mark.parametrize(
    ("name", "device", "checkpoint", "dtype"),
    [
        ("auto", CPU, torch.float16, torch.float32),
        ("auto", GPU, torch.float32, torch.float32),
        ("auto", GPU, None, torch.float16),
        ("auto", GPU, "bfloat16", torch.float16),
        ("bfloat16", CPU, None, torch.bfloat16),
        ("float32", GPU, torch.float16, torch.float32),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_fits_the_device(name, device, checkpoint, dtype):
    assert loading.choose_dtype(name, device, checkpoint) is dtype


FLOAT16 = "which this GPU's tensor cores do not support: --dtype float16 is far faster"
TF32 = (
    "the weights are float32, and torch does not use this GPU's tensor cores for float32: --dtype bfloat16 is far "
    "faster, in half the memory; TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 in the environment keeps float32 and rounds inside "
    "products only (TF32)"
)


@pytest.mark.parametrize(
    ("dtype", "capability", "precision", "there", "said"),
    [
        (torch.bfloat16, (7, 9), "highest", True, f"the weights are bfloat16, {FLOAT16}"),
        (torch.bfloat16, (8, 0), "highest", True, None),
        (torch.float16, (7, 5), "highest", True, None),
        (torch.float32, (6, 9), "highest", True, None),
        (torch.float32, (7, 0), "highest", True, f"the weights are float32, {FLOAT16}"),
        (torch.float32, (7, 5), "high", True, None),
        (torch.float32, (8, 0), "highest", True, TF32),
        (torch.float32, (9, 0), "high", True, None),
        (torch.float32, (9, 0), "medium", True, None),
        (torch.float32, (9, 0), "highest", False, None),
    ],
)
def test_a_dtype_that_is_slow_on_its_gpu_is_said_with_the_cure(monkeypatch, dtype, capability, precision, there, said):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    model = SimpleNamespace(dtype=dtype)
    assert loading.dtype_note_of(model, GPU) == said
    assert set(asked) <= {GPU}
    assert loading.dtype_note_of(model, CPU) is None


# --- quantisation ---


def test_weights_are_quantised_as_they_are_loaded_in_the_way_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(loading.transformers, "BitsAndBytesConfig", lambda **how: ("bnb", how))
    monkeypatch.setattr(loading.transformers, "TorchAoConfig", lambda how: ("torchao", how))
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules, "torchao.quantization", SimpleNamespace(Int8WeightOnlyConfig=lambda: "int8 weights")
    )
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    assert loading.quantised("none", torch.bfloat16) == {}
    assert loading.quantised("bnb-8bit", torch.bfloat16) == {"quantization_config": ("bnb", {"load_in_8bit": True})}
    assert loading.quantised("bnb-4bit", torch.bfloat16) == {"quantization_config": ("bnb", four)}
    assert loading.quantised("int8", torch.bfloat16) == {"quantization_config": ("torchao", "int8 weights")}


@pytest.mark.parametrize(
    ("found", "asked", "text"),
    [
        (None, "none", "bfloat16"),
        (None, "int8", "bfloat16 int8"),
        ({"quant_method": "gptq"}, "none", "bfloat16 gptq"),
        ({}, "none", "bfloat16"),
        (SimpleNamespace(quant_method="awq"), "none", "bfloat16 awq"),
        (SimpleNamespace(quant_method=SimpleNamespace(value="hqq")), "none", "bfloat16 hqq"),
        (SimpleNamespace(), "none", "bfloat16"),
        ({"quant_method": "bitsandbytes"}, "bnb-4bit", "bfloat16 bnb-4bit"),
    ],
)
def test_a_dtype_is_told_with_how_it_is_quantised(found, asked, text):
    config = SimpleNamespace(**({} if found is None else {"quantization_config": found}))
    assert loading.dtype_text(SimpleNamespace(config=config, dtype=torch.bfloat16), asked) == text


def test_a_quantised_parameter_is_counted_with_its_scales():
    values, scales = torch.zeros(10, dtype=torch.uint8), torch.zeros(3, dtype=torch.float16)
    four, eight = SimpleNamespace(), SimpleNamespace()
    for one, more in ((four, {"quant_state": SimpleNamespace(absmax=scales)}), (eight, {"SCB": torch.zeros(4)})):
        vars(one).update(numel=values.numel, element_size=values.element_size, **more)
    assert weights.stored_bytes(four) == 10 + 3 * 2
    assert weights.stored_bytes(eight) == 10 + 4 * 4
    eight.SCB = None
    assert weights.stored_bytes(eight) == 10
    assert weights.stored_bytes(torch.zeros(5, dtype=torch.bfloat16)) == 10


# --- devices ---


@pytest.mark.parametrize(
    ("kind", "gpus", "devices"),
    [("cpu", 3, ["cpu"]), ("cuda:1", 1, ["cuda:1"]), ("cuda:0", 2, ["cuda:0", "cuda:1"]), ("cuda:0", 3, 3)],
)
def test_a_model_goes_to_its_device_or_to_all_gpus_of_its_rank(kind, gpus, devices):
    found = loading.devices_for(RunConfig(prompts="p", gpus_per_rank=gpus), torch.device(kind))
    expected = [f"cuda:{index}" for index in range(devices)] if isinstance(devices, int) else devices
    assert [str(device) for device in found] == expected


@pytest.mark.parametrize(
    ("device", "holding", "devices"),
    [
        ("cuda:1", ["cuda:3", "cuda:0", "cuda:1", "cpu", "cuda:3"], ["cuda:1", "cuda:0", "cuda:3"]),
        ("cuda", ["cuda:0", "cuda:1"], ["cuda", "cuda:1"]),
        ("cuda:0", ["meta"], ["cuda:0"]),
        ("cpu", ["cuda:0"], ["cpu"]),
    ],
)
def test_the_devices_of_a_model_are_all_gpus_that_hold_it_its_own_first(device, holding, devices):
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(device=torch.device(one)) for one in holding])
    assert [str(one) for one in loading.devices_of(model, torch.device(device))] == devices


@pytest.mark.parametrize(("where", "gpus", "refused"), [("cpu", 2, True), ("disk", 2, True), ("meta", 3, True),
                                                        ("cpu", 1, False), (1, 2, False)])  # fmt: skip
def test_only_what_was_to_be_spread_over_gpus_is_refused_outside_them(where, gpus, refused):
    found = {"a": 0, "b": where}
    if not refused:
        loading.refuse_offloading(found, gpus)
        return
    with pytest.raises(RuntimeError) as raised:
        loading.refuse_offloading(found, gpus)
    assert str(raised.value) == (
        f"the model does not fit {gpus} GPUs (1 of its parts are left over, b first): give each rank more with "
        "--gpus-per-rank, or make it smaller with --quantization"
    )

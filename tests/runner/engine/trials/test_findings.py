"""What trials found is kept, and taken over only where nothing has changed that it may depend on."""

import json
import os
import shutil
import sys
import types

import pytest
import torch

from rankdeck.runner.engine import loading, packed_linear
from rankdeck.runner.engine.choose import choose
from rankdeck.runner.engine.packed_linear import PackedLinear
from rankdeck.runner.engine.trials import exactly, findings, packing, rehearsal, told
from rankdeck.runner.engine.trials.findings import NOTHING_KEPT, Findings, files_of, findings_on
from rankdeck.runner.engine.trials.rehearsal import Found
from rankdeck.runner.protocol.config import RunConfig
from tests.runner.engine.lone import CPU, texts_of, tiny, tokenizer

FOUND = Found("equal", "its cache", False, True)


@pytest.fixture
def folder(tmp_path):
    """A model's folder."""
    made = tmp_path / "model"
    tiny(num_key_value_heads=2).save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


@pytest.fixture
def kept(tmp_path):
    """The folder of the findings, which is not there yet."""
    return tmp_path / "cache" / "trials"


@pytest.fixture
def tried(monkeypatch):
    """How many times a model was told what to say since the last call."""
    calls = []
    real = told.told
    monkeypatch.setattr(told, "told", lambda *given, **more: calls.append(1) or real(*given, **more))

    def count():
        so_far = len(calls)
        calls.clear()
        return so_far

    return count


def start(folder, kept, **settings):
    """A rank's engine on this model, ready."""
    config = RunConfig(prompts="p", max_new_tokens=12, device="cpu", engine="static", **settings)
    return choose(config, loading.load(config, str(folder), CPU, kept))[0]


def packed(model):
    return {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def test_the_next_start_tries_nothing_and_is_the_same(folder, kept, tried):
    first = start(folder, kept)
    assert tried() > 2
    second = start(folder, kept)
    assert tried() == 0
    assert packed(second.model) == packed(first.model) != set()
    assert (second._together, second._may_join, second.why_rows_stay) == ("padded", True, None)
    assert texts_of(second) == texts_of(first)


def test_a_seeded_run_draws_the_same_with_a_trial_and_without(folder, kept, tried):
    drawn, tries = [], []
    for _ in range(2):
        torch.manual_seed(7)
        start(folder, kept, dtype="bfloat16")
        drawn.append(torch.rand(3).tolist())
        tries.append(tried() > 0)
    assert tries == [True, False]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("kind", "together", "more"),
    [
        ("mamba", "padded", {"state_size": 8}),
        ("roformer", "equal", {"is_decoder": True}),
        ("rwkv", "alone", {"attention_hidden_size": 32, "context_length": 256}),
    ],
)
def test_rows_that_do_not_go_together_are_tried_again_since_the_fault_may_have_been_the_days(
    tmp_path, kept, tried, kind, together, more
):
    tiny(kind, **more).save_pretrained(tmp_path / kind)
    tokenizer().save_pretrained(tmp_path / kind)
    first = start(tmp_path / kind, kept)
    with_packing = tried()
    second = start(tmp_path / kind, kept)
    assert 2 < tried() < with_packing, "how its weights are packed is known"
    assert packed(second.model) == packed(first.model)
    assert not [name for name in packed(second.model) if name.endswith("dt_proj")], "its weight is read"
    found = [(one._may_join, one.why_rows_stay, one._own_state is None) for one in (first, second)]
    assert found[0] == found[1]
    assert second._together == first._together == together
    assert second.take_notes() == first.take_notes()


def rewritten(path):
    """The same bytes, written again."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


def of_another_content(path):
    """As long and as old as before."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", [rewritten, of_another_content])
def test_another_file_is_another_model(folder, kept, name, change):
    before = findings_on(folder, files_of(folder), [], kept)
    change(folder / name)
    assert findings_on(folder, files_of(folder), [], kept) != before


def test_a_file_more_is_another_model(folder, kept):
    before = findings_on(folder, files_of(folder), [], kept)
    (folder / "modeling_own.py").write_text("x = 1\n")
    assert findings_on(folder, files_of(folder), [], kept) != before


def test_a_copy_elsewhere_is_tried_for_itself(folder, kept, tried):
    start(folder, kept)
    tried()
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert [one[0] for one in files_of(copy)] == [one[0] for one in files_of(folder)]
    start(copy, kept)
    assert tried() > 0


def test_other_settings_are_tried_for_themselves(folder, kept, tried):
    for settings in ({}, {"dtype": "bfloat16"}, {"attention": "eager"}):
        start(folder, kept, **settings)
        assert tried() > 0, settings
    for settings in ({}, {"dtype": "bfloat16"}, {"attention": "eager"}):
        start(folder, kept, **settings)
        assert tried() == 0, settings


def another_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def another_cpu(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse2\n\nprocessor\t: 1\n")
    monkeypatch.setattr(findings, "CPU", tmp_path / "cpuinfo")


def other_instructions(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")


def another_module(monkeypatch, tmp_path):
    module = types.ModuleType("fast_kernels")
    module.__file__ = str(tmp_path / "fast_kernels.py")
    (tmp_path / "fast_kernels.py").touch()
    monkeypatch.setitem(sys.modules, "fast_kernels", module)


def edited_code(monkeypatch, tmp_path):
    (tmp_path / "rehearsal.py").write_text("x = 1\n")
    monkeypatch.setattr(rehearsal, "__file__", str(tmp_path / "rehearsal.py"))


@pytest.mark.parametrize("change", [another_variable, another_cpu, other_instructions, another_module, edited_code])
def test_whatever_computes_the_model_counts(folder, kept, monkeypatch, tmp_path, change):
    before = findings_on(folder, files_of(folder), [], kept)
    assert findings_on(folder, files_of(folder), [], kept) == before
    change(monkeypatch, tmp_path)
    assert findings_on(folder, files_of(folder), [], kept) != before


def test_what_is_told_apart_is_so_by_the_name_of_its_file(kept):
    Findings(kept, "m", "one").keep("packing", ["a"])
    assert Findings(kept, "m", "one").known("packing", list[str]) == ["a"]
    assert Findings(kept, "m", "other").known("packing", list[str]) is None
    assert Findings(kept, "m", "one").known("rehearsal", list[str]) is None


def test_a_model_that_changes_while_it_is_loaded_has_no_findings(folder, kept, tried, monkeypatch):
    real = loading.weights.checked

    def replaced(*given):
        rewritten(folder / "model.safetensors")
        return real(*given)

    monkeypatch.setattr(loading.weights, "checked", replaced)
    start(folder, kept)
    assert tried() > 2
    assert not kept.exists()


def test_a_model_with_code_of_its_own_is_tried_each_time(folder, kept, tried):
    for _ in range(2):
        start(folder, kept, trust_remote_code=True)
        assert tried() > 2
    assert not kept.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"model": "m", "trial": "t"}', b'{"found": 3}', b"[]" * 99999]
)
def test_a_damaged_file_says_nothing_and_is_replaced(folder, kept, tried, content):
    start(folder, kept)
    tried()
    files = list(kept.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(content)
    start(folder, kept)
    assert tried() > 2
    assert all(json.loads(file.read_bytes())["model"] == str(folder) for file in files)


@pytest.mark.parametrize(
    "found", ['{"together":"whole","why_rows_stay":null,"may_join":true,"leaves_state":false}', "[]"]
)
def test_a_finding_of_another_form_says_nothing(kept, found):
    one = Findings(kept, "m", "key")
    one.keep("rehearsal", FOUND)
    (file,) = kept.iterdir()
    assert one.known("rehearsal", Found) == FOUND
    file.write_text(f'{{"model":"m","trial":"rehearsal","found":{found}}}')
    assert one.known("rehearsal", Found) is None


def test_what_is_no_file_is_not_waited_for(kept):
    one = Findings(kept, "m", "key")
    kept.mkdir(parents=True)
    os.mkfifo(one._path("rehearsal"))
    assert one.known("rehearsal", Found) is None
    one.keep("rehearsal", FOUND)
    assert one.known("rehearsal", Found) == FOUND


def test_a_folder_that_cannot_be_made_is_done_without(folder, kept, tried):
    kept.parent.write_text("in the way")
    assert texts_of(start(folder, kept))
    assert tried() > 2


def test_findings_are_the_users_own_and_the_newest_stay(kept, monkeypatch):
    monkeypatch.setattr(findings, "KEPT", 3)
    for number in range(5):
        one = Findings(kept, "m", str(number))
        one.keep("t", number)
        os.utime(one._path("t"), ns=(number, number))
    Findings(kept, "m", "newest").keep("t", 9)
    assert [Findings(kept, "m", key).known("t", int) for key in ("0", "1", "2", "3", "4", "newest")] == [
        *(None, None, None, 3, 4, 9)
    ]
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


def test_without_a_folder_nothing_is_known(tmp_path, folder):
    NOTHING_KEPT.keep("t", 1)
    assert NOTHING_KEPT.known("t", int) is None
    assert findings_on(folder, files_of(folder), [], None) is NOTHING_KEPT
    assert findings_on(tmp_path / "nowhere", files_of(tmp_path / "nowhere"), [], tmp_path) is NOTHING_KEPT


def test_a_model_that_failed_the_trial_of_its_packed_weights_is_never_packed_untried(folder, kept, monkeypatch):
    forward = PackedLinear.forward
    monkeypatch.setattr(packed_linear, "has_kernels", lambda dtype: True)
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: forward(self, rows) * 1.1)
    for _ in range(2):
        one = start(folder, kept)
        assert packed(one.model) == set()
        assert [line for line in one.take_notes() if "the trial failed" in line]
    monkeypatch.setattr(PackedLinear, "forward", forward)
    assert packed(start(folder, kept).model), "it is tried again"


def test_a_rehearsal_of_packed_layers_says_nothing_of_others(folder, kept, tried, monkeypatch):
    start(folder, kept)
    tried()
    monkeypatch.setattr(packing, "pack", lambda *given: None)
    start(folder, kept)
    assert tried() > 0


def test_a_half_type_that_had_no_room_in_float32_is_tried_again_when_there_is(folder, kept, tried, monkeypatch):
    free = exactly.free_bytes
    monkeypatch.setattr(exactly, "free_bytes", lambda device: 0)
    start(folder, kept, dtype="bfloat16")
    in_its_own_type = tried()
    monkeypatch.setattr(exactly, "free_bytes", free)
    start(folder, kept, dtype="bfloat16")
    assert 0 < tried() != in_its_own_type
    start(folder, kept, dtype="bfloat16")
    assert tried() == 0


def test_a_half_type_whose_trial_in_float32_broke_off_is_tried_again(folder, kept, tried, monkeypatch):
    real = exactly.tried
    monkeypatch.setattr(exactly, "tried", lambda *given: None)
    start(folder, kept, dtype="bfloat16")
    tried()
    monkeypatch.setattr(exactly, "tried", real)
    start(folder, kept, dtype="bfloat16")
    assert tried() > 0


def test_what_is_kept_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert findings.usual_folder() == tmp_path / "rankdeck" / "trials"

"""What would not work with this machine's GPUs, and the cure: driver, devices, visibility, torch. Pure.

Knows NVML's and torch's view of the GPUs from the facts; a part of `runner.machine.doctor`.
"""

from rankdeck.runner.inputs import flash_attention
from rankdeck.runner.inputs.flash_attention import FlashFound
from rankdeck.runner.machine.check import OF_THE_WHOLE_GPU, Check, Status, counted, gib, version_numbers
from rankdeck.runner.machine.facts import Facts, Machine, TorchFound
from rankdeck.runner.machine.visible_gpus import ORDER, VISIBLE, order_is_certain
from rankdeck.runner.state.rank_gpus import match_rank_to_gpu


def _gpu(name: str, status: Status, found: str, cure: str | None = None) -> Check:
    return Check(group="GPUs", name=name, status=status, found=found, cure=cure)


def gpu_checks(facts: Facts) -> list[Check]:
    """The findings of the group "GPUs"; those about torch are missing until it was asked."""
    machine, torch = facts.machine, facts.torch
    if machine.uncounted and torch is not None and torch.available:
        return [_uncounted(machine, torch), *_flash_attention(facts.flash, torch)]
    if machine.no_gpu is not None:
        checks = [_no_gpu(machine, facts.environ)]
    else:
        checks = [
            _gpu("driver", "ok", _driver_words(machine)),
            *_devices(machine),
            *_others(machine),
            *_visible(facts),
        ]
    if torch is not None:
        checks.extend(_torch(machine, torch))
        checks.extend(_flash_attention(facts.flash, torch))
    return checks


def _no_gpu(machine: Machine, environ: dict[str, str]) -> Check:
    assert machine.no_gpu is not None
    why, _, cure = machine.no_gpu.partition(": ")
    if why == "no NVIDIA driver":
        # Nothing is broken: most machines without a GPU are like this.
        return _gpu("driver", "ok", f"no NVIDIA GPU, runs on the CPU; {machine.no_gpu}")
    if VISIBLE in environ and VISIBLE in machine.no_gpu:
        return _gpu("visible", "bad", machine.no_gpu, f"unset {VISIBLE}, or name GPUs as nvidia-smi -L does")
    unless = ", unless --device cuda is asked for" if machine.uncounted else ""
    return _gpu("driver", "warn" if machine.uncounted else "bad", f"{why}; runs on the CPU{unless}", cure or None)


def _uncounted(machine: Machine, torch: TorchFound) -> Check:
    """GPUs that only torch sees."""
    _, _, cure = str(machine.no_gpu).partition(": ")
    them = "it" if len(torch.devices) == 1 else "them"
    found = (
        f"torch sees {counted(len(torch.devices), 'GPU')}, NVML is missing: --device cuda uses {them}, without figures"
    )
    return _gpu("torch", "warn", found, cure)


def _driver_words(machine: Machine) -> str:
    words = [f"NVML answers, driver {machine.driver or 'of unknown version'}"]
    if machine.cuda is not None:
        words.append(f"for CUDA up to {machine.cuda[0]}.{machine.cuda[1]}")
    return ", ".join(words)


def _devices(machine: Machine) -> list[Check]:
    checks = []
    for gpu in machine.gpus:
        name = f"GPU {gpu.index}"
        if gpu.lost:
            found = f"{gpu.name or 'a GPU'} is lost: it fell off the bus or stopped answering"
            checks.append(_gpu(name, "bad", found, "reset it (nvidia-smi --gpu-reset) or reboot"))
            continue
        if (failure := gpu.unavailable.get("uuid")) is not None:
            found = f"{gpu.name} cannot be used ({failure}): no rank is planned for it"
            checks.append(_gpu(name, "bad", found, "reset it (nvidia-smi --gpu-reset) or reboot"))
            continue
        free, total = gpu.memory_free_bytes, gpu.memory_total_bytes
        memory = "memory n/a" if free is None or total is None else f"{gib(free)} of {gib(total)} GiB free"
        missing = [field for field, why in gpu.unavailable.items() if why != OF_THE_WHOLE_GPU]
        words = sorted({field.removesuffix("_percent").replace("_", " ") for field in missing})
        lacking = f"; n/a: {', '.join(words)}" if words else ""
        lacking += "; n/a, as only the whole GPU has them: busy, power, energy" if gpu.is_mig else ""
        full = free is not None and total is not None and free < total * 0.1
        cure = "see who holds it: nvidia-smi" if full else None
        checks.append(_gpu(name, "warn" if full else "ok", f"{gpu.name}, {memory}{lacking}", cure))
    return checks


def _others(machine: Machine) -> list[Check]:
    """GPUs that are listed and that a run does not get."""
    checks = []
    if machine.not_ours:
        more = counted(machine.not_ours, "more GPU")
        checks.append(_gpu("others", "ok", f"the driver lists {more}, which this process may not open: not counted"))
    if machine.left_out:
        whole = counted(machine.left_out, "whole GPU")
        found = f"{whole} left out: CUDA gives a process a MIG device or whole GPUs, not both"
        checks.append(_gpu("left out", "warn", found, f"to use whole GPUs, name only those in {VISIBLE}"))
    return checks


def _visible(facts: Facts) -> list[Check]:
    value = facts.environ.get(VISIBLE)
    machine = facts.machine
    if value is None:
        return []
    found = f"{VISIBLE}={value}: a run sees {machine.visible}"
    if not order_is_certain(facts.environ, (gpu.name for gpu in machine.gpus if not gpu.is_mig)):
        cure = f"set {ORDER}=PCI_BUS_ID, or name the GPUs by UUID, to have nvidia-smi's numbers"
        return [_gpu("visible", "warn", f"{found}; CUDA counts the fastest first, not as nvidia-smi does", cure)]
    return [_gpu("visible", "ok", found)]


def _torch(machine: Machine, torch: TorchFound) -> list[Check]:
    if torch.error is not None:
        cure = "see what `python -c 'import torch'` says"
        return [Check(group="GPUs", name="torch", status="bad", found=f"cannot be imported: {torch.error}", cure=cure)]
    build = "built for the CPU alone" if torch.cuda is None else f"built for CUDA {torch.cuda}"
    if not machine.visible and not torch.available:
        return [_gpu("torch", "ok", f"{build}; sees no GPU")]
    if torch.cuda is None:
        return [_gpu("torch", "bad", f"{build}, and there are GPUs", "install a CUDA build: see pytorch.org")]
    if not torch.available:
        driver = machine.cuda
        if driver is not None and version_numbers(torch.cuda)[:1] > driver[:1]:
            found = f"{build}, and the driver runs CUDA {driver[0]}.{driver[1]} at most"
            return [_gpu("torch", "bad", found, "update the driver, or install a torch for an older CUDA")]
        return [_gpu("torch", "bad", f"{build}, and cannot use the GPUs", "reinstall torch, or reload the driver")]
    sees = f"{build}; sees {counted(len(torch.devices), 'GPU')}"
    if any(gpu.is_mig for gpu in machine.gpus):
        return [_gpu("torch", "ok", f"{sees}: a process has one MIG device, so each rank is given its own")]
    if len(torch.devices) < machine.visible:
        found = f"{sees}, but the driver shows {machine.visible} to a run"
        cure = f"name the ones that torch can use in {VISIBLE}, or start {counted(len(torch.devices), 'rank')}"
        return [_gpu("torch", "warn", found, cure), *_mapping(machine, torch)]
    return [_gpu("torch", "ok", sees), *_mapping(machine, torch)]


def _mapping(machine: Machine, torch: TorchFound) -> list[Check]:
    """Whether each of torch's devices is found among NVML's, by UUID."""
    places = [match_rank_to_gpu(uuid, None, machine.gpus) for uuid in torch.uuids]
    lost = [f"cuda:{number}" for number, place in enumerate(places) if place is None]
    if lost:
        found = f"{', '.join(lost)} cannot be found among NVML's GPUs: load and memory of those ranks are n/a"
        return [_gpu("mapping", "warn", found, "check that NVML and CUDA see the same GPUs: nvidia-smi -L")]
    pairs = [
        f"cuda:{number} is GPU {machine.gpus[place].index}" for number, place in enumerate(places) if place is not None
    ]
    return [_gpu("mapping", "ok", f"by UUID: {', '.join(pairs)}")] if pairs else []


def _flash_attention(flash: FlashFound, torch: TorchFound) -> list[Check]:
    """Whether the continuous engine has flash attention; nothing where no GPU can compute it."""
    able = [capability for capability in torch.capabilities if capability >= flash_attention.LEAST_CAPABILITY]
    if not able:
        return []
    if names := flash_attention.choices(flash, max(able)):
        found = f"the continuous engine has {flash_attention.source(flash, names[0])}"
        return [_gpu("flash attention", "ok", found)]
    what, cure = flash_attention.missing(flash)
    return [_gpu("flash attention", "warn", f"{what}: {flash_attention.COST}", cure)]

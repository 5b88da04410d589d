"""The devices that this hospital's settings name: whether they are there, and what they can do."""

from __future__ import annotations

import functools
import gc
from pathlib import Path

import torch

from phcc_client.home import ClientSettings
from phcc_model.errors import ConfigError

CPUINFO = Path("/proc/cpuinfo")
_ABILITIES = ("flags", "Features")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them: AVX-512 and AMX on x86, Arm's own."""


def devices_of(settings: ClientSettings) -> tuple[str, ...]:
    """One device, or several GPUs that train together."""
    return settings.device if isinstance(settings.device, tuple) else (settings.device,)


def must_be_there(
    devices: tuple[str, ...],
    where: str = "device in client.yaml",
    remedy: str = "See what phcc-client doctor says of it, or run phcc-client set device=cpu",
) -> None:
    """Check that torch can use each of these devices.

    Args:
        devices: as torch names them.
        where: they were named, and
        remedy: what helps; for the error.

    Raises:
        ConfigError: one of them is not there; it is named.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in devices:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"{name} is no device that torch knows", where=where, remedy=remedy) from error
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ConfigError(
                f"{name} is asked for, torch can use {count or 'no'} GPU{'' if count == 1 else 's'} here",
                where=where,
                remedy=remedy,
            )


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself; one that would only emulate it does not.

    Emulated it is no saving: on a processor with AVX2 alone a step of `configs/study.yaml`'s stage 2 takes six
    times as long as in float32.
    """
    if device.type != "cuda":
        return processor_has_bf16()
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@functools.cache
def processor_has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether every core of this machine has instructions for bfloat16, as Linux says; elsewhere it is no.

    Args:
        cpuinfo: a line ``flags`` (x86) or ``Features`` (Arm) for each core.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    cores = [
        set(words.split())
        for key, _, words in (line.partition(":") for line in lines)
        if key.strip() in _ABILITIES
    ]
    return bool(cores) and all(_BF16 & abilities for abilities in cores)


def without_bf16(device: torch.device) -> str:
    """What people are told whose device has no bfloat16, though the study asks for it."""
    return f"bf16 is not supported by this {'card' if device.type == 'cuda' else 'processor'}: float32"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: a GPU's, or main memory.

    torch has a class of its own for a GPU that is full; its CPU allocator, and the libraries that a GPU's
    memory fails, are known by their words.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("DefaultCPUAllocator: can't allocate", "DefaultCPUAllocator: not enough memory", "_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def give_memory_back() -> None:
    """Give back what torch keeps of a GPU's memory for later: others need it now."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU was used

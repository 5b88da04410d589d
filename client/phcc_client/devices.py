"""The devices that this hospital's settings name: whether they are there, and what they can do."""

from __future__ import annotations

import gc

import torch

from phcc_client.home import ClientSettings
from phcc_model.errors import ConfigError


def devices_of(settings: ClientSettings) -> tuple[str, ...]:
    """One device, or several GPUs that train together."""
    return settings.device if isinstance(settings.device, tuple) else (settings.device,)


def must_be_there(devices: tuple[str, ...]) -> None:
    """Check that torch can use each of these devices.

    Raises:
        ConfigError: one of them is not there; it is named.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in devices:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ConfigError(
                f"{name} is configured, torch can use {count or 'no'} GPU{'' if count == 1 else 's'} here",
                where="device in client.yaml",
                remedy="See what phcc-client doctor says of it, or run phcc-client set device=cpu",
            )


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself; a card that would only emulate it does not.

    A CPU always may: torch computes in bfloat16 on any.
    """
    if device.type != "cuda":
        return True
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


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

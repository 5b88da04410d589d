"""What a process is told about the machine before it imports torch."""

from __future__ import annotations


def fast_environment(threads: int) -> dict[str, str]:
    """Environment that must be set before torch is imported.

    Measured: transparent huge pages and a heap that is not given back make a training step about 1.25 times
    faster; passive waiting keeps two processes on two cores from starving each other.
    """
    return {
        "THP_MEM_ALLOC_ENABLE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
    }

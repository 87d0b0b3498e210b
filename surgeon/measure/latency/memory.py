"""The most memory that a process has held, on the CPU and on a CUDA device."""

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident() -> int | None:
    """The most main memory that this process has held at once, in bytes; None where Linux's /proc is
    not."""
    return _field("VmHWM")


def resident() -> int | None:
    """What it holds now."""
    return _field("VmRSS")


def forget_peak() -> bool:
    """Lets the peak start anew from what is held now; whether the kernel allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _field(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def cuda_free() -> int | None:
    """Free bytes of the CUDA device, after this process has its context; None without torch's CUDA.

    The figure is the device's, so it tells of this process where no other one uses the device.
    """
    try:
        import torch
    except ImportError:
        return None
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None

"""What a benchmark ran on: enough to judge its numbers, and nothing that names a host or a path."""

import os
import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("headscope", "torch", "transformers", "transformer_lens", "nnsight")


def described() -> dict[str, Any]:
    """CPU, cores, threads, memory, versions, date, and the load before the run (Linux)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }


def cpu_model() -> str:
    """The processor's own name for itself."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.machine()

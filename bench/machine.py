"""The machine that figures were taken on. It is described, not named."""

import os
import platform
import subprocess
from pathlib import Path

import psutil

from bench.limit import pgbench_program


def describe() -> dict[str, str]:
    """Cores, CPU, memory, kernel, and the versions of Python and PostgreSQL."""
    version = subprocess.run([pgbench_program(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "CPU": f"{os.cpu_count()} cores, {_cpu_model()} ({platform.machine()})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": version.split(")")[1].split()[0],
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "of an unknown model"

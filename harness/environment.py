"""Where a study runs and with what: device, precision, versions, commit. Facts for the record; none of them enters a run's identity."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import harness
from harness.errors import PreflightError
from harness.plan import Machine
from harness.text import without_secrets
from harness.workers import worker_count

PACKAGES = ("torch", "numpy", "optuna", "mlflow", "pandas", "scipy")


def machine(device: str, precision: str, most_workers: int, asked: int | None = None) -> Machine:
    """The machine as the plan needs it; `device` may be `auto`, `precision` too. `asked`: a number of workers that a person wants.

    Raises:
        PreflightError: the device that was asked for isn't there.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = next(name for name in ("cuda", "mps", "cpu") if available[name]) if device == "auto" else device
    if not available[chosen]:
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise PreflightError(f"device {chosen} is not available here; there is: {there}. Nothing was run.")
    bfloat16 = chosen == "cuda" and torch.cuda.is_bf16_supported()
    resolved = precision if precision != "auto" else "bfloat16" if bfloat16 else "float32"
    return Machine(chosen, worker_count(chosen, most_workers, asked), 1, resolved)


def describe(device: str) -> str:
    """The machine in words."""
    name = "CPU"
    if device == "cuda":
        import torch

        n = torch.cuda.device_count()
        name = f"{f'{n} x ' if n > 1 else ''}{torch.cuda.get_device_name()}"
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def speed_facts(machine: Machine) -> dict[str, Any]:
    """What the speed of a run depends on beside the run itself; speeds of machines that differ in any of it are not compared."""
    name = cpu_name() if machine.device != "cuda" else describe("cuda").split(",")[0]
    used = {"device": machine.device, "name": name, "cores": os.cpu_count(), "workers": machine.workers, "threads": machine.threads}
    return used | {"torch": version("torch"), "harness": harness.__version__}


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def versions(everything: bool = False) -> dict[str, str]:
    """Versions of what decides a result or reads the record, or of all that is installed."""
    if everything:
        return {distribution.name.lower(): distribution.version for distribution in distributions()}
    found = {"python": platform.python_version(), "harness": harness.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git() -> dict[str, Any]:
    """Commit and dirtiness of the code that runs; empty outside a checkout."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def command(without: Sequence[str] = ()) -> str:
    """The command line that started this process, as a person would type it."""
    words = [python(), "-m", "harness.run", *(word for word in sys.argv[1:] if word not in without)]
    return without_secrets(shlex.join(words))


def python() -> str:
    """This interpreter, as typed from here: by its place below the working folder where it isn't the active one."""
    if os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "python"
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except ValueError:
        return "python"


def now() -> str:
    """The time as ISO 8601 with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")

"""What JAX says of this machine, asked in a process of its own: it may crash, hang, or not be there at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60.0
MARK = "devices: "
# How JAX's own message about a device that it cannot start begins.
FAILED = "Unable to initialize backend"
# Computes something on each device: that one is listed does not mean that it works.
PROGRAM = f"""
import json
import jax, jax.numpy as jnp
rows = []
for device in jax.devices():
    sum_ = float(jnp.dot(*[jax.device_put(jnp.ones((8, 8)), device)] * 2).sum())
    rows.append([device.platform, device.device_kind, (device.memory_stats() or {{}}).get("bytes_limit"), sum_ == 512])
print({MARK!r} + json.dumps({{"jax": jax.__version__, "devices": rows}}))
"""
# What shows that there is an accelerator, and how JAX is told of it.
ACCELERATORS = (
    ("NVIDIA GPU", ("/dev/nvidia0", "/proc/driver/nvidia/version"), "gpu", "pip install 'jax[cuda12]'"),
    ("TPU", ("/dev/accel0",), "tpu", "pip install 'jax[tpu]'"),
)


class Problem(NamedTuple):
    """Something that is wrong: in a line that says what to do; `fatal` where the package cannot be used before."""

    text: str
    fatal: bool = False


class Examined(NamedTuple):
    """The result of a check.

    Attributes:
        facts: name to text or number, as `--json` has them and the terminal shows them.
        problems: what is wrong, the worst first.
    """

    facts: dict[str, Any]
    problems: list[Problem]


def size(count: float) -> str:
    """Bytes as a person reads them, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def devices() -> Examined:
    """The devices that JAX computes on, each tried, and accelerators that it does not see."""
    # a GPU's memory stays with the programs that run on it
    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        fix = "set JAX_PLATFORMS=cpu to leave accelerators out, or see which other program holds them"
        return Examined({}, [Problem(f"JAX does not start within {SECONDS:.0f} s; {fix}", fatal=True)])
    lines = [line.removeprefix(MARK) for line in asked.stdout.splitlines() if line.startswith(MARK)]
    if asked.returncode or not lines:
        return Examined({}, [Problem(_why(asked.returncode, asked.stderr), fatal=True)])
    return _described(json.loads(lines[-1]))


def _described(found: dict[str, Any]) -> Examined:
    facts: dict[str, Any] = {"JAX": found["jax"]}
    problems = []
    for place, (kind, name, memory, works) in enumerate(found["devices"]):
        facts[f"{kind} {place}"] = name + (f", {size(memory)}" if memory else "")
        if not works:
            problems.append(
                Problem(f"{kind} {place} ({name}) computes wrong numbers; leave it out or replace it", True)
            )
    kinds = {kind for kind, *_ in found["devices"]}
    for title, signs, kind, fix in ACCELERATORS:
        if kind not in kinds and any(Path(sign).exists() for sign in signs):
            forced = os.environ.get("JAX_PLATFORMS")
            do = f"JAX_PLATFORMS={forced} leaves it out; unset it" if forced else f"run: {fix}"
            problems.append(Problem(f"there is a {title}, but JAX does not use it; {do}"))
    return Examined(facts, problems)


def _why(code: int, errors: str) -> str:
    """Why JAX does not work, from how its process ended."""
    if code < 0:
        name = signal.Signals(-code).name
        cpu = "; its wheels need a processor with AVX" if name == "SIGILL" else ""
        return f"JAX crashes at its start ({name}){cpu}; run: pip install -U jax jaxlib"
    return _not_started(next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "no message"))


def why_not(error: Exception) -> str | None:
    """The line about an error of this process by which JAX did not start its devices; None for any other error."""
    if isinstance(error, AssertionError):  # of JAX_PLATFORMS=cuda without a GPU, JAX says no more; does it again?
        return _not_started(type(error).__name__) if "jax" in sys.modules and not _starts() else None
    return _not_started(str(error)) if FAILED in str(error) else None


def _starts() -> bool:
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _not_started(said: str) -> str:
    """The line about a message of JAX, and what to do."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms:
        return f"JAX does not start ({said[:200]}); run: pip install -U jax jaxlib"
    if said == AssertionError.__name__:
        said = "there is no such device, or JAX has no support for it"
    asked = {"gpu" if name == "cuda" else name for name in platforms.split(",")}
    fixes = [
        f", or for one that is there ({title}) run: {fix}" for title, _, kind, fix in ACCELERATORS if kind in asked
    ]
    return f"JAX does not start ({said.partition(' (set ')[0][:200]}); unset JAX_PLATFORMS={platforms}{''.join(fixes)}"

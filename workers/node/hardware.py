"""This node, described: facts for a Machine, and Hardware and Provenance for a Result."""

import hashlib
import os
import platform
import re
import runpy
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from farm.errors import BadSetting
from farm.record.result import Hardware, Provenance
from farm.study.machine import BUILT_IN, Machine, Mixed, layer, without_hearsay
from farm.study.processor import cores, instruction_set
from workers.node.gpus import VISIBLE, Gpu, count_hidden, gpus

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("farm", "model", "workers")
# In the driver's name of a card: its makers, its memory (which has a place of its own), and the usual socket.
_SAYS_NOTHING = re.compile(r"nvidia|geforce|tesla|graphics|gpu|generation|edition|[0-9]+gb|hbm[0-9]\w*|sxm[0-9]*")


def memory_bytes() -> int:
    """Physical memory of the host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def offer(name: str, declared: dict[str, Machine], units: int = 1, cpus: int | None = None) -> Machine:
    """The class `name` as this node may offer it: as `declared`, else as detected; `units` runs of it at a time, which
    share `cpus` (default: all cores).

    Raises: BadSetting: it has GPUs that this node lacks, and offering it anyway would register wrong facts for the
    whole class; or this node has no room for so many runs at a time.
    """
    wanted = declared.get(name) or BUILT_IN.get(name)
    if wanted is not None and not wanted.is_cpu and len(gpus()) < wanted.accelerators:
        raise BadSetting(
            f"--machine {name} is {wanted.accelerators} x {wanted.accelerator}; this machine has {_count()}.",
            remedy="Leave --machine out to offer what is here.",
        )
    told = declared.get(name)
    if told is None or told.is_price_alone:
        told = layer({name: detect(name)}, {name: told} if told else {})[name]
    machine = _describe(told)
    _check_room(machine, units, cpus or cores())
    return machine


def describe() -> str:
    """The GPUs of this node, in words."""
    found = gpus()
    if not found:
        return f"no GPU{_besides()}"
    size = f"{found[0].memory_bytes / 2**30:.0f} GiB each" if found[0].memory_bytes else "of unknown memory"
    return f"{len(found)} x {found[0].name}, {size}{_besides()}"


def _count() -> str:
    found = len(gpus())
    return f"{found} GPU{'s' * (found != 1)}{_besides()}"


def _besides() -> str:
    """The end of a phrase about GPUs: which there are besides."""
    named, others = os.environ.get(VISIBLE), count_hidden()
    if not others:
        return ""
    why = "CUDA shows a process one MIG slice" if named is None else f"{VISIBLE}={named}"
    return f" to use and {others} hidden ({why})"


def _describe(machine: Machine) -> Machine:
    """`machine` with the instructions of this node's processor, unless they were declared or it is not a CPU."""
    if not machine.is_cpu or machine.instruction_set:
        return machine
    return machine.model_copy(update={"instruction_set": instruction_set()})


def _check_room(machine: Machine, units: int, cpus: int) -> None:
    """A single run may always be offered: the dispatcher has it make do with what is here.

    Raises: BadSetting
    """
    if not machine.is_cpu:
        return
    each = min(cpus, machine.accelerators * machine.threads) if machine.threads else cpus
    most = cpus // each
    if units <= most:
        return
    if machine.threads is None:
        raise BadSetting(
            f"--machine {machine.name}={units}: one run of it takes all {cpus} cores,"
            " because the class sets no `threads`.",
            remedy=f"Offer 1, or write threads under [machines.{machine.name}] in farm.toml.",
        )
    raise BadSetting(
        f"--machine {machine.name}={units}: one run of it takes {each} of {cpus} cores.",
        remedy=f"Offer at most {most}.",
    )


def detect(name: str | None = None) -> Machine:
    """This node as a machine class: the built-in one that matches, or a new one called `name`.

    What it costs and how fast it is stay open: what others declared of the class must not be covered.

    Raises: BadSetting: its GPUs do not tell their memory.
    """
    found, known = gpus(), BUILT_IN.get(name or "")
    memory = int(memory_bytes() * 0.8)
    if known is not None and known.is_cpu:
        return _describe(without_hearsay(known).model_copy(update={"memory": memory // known.accelerators}))
    if not found:
        return _describe(Machine(name=name or "cpu", memory=memory))
    return Machine(
        name=name or _class_name(found),
        accelerator=found[0].name,
        accelerators=len(found),
        memory=min(map(_memory, found)),
        bf16=all(gpu.compute_capability >= 8.0 for gpu in found),
    )


def _memory(gpu: Gpu) -> int:
    """Raises: BadSetting"""
    if gpu.memory_bytes is None:
        raise BadSetting(
            f"nvidia-smi does not say how much memory {gpu.name} ({gpu.handle}) has.",
            remedy="Declare a class: accelerator, accelerators and memory under [machines.NAME] in farm.toml, then"
            " --machine NAME.",
        )
    return gpu.memory_bytes


def _class_name(found: tuple[Gpu, ...]) -> str:
    """`8xa100m40` for eight A100 of 40 GB in SXM sockets, `1xa100pciem40` for a PCIe card; `1xrtx3090`, `1xrtx3090ti`;
    `1xa100-3g.20gb` for a MIG slice. Whatever else the driver says of a card may be of another speed.
    """
    card, _, profile = found[0].name.lower().partition(" mig ")
    words = [word for word in re.findall(r"[a-z0-9]+", card) if not _SAYS_NOTHING.fullmatch(word)] or ["gpu"]
    name = f"{len(found)}x{''.join(words)}"
    if profile:
        return f"{name}-{profile.replace('+', '-')}"
    return name if words[0] in ("rtx", "gtx") else f"{name}m{round(_memory(found[0]) / 2**30 / 8) * 8}"


def local_classes() -> list[tuple[Machine, int]]:
    """The classes that an embedded farm offers on this node, with the units of each.

    Raises: BadSetting: as `detect`.
    """
    if gpus():
        return [(detect(), 1)]
    memory = int(memory_bytes() * 0.8)
    single = _describe(without_hearsay(BUILT_IN["cpu-x1"]).model_copy(update={"memory": memory // cores()}))
    pair = _describe(without_hearsay(BUILT_IN["cpu-x2"]).model_copy(update={"memory": memory // max(2, cores())}))
    return [(single, cores()), (pair, max(1, cores() // 2)), (detect("cpu"), 1)]


def hardware(machine: Machine, threads: int) -> Hardware:
    """The hardware that trained: this node, as a Result keeps it; of a mixed group its leader, and all accelerators."""
    found = () if machine.is_cpu else gpus()
    seen = found[0].name if found else "cpu"
    return Hardware(
        host=platform.node(),
        accelerator=machine.accelerator if isinstance(machine, Mixed) else seen,
        accelerators=machine.accelerators,
        memory_bytes=(found[0].memory_bytes or machine.memory) if found else memory_bytes(),
        driver=found[0].driver if found else None,
        cuda=_cuda() if found else None,
        cpu=_cpu_name(),
        instruction_set=instruction_set(),
        cores=cores(),
        threads=threads,
    )


def _cuda() -> str | None:
    """The CUDA that torch was built for, without importing torch, which takes seconds."""
    spec = find_spec("torch")
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"] if spec and spec.origin else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def provenance() -> Provenance:
    """The software that is running here."""
    commit, dirty = _commit()
    return Provenance(
        farm=_version("farm") or "unknown",
        commit=commit,
        dirty=dirty,
        code=code_digest(),
        python=platform.python_version(),
        torch=_version("torch") or "none",
        ray=_version("ray"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def code_digest() -> str:
    """sha256 over the paths and contents of the sources that decide a result."""
    total = hashlib.sha256()
    for file in sorted(path for room in SOURCES for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".lua")):
        total.update(f"{file.relative_to(ROOT)}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _commit() -> tuple[str | None, bool | None]:
    """The checkout's commit and whether it was changed; (None, None) when this is no checkout."""
    if not (ROOT / ".git").exists():
        return None, None
    head, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=normal")
    return head, None if status is None else bool(status)


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

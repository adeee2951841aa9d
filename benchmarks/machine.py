"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import frozen_hash
from benchmarks.requirements import OTHERS, requirements
from benchmarks.side_by_side import ROOT, markdown

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "mlflow", "numpy", "pandas")


def describe_machine(*, command: str, threads: int) -> str:
    """A table of machine, versions, date and command."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    rows = [
        ["processor", processor()],
        ["cores", f"{os.cpu_count()}, of which {threads} used"],
        ["memory", f"{memory:.0f} GiB"],
        ["system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"],
        ["packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES)],
        ["beside", ", ".join(each for names in OTHERS.values() for each in names if "==" in each)],
        ["their environments, SHA-256 of `pip freeze`", environments()],
        ["commit", commit()],
        ["date", datetime.datetime.now(datetime.UTC).date().isoformat()],
        ["command", f"`{command}`"],
    ]
    return markdown(["", ""], rows)


def environments() -> str:
    """The hash of all versions in each tool's environment (its freeze.txt)."""
    hashes = {name: frozen_hash(name, requirements(name)) for name in OTHERS}
    return ", ".join(f"{name} {found or 'not made'}" for name, found in hashes.items())


def processor() -> str:
    """Its name, and the widest vector instructions that torch uses on it."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    """The repository's commit, and whether files differ from it."""
    told = [
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    ]
    if told[0].returncode:
        return "not known"
    return told[0].stdout.strip() + (", with changes" if told[1].stdout.strip() else "")

"""What is loaded before a command knows that it has work to do: counted in modules, not seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"torch", "transformers", "peft", "datasets", "bitsandbytes", "ray"}
ANALYSIS = {"matplotlib", "statsmodels", "pingouin", "seaborn", "sklearn"}
STORE = {"mlflow", "sqlalchemy", "pandas", "pyarrow", "scipy"}
MODULES = sorted(f"entrypoints.{path.stem}" for path in (ROOT / "entrypoints").glob("*.py"))


def loaded_by(statements: str, *, unwanted: set[str]) -> set[str]:
    """Which of the packages a fresh interpreter has loaded after the statements."""
    script = f"import sys\n{statements}\nprint(*sorted({unwanted!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", MODULES)
def test_a_command_reads_its_options_without_heavy_packages(module: str) -> None:
    statements = f"import importlib\nimportlib.import_module({module!r})"
    assert not loaded_by(statements, unwanted=MODELS | ANALYSIS | STORE)


def test_what_is_unwanted_would_be_found() -> None:
    assert {"pandas", "scipy"} <= loaded_by("import pandas, scipy", unwanted=STORE)


def test_a_wrong_option_loads_no_more_than_help() -> None:
    statements = (
        "from entrypoints.evaluate import main\n"
        "assert main(['--arm', 'tuned'], standalone_mode=True)"
    )
    script = f"import atexit, sys\natexit.register(lambda: print(*sys.modules))\n{statements}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "'tuned'" in done.stderr
    assert not (MODELS | ANALYSIS | STORE) & set(done.stdout.split())


def test_cells_and_store_are_there_before_model_and_analysis_libraries() -> None:
    statements = "import xling.execution, xling.tracking"
    assert not loaded_by(statements, unwanted=MODELS | ANALYSIS)

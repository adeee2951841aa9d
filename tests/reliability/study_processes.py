"""Runs commands in real processes that kill themselves at a given event.

Loading the libraries takes longer than a tiny study. So one process loads them and forks a child
for each command; the child is a process like any other, with its own id, files and end.

Run as a program, it reads one JSON object a line: {"arguments": [...], "environment": {...},
"folder": path, "log": path, "errors": path or "" (they are in the log, then), "events": path or "",
"together": bool, "kill": {"stage": name, "count": n, "signal": number} or null, "drawn": bool},
and answers with {"status": of os.waitpid, "pid": of the child}.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Stages of a study, by what happens in them: writes below the place's folders, and statements
# that the store is sent. In the order of a study.
STAGES = {
    "data": r"open r .*/xling/data/mini/.*\.yaml$",
    "conversion": r"(open w|rename|mkdir) .*/cache/",
    "checkpoints": r"(open w|rename|mkdir|remove) .*/checkpoints",
    "adapter": r"(open w|rename|mkdir) .*/xling/[^/]*/(\.?trained)",
    "scoring": r"(open w|rename) .*/xling/[0-9a-f]{32}/all",
    "outbox": r"(open w|rename|mkdir|remove|link) .*/outbox/",
    "artifacts": r"(open w|rename|mkdir) .*/mlruns/|copyfile .*/mlruns/",
    "store": r"sql (INSERT|UPDATE) (INTO )?(runs|tags|params|metrics|latest_metrics|inputs)\b",
    "analysis": r"(open w|mkdir) /tmp/xling-.*/analysis/",
    "registering": r"sql (INSERT|UPDATE) (INTO )?(registered_model|model_version)",
}


class Zygote:
    """The process that has everything loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors = (folder / "zygote.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.study_processes"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        self.number = 0

    def start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        *,
        folder: Path | None = None,
        kill: dict[str, Any] | None = None,
        events: Path | None = None,
        together: bool = False,
        apart: bool = False,
        drawn: bool = True,
    ) -> Path:
        """Start a command; return the file of its output. `wait` gives its end.

        Its first argument names an entry point, or is `-c` with Python code as the second. One that
        is started together with the next is waited for after that. Without `drawn` its figures
        are small pictures; `apart` sends its errors to a file beside that of its output.
        """
        self.number += 1
        log = self.folder / f"command-{self.number}.log"
        order = {
            "arguments": arguments, "environment": environment, "log": str(log), "kill": kill,
            "events": str(events or ""), "folder": str(folder or self.folder), "together": together,
            "errors": str(log.with_suffix(".err")) if apart else "", "drawn": drawn,
        }  # fmt: skip
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return log

    def pid(self, log: Path) -> int:
        """Return the process of a command that was started, by the file of its output."""
        path = log.with_suffix(".pid")
        while not (path.is_file() and path.read_text()):
            assert self.process.poll() is None, (self.folder / "zygote.log").read_text()[-3000:]
            time.sleep(0.02)
        return int(path.read_text())

    def wait_until_stopped(self, log: Path) -> int:
        """Return the process of a command that stops itself, with SIGSTOP, once it has."""
        pid = self.pid(log)
        while " T " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]:
            time.sleep(0.02)
        return pid

    def wait(self) -> int:
        """The exit code of the oldest command not waited for; negative: killed by that signal."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError((self.folder / "zygote.log").read_text()[-3000:])
        return os.waitstatus_to_exitcode(json.loads(line)["status"])

    def run(
        self, arguments: list[str], environment: dict[str, str], **options: Any
    ) -> tuple[int, str]:
        """Exit code and output of a command."""
        log = self.start(arguments, environment, **options)
        code = self.wait()
        return code, log.read_text(errors="replace")

    def complete(
        self, arguments: list[str], environment: dict[str, str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with its output and its errors apart."""
        return self.completed(self.start(arguments, environment, apart=True, **options), arguments)

    def completed(self, log: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """Wait for the oldest command, which was started with its errors apart."""
        errors = log.with_suffix(".err")
        code = self.wait()
        return subprocess.CompletedProcess(
            arguments, code, log.read_text(errors="replace"), errors.read_text(errors="replace")
        )

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.errors.close()


class Watch:
    """Sees every file that Python opens, renames or removes, and every statement to a database."""

    def __init__(self, kill: dict[str, Any] | None, events: str) -> None:
        self.pattern = re.compile(STAGES[kill["stage"]]) if kill else None
        self.left = kill["count"] if kill else 0
        self.signal = kill["signal"] if kill else 0
        self.events = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if events else -1
        self.done = False

    def see(self, event: str) -> None:
        if self.events >= 0:
            os.write(self.events, event.encode(errors="replace") + b"\n")
        if self.pattern is None or self.done or not self.pattern.match(event):
            return
        self.left -= 1
        if self.left < 0:
            self.done = True
            os.kill(os.getpid(), self.signal)

    def audit(self, name: str, arguments: tuple) -> None:
        if name == "open" and isinstance(arguments[0], str):
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            self.see(f"open {'w' if writes else 'r'} {arguments[0]}")
        elif name in ("os.rename", "os.link", "shutil.copyfile"):
            self.see(f"{name.rpartition('.')[2]} {arguments[0]} to {arguments[1]}")
        elif name in ("os.mkdir", "os.remove", "os.rmdir"):
            self.see(f"{name[3:].replace('rmdir', 'remove')} {arguments[0]}")

    def statement(self, *arguments: Any) -> None:
        self.see("sql " + " ".join(arguments[2].split())[:200])


def _child(order: dict[str, Any]) -> None:
    """Becomes the command; never returns."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    os.setsid()
    os.chdir(order["folder"])
    for stream, path in ((1, order["log"]), (2, order["errors"] or order["log"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Path(order["log"]).with_suffix(".pid").write_text(str(os.getpid()))
    if threads := os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    if not order["drawn"]:
        from matplotlib.figure import Figure

        from tests.undrawn import save_picture

        Figure.savefig = save_picture
    import importlib

    module, *arguments = order["arguments"]
    if module == "-c":
        code, *sys.argv[1:] = arguments
        exec(code, {"__name__": "__main__"})
        return
    command = importlib.import_module(f"entrypoints.{module}").main
    watch = Watch(order["kill"], order["events"])
    event.listen(Engine, "before_cursor_execute", watch.statement)
    sys.addaudithook(watch.audit)
    command(arguments, prog_name=module)


# What a study's commands load in their course: in the process that forks, once for all.
LOADED = (
    "analysis.analyze_run",
    "bitsandbytes",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "xling.execution",
    "xling.execution.finetune.run_finetune",
    "xling.execution.evaluate.run_evaluate",
    "xling.training.loop",
)


def serve() -> None:
    import gc
    import importlib

    for name in LOADED:
        importlib.import_module(name)
    # Collections in the children pass over what all of them share.
    gc.collect()
    gc.freeze()
    children: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _child(order)
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
        if not order.get("together"):
            for each in children:
                _, status = os.waitpid(each, 0)
                print(json.dumps({"status": status, "pid": each}), flush=True)
            children.clear()


if __name__ == "__main__":
    serve()

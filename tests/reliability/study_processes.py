"""Runs commands in real processes that kill themselves at a given event.

Loading the libraries takes longer than a tiny study. So one process loads them and forks a child
for each command; the child is a process like any other, with its own id, files and end.

Run as a program, it reads one JSON object a line: {"arguments": [...], "environment": {...},
"folder": path, "log": path, "events": path or "", "together": bool, "kill": {"stage": name,
"count": n, "signal": number} or null},
and answers with {"status": of os.waitpid, "pid": of the child}.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
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
    ) -> Path:
        """Starts a command; returns the file of its output. `wait` gives its end.

        One that is started together with the next is waited for after that.
        """
        self.number += 1
        log = self.folder / f"command-{self.number}.log"
        order = {
            "arguments": arguments, "environment": environment, "log": str(log), "kill": kill,
            "events": str(events or ""), "folder": str(folder or self.folder), "together": together,
        }  # fmt: skip
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return log

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
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import importlib

    module, *arguments = order["arguments"]
    command = importlib.import_module(f"entrypoints.{module}").main
    watch = Watch(order["kill"], order["events"])
    event.listen(Engine, "before_cursor_execute", watch.statement)
    sys.addaudithook(watch.audit)
    command(arguments, prog_name=module)


def serve() -> None:
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401

    import xling.execution
    import xling.training.loop  # noqa: F401

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
            except BaseException:
                import traceback

                traceback.print_exc()
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

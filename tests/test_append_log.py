"""Whatever cuts off or damages a log of JSON lines, nothing that was whole in it is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from xling.files.append_log import AppendLog

VALUES: list[dict[str, Any]] = [
    {"key": "one", "text": 'line\nbreak \r \u2028 "é" سؤال'},
    {"key": "two", "text": "half a pair \ud800", "more": [1.5, None, -float("inf")]},
    {"key": "three", "text": "x" * 70_000},  # longer than a block that is read from the end
]
NEW = {"key": "new", "text": "é"}


def checked(content: str) -> bytes:
    """A line of any content with the right checksum."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return json.dumps({"sha256": digest, "content": content}).encode()


def log_at(path: Path, *, plain: str = "") -> AppendLog:
    return AppendLog(path, kind="a test's line", remedy="delete the line", plain=plain)


def read(path: Path, *, plain: str = "") -> list[dict[str, Any]]:
    return log_at(path, plain=plain).read(dict)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "log.jsonl"
    log_at(made).append(VALUES)
    return made


def test_what_is_appended_is_read(path: Path) -> None:
    assert read(path) == VALUES
    log_at(path).append([NEW], sync=False)
    log_at(path).append([])
    assert read(path) == [*VALUES, NEW]
    assert read(path.with_name("none.jsonl")) == []
    assert all(set(json.loads(line)) == {"sha256", "content"} for line in path.open())


def test_a_record_that_is_cut_off_at_any_byte_is_dropped_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log_at(path).append(VALUES[:2])
    whole = path.read_bytes()
    log_at(path).append([NEW])
    for end in range(len(whole), path.stat().st_size):
        path.write_bytes((whole + path.read_bytes()[len(whole) :])[:end])
        assert read(path) == VALUES[:2]
        assert path.stat().st_size == end  # to read changes nothing
        log_at(path).append([NEW])
        assert read(path) == [*VALUES[:2], NEW]
        assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "torn",
    [b"\0", b"\0" * 200_000, b"\xff\xfe", b"{", b"x" * 200_000, b'{"key": "k"}', b" "],
    ids=["NUL", "NULs", "garbage", "brace", "long", "no newline", "blank"],
)
@pytest.mark.parametrize("plain", ["", "key"])
def test_what_follows_the_last_newline_is_cut_off(path: Path, torn: bytes, plain: str) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read(path, plain=plain) == VALUES
    log_at(path, plain=plain).append([NEW])
    assert read(path, plain=plain) == [*VALUES, NEW]
    path.write_bytes(torn)
    assert read(path, plain=plain) == []
    log_at(path, plain=plain).append([NEW])
    assert read(path, plain=plain) == [NEW]


def test_an_empty_file_is_an_empty_log(path: Path) -> None:
    path.write_bytes(b"")
    assert read(path) == []
    log_at(path).append([NEW])
    assert read(path) == [NEW]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0\0",
        b"[]",
        b"\xff",
        b"{}",
        b'{"key": "k", "te',
        b'{"key": "k"}',
        b'{"content": "{}"}',
        b'{"content": "{}", "sha256": "44136fa355b3678b"}',  # the last digit should be a
        checked("[]"),
        checked("{"),
        checked('{"key": "k", "key": "k"}'),
        b'{"content": "\\ud800", "sha256": ""}',
    ],
)
def test_a_damaged_line_is_named(path: Path, line: bytes) -> None:
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, line + b"\n", *rest]))
    with pytest.raises(
        ValueError, match=r"log.jsonl, line 2, is not a test's line .*; delete"
    ) as e:
        read(path)
    assert "\n" not in str(e.value)
    log_at(path).append([NEW])
    with pytest.raises(ValueError, match="line 2"):
        read(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]) + b"".join(rest))
    assert read(path) == VALUES  # the remedy helps


def test_a_line_with_the_right_checksum_is_read(path: Path) -> None:
    path.write_bytes(checked("{}") + b"\n" + path.read_bytes())
    assert read(path) == [{}, *VALUES]


def test_what_cannot_be_parsed_is_named(path: Path) -> None:
    def parse(value: dict[str, Any]) -> str:
        if value["key"] == "two":
            raise ValueError("two is too much")
        return str(value["key"])

    with pytest.raises(ValueError, match=r"line 2, is not a test's line \(two is too much\)"):
        log_at(path).read(parse)


def test_no_bit_of_a_line_changes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log_at(path).append([NEW, NEW])
    whole = path.read_bytes()
    for place in range(8 * (len(whole) // 2)):  # every bit of the first line
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        for plain in ("", "key"):
            with pytest.raises(ValueError, match="line 1"):
                read(path, plain=plain)


def test_lines_without_checksum_are_read_where_an_earlier_version_wrote_them(path: Path) -> None:
    old = {"key": "old", "text": "é"}
    path.write_bytes(json.dumps(old, ensure_ascii=False).encode() + b"\n" + path.read_bytes())
    log_at(path, plain="key").append([NEW])
    assert read(path, plain="key") == [old, *VALUES, NEW]
    with pytest.raises(ValueError, match="line 1"):
        read(path)


APPENDING = """
import sys
from pathlib import Path
from xling.files.append_log import AppendLog
log = AppendLog(Path(sys.argv[1]), kind="", remedy="")
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    log.append([{"by": sys.argv[2], "n": number, "text": "x" * (number % 7) * 3000}], sync=False)
    print(number, flush=True)
"""


def appending(path: Path, name: str, times: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(path), name, str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )


def test_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    processes = [appending(path, name, 300) for name in "abc"]
    time.sleep(1)  # they have imported what they need
    for process in processes:
        process.stdin.write(b"\n")
    last = 0
    while any(process.poll() is None for process in processes):
        found = len(read(path))  # whole at any time
        assert found >= last
        last = found
        for process in processes:
            os.set_blocking(process.stdout.fileno(), False)
            process.stdout.read()
    assert [process.returncode for process in processes] == [0, 0, 0]
    found = read(path)
    assert len(found) == 900
    for name in "abc":
        assert [each["n"] for each in found if each["by"] == name] == list(range(300))


def test_what_a_killed_process_appended_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    process = appending(path, "killed", 1_000_000)
    process.stdin.write(b"\n")
    for _ in range(200):
        said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = read(path)
    assert len(found) > int(said) == 199
    log_at(path).append([NEW])
    assert read(path) == [*found, NEW]


FULL = """
import resource, signal, sys
from pathlib import Path
from xling.files.append_log import AppendLog
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5000,) * 2)
log = AppendLog(path, kind="", remedy="")
log.append([{"key": "fits"}])
size = path.stat().st_size
try:
    log.append([{"key": "small"}, {"key": "large", "text": "x" * 9000}])
except OSError as error:
    assert path.stat().st_size == size, "a part of it is left"
    print(error)
log.append([{"key": "fits, too"}])
"""


def test_where_the_disk_is_full_all_or_nothing_is_appended(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert read(path) == [*VALUES, {"key": "fits"}, {"key": "fits, too"}]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_does_not_reach_the_disk_is_not_there(path: Path, monkeypatch, error) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("xling.files.append_log.os.fsync", fail)
    match = r"cannot write to .* \(No space left on device\)" if error.args else None
    with pytest.raises(type(error), match=match):
        log_at(path).append([NEW])
    assert read(path) == VALUES
    monkeypatch.undo()
    log_at(path).append([NEW])
    assert read(path) == [*VALUES, NEW]


def test_to_append_costs_what_is_appended(tmp_path: Path) -> None:
    def seconds(path: Path) -> float:
        started = time.process_time()
        for _ in range(50):
            log_at(path).append([NEW], sync=False)
        return time.process_time() - started

    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    log_at(short).append([NEW])
    with long.open("wb") as file:
        file.seek(1 << 30)  # a gigabyte
        file.write(b"\n")
    seconds(short)
    assert seconds(long) < 10 * seconds(short) + 0.05

"""Processes that are killed or stopped: nothing waits for ever, nothing runs on without an owner, and the line says what to do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.errors import DataError
from mien.progress import ordered_map

ROOT = Path(__file__).resolve().parents[1]


def killed_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def own_number(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_a_killed_worker_is_one_clear_line():
    with pytest.raises(DataError, match=r"^a worker process was killed[^\n]*fewer --workers\.$"):
        list(ordered_map(killed_at_five, range(50), workers=2, chunk=2))


def test_items_are_drawn_a_few_chunks_ahead():
    drawn = []
    found = ordered_map(abs, (drawn.append(n) or n for n in range(100)), workers=2, chunk=2)
    assert next(found) == 0
    assert len(drawn) <= 2 * (3 * 2 + 1)
    assert list(found) == list(range(1, 100))


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind it deaf to Ctrl-C
sys.path[:0] = {paths!r}
from test_killed import own_number
from mien.progress import ordered_map
if __name__ == "__main__":
    for number in ordered_map(own_number, [0.5, 0.5, 60, 60], workers=2, chunk=1):
        print(number, flush=True)
"""


def alive(number: int) -> bool:
    """Whether a process is there and no zombie that waits to be collected."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    (tmp_path / "parent.py").write_text(SCRIPT.format(paths=[str(ROOT), str(ROOT / "tests")]))
    with subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stderr is not None
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)  # as a terminal does: workers get it too
        else:
            parent.kill()
        parent.wait(timeout=30)
        end = time.monotonic() + 30
        while any(map(alive, workers)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(alive, workers))
        told = parent.stderr.read()
        assert told.count("Traceback") == (how == signal.SIGINT)  # the script's own, none of a worker


STOPPED = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind it deaf to Ctrl-C
sys.path.insert(0, {root!r})
import mien.cli
def train() -> None:
    "Wait."
    import time
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("tidied", flush=True)
verb = sys.modules["waits"] = types.ModuleType("waits")
verb.train = train
mien.cli.VERBS["train"] = ("waits", "wait")
sys.argv = ["mien", "train"]
sys.exit(mien.cli.main())
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_from_outside_tidies_up_and_says_what_resumes(how, code):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "tidied\n")
    assert err == "mien: stopped; what was finished is kept, the same command resumes.\n"


TWICE = """
import atexit
atexit.register(lambda: (print("ending", flush=True), __import__("time").sleep(60)))
"""


def test_a_second_ctrl_c_ends_at_once_and_without_a_traceback():
    with subprocess.Popen(
        [sys.executable, "-c", TWICE + STOPPED.format(root=str(ROOT))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for told in ("begun\n", "tidied\n"):
            assert process.stdout.readline() == told
            if told == "begun\n":
                process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "mien: stopped; what was finished is kept, the same command resumes.\n"

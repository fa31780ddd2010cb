"""One engine, found or built and run once: with fakes in this process, and in real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_tensorrt import FakeTensorRt, recipe_of, write_model

from edgekit.errors import DeviceError
from edgekit.runtime.tensorrt import EngineCache, EngineFile, EngineJob, EngineReport, obtain_engine
from edgekit.runtime.tensorrt import library as library_module
from edgekit.runtime.tensorrt.child import obtain
from edgekit.runtime.tensorrt.cuda_fake import FakeCuda
from edgekit.spec.base import to_json


class Board:
    """A board with a fake TensorRT, which may be replaced by another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.path = write_model(folder / "m.onnx")
        self.reports: list[EngineReport] = []
        self.install("10.3.0")

    def install(self, version: str) -> None:
        self.cuda = FakeCuda()
        self.module = FakeTensorRt(version, self.cuda)
        self._monkeypatch.setitem(sys.modules, "tensorrt", self.module)

    def obtain(self, **more: object) -> EngineFile:
        fields = {"onnx": str(self.path), "recipe": recipe_of(self.path),
                  "folder": str(self.folder / "engines"), **more}  # fmt: skip
        return obtain(EngineJob(**fields), self.reports.append, make_cuda=lambda: self.cuda)  # type: ignore[arg-type]

    def steps(self) -> list[str]:
        return list(dict.fromkeys(report.step for report in self.reports))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


def test_an_engine_is_built_rehearsed_and_the_next_time_found(board: Board) -> None:
    file = board.obtain()
    assert board.steps() == ["found", "building", "rehearsing"]
    assert (file.facts.library, file.facts.capability) == ("TensorRT 10.3.0", "8.7")
    assert file.facts.driver == "12.6"
    board.reports.clear()
    again = board.obtain()
    assert (again.key, again.was_cached) == (file.key, True)
    assert board.steps() == ["found", "rehearsing"]
    assert board.module.built_count == 1


def test_an_update_of_tensorrt_builds_anew_and_never_loads_the_old_one(board: Board) -> None:
    """JetPack was updated over night."""
    old = board.obtain()
    board.install("11.4.0")
    new = board.obtain()
    assert (new.was_cached, board.module.built_count) == (False, 1)
    assert new.key != old.key
    assert Path(old.path).exists()  # until the new one serves


def test_the_timing_cache_of_one_build_is_given_to_the_next(board: Board) -> None:
    board.obtain()
    board.path = write_model(board.folder / "other.onnx", factor=3.0)
    board.obtain()
    assert board.module.last_config.timing == b"+"


def test_a_whole_engine_that_does_not_run_is_built_once_more(board: Board) -> None:
    """Its digest is right, its content is not: written by something that went wrong."""
    file = board.obtain()
    cache = EngineCache(board.folder / "engines")
    cache.add(file.key, b"junk", shard_sha256="a" * 64, facts=file.facts, build_s=1.0)
    again = board.obtain()
    assert (again.was_cached, again.sha256) == (False, file.sha256)
    assert board.module.built_count == 2


def test_an_engine_that_fails_its_rehearsal_is_not_kept(board: Board) -> None:
    board.path = write_model(board.folder / "m.onnx", breaks="misaligned address")
    with pytest.raises(DeviceError, match="misaligned address"):
        board.obtain()
    assert not list((board.folder / "engines").glob("*.engine"))


def test_kernels_compiled_in_the_rehearsal_are_kept_for_the_agent(board: Board) -> None:
    """TensorRT-RTX compiles at the first run."""
    board.install("rtx")
    assert board.obtain().jit_path.read_bytes() == b"jit"


def test_a_recipe_for_another_file_builds_nothing(board: Board) -> None:
    recipe = recipe_of(board.path)
    write_model(board.path, factor=5.0)
    with pytest.raises(DeviceError, match="recipe is for another shard"):
        board.obtain(recipe=recipe)
    assert board.module.built_count == 0


# ---- processes ------------------------------------------------------------------------------


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def job(tmp_path: Path, timeout_s: float = 30.0) -> EngineJob:
    path = write_model(tmp_path / "m.onnx")
    recipe = recipe_of(path, timeout_s=timeout_s)
    return EngineJob(onnx=str(path), recipe=recipe, folder=str(tmp_path / "engines"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", r"ended by SIGKILL \(out of memory\?\)"),
        ("import sys; sys.exit('no libnvinfer.so.10')", r"code 1: no libnvinfer\.so\.10"),
        ("print('hello')", "code 0: it said nothing"),
        (
            'print(\'{"step": "failed", "problem": "no TensorRT", "hint": "x"}\')',
            "^no TensorRT",
        ),
    ],
)
def test_however_the_process_ends_the_caller_hears_why(
    tmp_path: Path, code: str, words: str
) -> None:
    """Imports that crash, the kernel out of memory, noise on its output."""
    with pytest.raises(DeviceError, match=words):
        obtain_engine(job(tmp_path), command=python(code))


@pytest.mark.integration
def test_a_build_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """Also one that ignores every polite request."""
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\n"
        "p.wait()\n"
    )
    began_s = time.monotonic()
    with pytest.raises(DeviceError, match=r"not built within 2 s"):
        obtain_engine(job(tmp_path, timeout_s=2.0), command=python(code))
    assert time.monotonic() - began_s < 20.0
    pid = int((tmp_path / "pid").read_text())
    deadline_s = time.monotonic() + 10.0
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.integration
def test_whoever_wants_it_no_more_is_rid_of_it_at_once(tmp_path: Path) -> None:
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    began_s = time.monotonic()
    with pytest.raises(DeviceError, match="was stopped"):
        obtain_engine(
            job(tmp_path), command=python("import time; time.sleep(60)"), stopping=stopping
        )
    assert time.monotonic() - began_s < 20.0


@pytest.mark.integration
def test_the_building_process_ends_with_the_agent_however_that_dies(tmp_path: Path) -> None:
    """kill -9 of an agent must not leave a build behind that eats the board's memory."""
    (tmp_path / "tensorrt.py").write_text(
        "import os, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    made = job(tmp_path)
    code = (
        "import sys\n"
        "from edgekit.runtime.tensorrt import EngineJob, obtain_engine\n"
        "from edgekit.spec.base import parse_json\n"
        "obtain_engine(parse_json(sys.stdin.buffer.read(), EngineJob, origin='x'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(python(code), stdin=subprocess.PIPE, env=environment) as agent:
        assert agent.stdin is not None
        agent.stdin.write(to_json(made))
        agent.stdin.close()
        deadline_s = time.monotonic() + 30.0
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.2)
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 900
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
        agent.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 10.0
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_the_order_of_libraries_is_the_board_s_own_first() -> None:
    assert library_module.LIBRARIES == ("tensorrt", "tensorrt_rtx")

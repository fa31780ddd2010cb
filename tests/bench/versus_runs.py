"""One comparison: a method under a load on a fleet, through real agents or a server, measured.

In:  a bed (``tests.testbed``), Ways.  Out: Runs, each saved as JSON; one that lies there is not
done again.
Loads: "saturation", every frame as fast as they are taken; "camera", a live source of fixed rate,
whose frames are lost where nobody takes them in time; "poisson", requests at random, which wait.
Rates are shares of what ours was measured to carry, the same for every method.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from edgekit.errors import DeviceError, EdgeKitError
from edgekit.spec.base import Spec, load, save
from edgekit.spec.messages import Quantiles
from tests.bench.versus_http import FilmJob, Outcome, ServeJob
from tests.bench.versus_peers import JOB, TOOLS, name_of, why_absent
from tests.bench.versus_plans import FARM, HTTP, OURS, OURS_PROMPT, STRONG, TOOL, WEAK, Say, Ways
from tests.bench.versus_world import emulated
from tests.testbed.agents import StreamRun, run_stream
from tests.testbed.calibrate import dilations
from tests.testbed.plain import Bed, processor_of

SATURATION, CAMERA, POISSON = "saturation", "camera", "poisson"
LOADS = (SATURATION, CAMERA, POISSON)
SHARE = {CAMERA: 0.9, POISSON: 0.7}
"""Of the throughput of ours, at which frames come."""
_IN_FLIGHT = {SATURATION: 6, CAMERA: 3, POISSON: 6}
"""Requests under way at once: what agents allow themselves on two devices."""
_START_S = 90.0
_SAME = "the same plan as"
_ROOT = Path(__file__).parents[2]


class Run(Spec, frozen=True, kw_only=True):
    """What one method came to."""

    fleet: str
    workload: str
    method: str
    load: str
    emulated: str
    """How slow the devices were made."""
    plan: str = ""
    offered_fps: float = 0.0
    """0: as fast as they are taken."""
    captured: int = 0
    answered: int = 0
    lost: dict[str, int] = msgspec.field(default_factory=dict)
    """Frames by reason."""
    fps: float = 0.0
    age_ms: Quantiles = Quantiles()
    mean_age_ms: float = 0.0
    bytes_per_frame: float = 0.0
    """Across the link, towards the stronger device."""
    ap50: dict[str, float] = msgspec.field(default_factory=dict)
    """By label [%]; only under saturation, where every method answers every picture."""
    note: str = ""
    problem: str = ""
    """Why there are no measurements."""

    @property
    def file_name(self) -> str:
        """Of its JSON."""
        words = "_".join((self.fleet, self.workload, self.method, self.load))
        return "".join(c if c.isalnum() or c in "_-." else "-" for c in words) + ".json"


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run lasts."""

    seconds: float
    most_frames: int = 2000

    def frames(self, fps: float, at_least: int) -> int:
        """So many frames fill it."""
        return int(min(max(fps * self.seconds, at_least), self.most_frames))


def run_all(
    bed: Bed, ways: Ways, out: Path, *, methods: Sequence[str], loads: Sequence[str],
    length: Length, say: Say,
) -> Iterator[Run]:  # fmt: skip
    """Every method under every load; ours under saturation first, as it sets the rates.

    Methods that planned the same share a measurement.
    """
    with TemporaryDirectory(prefix="edgekit-versus-") as home:
        own_fps = 0.0
        guess: dict[str, float] = {}
        done: dict[tuple[str, str], Run] = {}
        for load_name in loads:
            for method in methods:
                run = _blank(ways, method, load_name)
                path = out / run.file_name
                known = load(path, Run) if path.exists() else None
                if known is not None and known.emulated == run.emulated:
                    run = known
                elif same := done.get((load_name, run.plan)):
                    notes = (f"{_SAME} {same.method}, measured once", _note(ways, method))
                    run = msgspec.structs.replace(
                        same, method=method, note=", ".join(filter(None, notes))
                    )
                    save(run, path)
                else:
                    rate = SHARE.get(load_name, 0.0) * own_fps
                    say(f"{run.fleet}, {run.workload}, {load_name}: {method}")
                    run = _measured(bed, ways, run, Path(home), length, rate, guess.get(method))
                    save(run, path)
                if not run.problem and _SAME not in run.note:
                    done.setdefault((load_name, run.plan), run)
                if load_name == SATURATION:
                    guess[method] = run.fps
                    own_fps = run.fps if method == OURS else own_fps
                yield run


def _blank(ways: Ways, method: str, load_name: str) -> Run:
    return Run(
        fleet=ways.fleet.name,
        workload=ways.workload.name,
        method=method,
        load=load_name,
        emulated=emulated(ways.fleet),
        plan=ways.text(method),
    )


def _measured(
    bed: Bed, ways: Ways, run: Run, home: Path, length: Length, rate: float, known: float | None
) -> Run:
    if run.method in ways.planned.notes:
        return msgspec.structs.replace(run, problem=ways.planned.notes[run.method])
    if run.load != SATURATION and not rate:
        return msgspec.structs.replace(run, problem="ours was not measured, so there is no rate")
    pictures = len(ways.workload.truth)
    least = pictures if run.load == SATURATION else 40

    def source(share: float = 1.0, most: float = 1.0) -> str:
        frames = round(most * length.frames(share * (rate or known or 0.0), least))
        return ways.workload.source(frames, options_of(run.load, share * rate))

    try:
        if run.method == FARM:
            return _farm(bed, ways, run, source, rate)
        done = _stream(bed, ways, run, source(), home)
    except (EdgeKitError, OSError, subprocess.SubprocessError) as error:
        return msgspec.structs.replace(run, problem=str(getattr(error, "what", error)))
    return _with_figures(run, done, ways, rate)


def options_of(load_name: str, rate: float) -> str:
    """Options of the source."""
    if load_name == CAMERA:
        return f"mode=live&fps={rate:.3f}"
    if load_name == POISSON:
        return f"mode=every&arrivals=poisson&fps={rate:.3f}"
    return "mode=every"


def _stream(bed: Bed, ways: Ways, run: Run, source: str, home: Path) -> StreamRun:
    if not run.method.startswith(TOOL) or run.method not in tool_methods():
        return run_stream(bed, ways.bundle(run.method), source)
    tool = tool_methods()[run.method]
    if reason := why_absent(tool):
        raise DeviceError(reason, hint="install it in a virtual environment of its own")
    return served(bed, ways, source, tool, home, in_flight=_IN_FLIGHT[run.load])


def tool_methods() -> dict[str, str]:
    """Servers by method."""
    return {HTTP: "http", **{f"{TOOL}{tool}": tool for tool in TOOLS if tool != "http"}}


def served(
    bed: Bed, ways: Ways, source: str, tool: str, home: Path, *, in_flight: int
) -> StreamRun:
    """The model behind a server on the strong device, a client on the weak one.

    Raises: DeviceError if the server does not begin to answer, or the client fails.
    """
    weak, strong = ways.weak, ways.strong
    serve, film, out = (home / f"{name}.json" for name in ("serve", "film", "outcome"))
    job = ServeJob(
        model=str(ways.model_file()),
        card=ways.workload.card,
        host="0.0.0.0" if bed.is_linked else "127.0.0.1",
        dilation=dilations(bed.fleet)[strong],
        processor=processor_of(bed.fleet, strong),
        tool=tool,
    )
    save(job, serve)
    out.unlink(missing_ok=True)
    with _running(bed, strong, "serve", serve, home) as server:
        port = _port(server)
        save(
            FilmJob(
                source=source,
                host=bed.address(strong),
                port=port,
                path=TOOLS[tool].path,
                body=TOOLS[tool].body,
                in_flight=in_flight,
                processor=processor_of(bed.fleet, weak),
                camera=weak,
                server=strong,
                out=str(out),
            ),
            film,
        )
        with _running(bed, weak, "film", film, home) as client:
            code = client.wait()
    if code or not out.exists():
        said = (home / "film.log").read_text(errors="replace").strip().splitlines()
        raise DeviceError(f"the client ended with {code}: {said[-1:]}", hint="read its log")
    outcome = load(out, Outcome)
    return StreamRun(reports=outcome.reports, accounts=outcome.accounts)


@contextlib.contextmanager
def _running(
    bed: Bed, device: str, role: str, job: Path, home: Path
) -> Iterator["subprocess.Popen[str]"]:
    """A role of ``versus_http`` on a device; it and its children end with the context."""
    with (home / f"{role}.log").open("w") as log:
        process = subprocess.Popen(
            [*bed.prefix(device), sys.executable, "-m", "tests.bench.versus_http", role, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=_ROOT,
            env=os.environ | {JOB: str(job)},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(server: "subprocess.Popen[str]") -> int:
    """What the server says. Raises: DeviceError if it says nothing in time."""
    assert server.stdout is not None
    timer = threading.Timer(_START_S, server.kill)
    timer.start()
    try:
        for line in server.stdout:
            if line.startswith("ready "):
                return int(line.split()[1])
    finally:
        timer.cancel()
    raise DeviceError("the server did not begin to answer", hint="look at serve.log")


def _farm(
    bed: Bed, ways: Ways, run: Run, source: Callable[[float, float], str], rate: float
) -> Run:
    """Both devices at once, each with the whole model and a camera of its own.

    Each gets frames by its share of the speed, so that both work about equally long.
    """
    speeds = [one.relative_speed for one in ways.fleet.device[:2]]
    shares = [speed / sum(speeds) for speed in speeds]
    jobs = [
        (ways.bundle(method), source(share, 1.0 if rate else share / shares[0]))
        for method, share in zip((WEAK, STRONG), shares, strict=True)
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        parts = list(pool.map(lambda job: run_stream(bed, *job), jobs))
    each = [_with_figures(run, part, ways, rate) for part in parts]
    reports = tuple(report for part in parts for report in part.reports)
    ages = [report.age_ms for report in reports]
    names = (ways.weak, ways.strong)
    return msgspec.structs.replace(
        each[1],
        captured=sum(one.captured for one in each),
        answered=sum(one.answered for one in each),
        lost={
            f"{name} {reason}": count
            for name, one in zip(names, each, strict=True)
            for reason, count in one.lost.items()
        },
        fps=sum(one.fps for one in each),
        age_ms=Quantiles.of(ages),
        mean_age_ms=sum(ages) / max(1, len(ages)),
        note=", ".join(
            f"{name} {one.fps:.2f}/s, p50 {one.age_ms.p50:.0f} ms"
            for name, one in zip(names, each, strict=True)
        ),
    )


def _note(ways: Ways, method: str) -> str:
    """What a reader should know of a method besides its plan."""
    if method == OURS_PROMPT:
        return f"within {ways.planned.deadline_ms:.0f} ms, as predicted without waiting"
    tool = tool_methods().get(method)
    return name_of(tool) if tool else ""


def _with_figures(run: Run, done: StreamRun, ways: Ways, rate: float) -> Run:
    crossed = [sum(hop.bytes for hop in one.hops) for one in done.reports]
    return msgspec.structs.replace(
        run,
        offered_fps=round(rate, 3),
        captured=done.accounts.frames_captured,
        answered=len(done.reports),
        lost={reason: n for reason, n in done.accounts.frames_dropped.items() if n},
        fps=round(done.fps, 3),
        age_ms=done.age_ms,
        mean_age_ms=round(done.mean_age_ms, 3),
        bytes_per_frame=round(sum(crossed) / max(1, len(crossed)), 1),
        ap50=ways.workload.ap50_percent(done.reports) if run.load == SATURATION else {},
        note=_note(ways, run.method),
    )

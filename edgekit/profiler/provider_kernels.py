"""Time kernels under a provider other than the CPU's, and find out which of them it joins.

In:  a ProbeRuntime, kernels, a time budget.  Out: ProviderKernels, one for each precision.
A kernel's time is what a chain of links with it takes longer than the same chain without it, taking
turns, divided by the links (``chain_probe``). It costs two sessions, and with TensorRT two engines,
seconds each on a small board; so kernels are taken in the catalogue's order, which covers every
operator early, until the time is used up.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgekit.errors import DeviceError, EdgeKitError
from edgekit.planner.integer_chains import ON_BYTES, QDQ, SIGNED
from edgekit.planner.launches import Habits
from edgekit.planner.predict import Predictor
from edgekit.profiler.catalogue import catalogue
from edgekit.profiler.chain_probe import chain_of, is_measurable
from edgekit.profiler.probe_session import interleaved_times_s
from edgekit.profiler.under_provider import ProbeRuntime
from edgekit.runtime.session import random_inputs
from edgekit.spec.profile import DeviceProfile, KernelTime, Precision, ProviderKernels
from edgekit.spec.workload import KernelShape

logger = logging.getLogger(__name__)
Tell = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done (0..1)."""
_LINKS = 8
_POOL = 12
"""Kernels of the catalogue for each that is wanted: most of it is of another precision."""
_KERNEL_S = 0.04
"""Spent on the runs of one kernel."""
_LEAST_S = 1e-7
_JOINED_SHARE = 0.5
"""An operator that costs less than this share of what it costs alone became part of another."""
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid")
_WIDE, _PLANE = (64, 64, 56, 56, 1), (64, 56 * 56)
"""Sizes of the convolution and of the activation with which joining is tried."""
_CONV = "Conv 3x3 s1 d1 dense plain"
_INTEGER_GROUPS = (
    SIGNED,
    *(f"{QDQ}{name}" for name in ("Conv", "Conv+Relu", "Gemm", "MatMul", "Add", *ON_BYTES)),
)
"""What TensorRT joins of a Q/DQ model. Not measured. Source: NVIDIA TensorRT documentation,
"Working with Quantized Types", explicit quantization: Q and DQ are moved and fused with the layers
between them."""


def kernel_time(
    shape: KernelShape, runtime: ProbeRuntime, precision: Precision, *, links: int = _LINKS
) -> KernelTime | None:
    """One kernel; None where no chain can be made of it, or where noise hides it.

    Raises: EdgeKitError subclasses if the provider refuses the chain.
    """
    runs = []
    for has_kernel in (True, False):
        model = chain_of(shape.key, shape.sizes, precision, links=links, has_kernel=has_kernel)
        if model is None:
            return None
        runs.append(_run(model, runtime, precision))
    full_s, bare_s = interleaved_times_s(runs, budget_s=_KERNEL_S, least_count=4)
    if full_s <= bare_s:
        return None
    time_s = float(f"{max(_LEAST_S, (full_s - bare_s) / links):.4g}")
    return KernelTime(key=shape.key, sizes=shape.sizes, time_s=time_s)


def measure_kernels(
    runtime: ProbeRuntime, *, budget_s: float, most: int, tell: Tell = lambda text, share: None
) -> tuple[ProviderKernels, ...]:
    """Kernels at each precision that the provider has, in about ``budget_s`` together.

    Raises: DeviceError if the provider refuses every one of them at fp32.
    """
    found = []
    fused = joined_groups(runtime)
    share_s = budget_s / len(runtime.precisions)
    for precision in runtime.precisions:
        shapes = _catalogue(precision, most)
        times, refusal = _measured(shapes, runtime, precision, share_s, tell)
        if not times:
            if precision == "fp32":
                raise DeviceError(
                    f"{runtime.provider} measured no kernel: {refusal or 'out of time'}",
                    hint="give the profiler more time, or run `edgekit doctor`",
                )
            logger.warning("%s measured no kernel at %s: %s", runtime.provider, precision, refusal)
            continue
        groups = (*fused, *_INTEGER_GROUPS) if precision == "int8" else fused
        found.append(
            ProviderKernels(
                provider=runtime.provider, precision=precision, runtime=runtime.name,
                kernel=tuple(times), fused=tuple(sorted(groups)),
            )
        )  # fmt: skip
    return tuple(found)


def with_kernels(profile: DeviceProfile, kernels: Sequence[ProviderKernels]) -> DeviceProfile:
    """``profile`` with these kernels in the place of older ones of the same provider.

    Its ceilings of that provider must be there: reaches are fitted against the roofline.
    """
    names = {one.provider for one in kernels}
    others = tuple(one for one in profile.under if one.provider not in names)
    grown = msgspec.structs.replace(profile, under=(*others, *kernels))
    fitted = []
    for one in kernels:
        seen = grown.seen_by(one.provider, one.precision)
        made = Predictor(seen, precision=one.precision, provider=one.provider)
        fitted.append(msgspec.structs.replace(one, reach=made.kernels.fitted_reaches()))
    return msgspec.structs.replace(grown, under=(*others, *fitted))


def joined_groups(runtime: ProbeRuntime) -> tuple[str, ...]:
    """Groups that the provider launches as one, by what the second operator adds to the first.

    Raises: EdgeKitError subclasses if the provider refuses a convolution.
    """

    def time_s(key: str, sizes: tuple[int, ...]) -> float:
        found = kernel_time(KernelShape(key=key, sizes=sizes), runtime, "fp32")
        return found.time_s if found is not None else 0.0

    bare_s, names = time_s(_CONV, _WIDE), []
    for name in _ACTIVATIONS:
        alone_s = time_s(name, _PLANE)
        if time_s(f"{_CONV} +{name}", _WIDE) - bare_s < _JOINED_SHARE * alone_s:
            names.append(f"Conv+{name}")
    # The sum's other term is a small convolution, which is launched in any case.
    both_s = bare_s + time_s("Conv 1x1 s1 d1 dense plain", _WIDE)
    alone_s = time_s("Add same", _PLANE)
    if time_s(f"{_CONV} +Add", _WIDE) - both_s < _JOINED_SHARE * alone_s:
        names.append("Conv+Add")
        if time_s(f"{_CONV} +Add +Relu", _WIDE) - both_s < _JOINED_SHARE * alone_s:
            names.append("Conv+Add+Relu")
    return tuple(names)


def _catalogue(precision: Precision, most: int) -> list[KernelShape]:
    """The first ``most`` kernels of the catalogue that can be measured so."""
    groups = frozenset(_INTEGER_GROUPS if precision == "int8" else ())
    pool = catalogue(Habits(fused=groups, block=0), most=_POOL * most)
    return [one for one in pool if is_measurable(one.key, precision)][:most]


def _measured(
    shapes: Sequence[KernelShape],
    runtime: ProbeRuntime,
    precision: Precision,
    budget_s: float,
    tell: Tell,
) -> tuple[list[KernelTime], str]:
    """Times until the budget is used up, and the last reason for which one was refused."""
    times, refusal = [], ""
    began_s = time.monotonic()
    for done, shape in enumerate(shapes):
        if time.monotonic() - began_s > budget_s:
            logger.info("out of time with %d %s kernels left", len(shapes) - done, precision)
            break
        tell(f"{runtime.provider} {precision} kernels {done}/{len(shapes)}", done / len(shapes))
        try:
            found = kernel_time(shape, runtime, precision)
        except EdgeKitError as error:
            refusal = error.what
            logger.info("%s at %s: %s", shape.key, precision, error.what)
            continue
        if found is not None:
            times.append(found)
    return times, refusal


def _run(model: bytes, runtime: ProbeRuntime, precision: Precision) -> Callable[[], object]:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model)
        session = runtime.open_session(path, precision)
    inputs = random_inputs(session.inputs)
    return lambda: session.run(inputs)

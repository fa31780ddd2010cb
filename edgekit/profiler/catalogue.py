"""Which kernels to measure: operators and shapes that occur in detectors, in a fixed order.

In:  habits of the runtime.  Out: kernels, so ordered that any beginning of the list covers every
operator; the longer it is, the denser.  Pure and repeatable.
Shapes follow the pyramid of real networks: the more channels, the fewer pixels. None of them is
taken from a certain model.
"""

import random
from collections.abc import Callable, Iterator

from edgekit.planner.integer_chains import QDQ
from edgekit.planner.launches import Habits
from edgekit.spec.workload import KernelShape

_CHANNELS = (8, 12, 16, 20, 24, 32, 36, 40, 48, 56, 64, 72, 80, 96, 104, 112, 120, 128, 144, 160,
             176, 192, 208, 232, 240, 256, 288, 320, 384, 480, 512, 576, 640, 768, 960, 1024,
             1152, 1280, 2048)  # fmt: skip
_ODD_CHANNELS = (6, 10, 18, 22, 26, 29, 30, 34, 42, 50, 58, 66, 90, 122, 174, 232, 300)
_SIDES_PX = (1, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 20, 22, 24, 26, 28, 30, 32, 40, 44, 48,
             52, 56, 60, 64, 80, 88, 104, 112, 128, 160, 176, 208, 224)  # fmt: skip
_LEAST_COUNT, _MOST_COUNT = 256, 1 << 21
"""Elements of a tensor that networks between two kernels have."""
_MOST_FLOP = 1.2e9
_MOST_WEIGHTS = 1 << 24
_SEED = 1
Rule = Callable[[random.Random], KernelShape | None]


def catalogue(habits: Habits, *, most: int = 2000) -> tuple[KernelShape, ...]:
    """Up to ``most`` kernels, the operators taking turns."""
    generator = random.Random(_SEED)
    rules = [rule for rule, share in _rules(habits) for _ in range(share)]
    found: dict[tuple[str, tuple[int, ...]], KernelShape] = {}
    for _ in range(20 * most // len(rules)):
        for rule in rules:
            shape = rule(generator)
            if shape is not None:
                found.setdefault((shape.key, shape.sizes), shape)
            if len(found) >= most:
                return tuple(found.values())
    return tuple(found.values())


def epilogues(habits: Habits) -> Iterator[tuple[str, KernelShape, KernelShape]]:
    """Name, kernel without and kernel with each thing that a convolution applies to its results."""
    names = {text.removeprefix("Conv+") for text in habits.fused if text.startswith("Conv+")}
    form = "blocked" if habits.block else "plain"
    for name in sorted(name for name in names if "Add+" not in name and name != "Clip"):
        for sizes in ((64, 64, 28, 28, 1), (32, 64, 40, 40, 1), (128, 96, 20, 20, 1)):
            key = f"Conv 1x1 s1 d1 dense {form}"
            yield (
                name,
                KernelShape(key=key, sizes=sizes),
                KernelShape(key=f"{key} +{name}", sizes=sizes),
            )


def _rules(habits: Habits) -> list[tuple[Rule, int]]:
    """Each rule with how often it takes its turn."""
    form = "blocked" if habits.block else "plain"
    rules: list[tuple[Rule, int]] = [
        (_dense("1x1", "s1 d1", form), 8),
        (_dense("3x3", "s1 d1", form), 8),
        (_dense("3x3", "s2 d1", form), 3),
        (_dense("5x5", "s1 d1", form), 1),
        (_dense("3x3", "s1 d2", form), 1),
        (_dense("1x1", "s2 d1", form), 1),
        (_depthwise("3x3", "s1 d1", form), 3),
        (_depthwise("3x3", "s2 d1", form), 2),
        (_depthwise("5x5", "s1 d1", form), 2),
        (_depthwise("1x1", "s1 d1", form), 1),
        (_stem("direct" if habits.block else "plain"), 3),
        (_grouped(form), 2),
        (_dense("1x1", "s1 d1", "plain", channels=_ODD_CHANNELS), 2),
        (_dense("3x3", "s1 d1", "plain", channels=_ODD_CHANNELS), 1),
        (_depthwise("3x3", "s1 d1", "plain", channels=_ODD_CHANNELS), 1),
        (_depthwise("3x3", "s2 d1", "plain", channels=_ODD_CHANNELS), 1),
        (_product, 2),
        (_classifier, 1),
        (_pool, 3),
        (_joined, 3),
        (_transposed, 2),
        (_softmax, 1),
        (_reduced, 1),
        (_resized, 1),
    ]
    planes = [
        "Add same",
        "Mul same",
        "Mul channel",
        "Add channel",
        "Div scalar",
        "Mul scalar",
        "Sub constant",
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "HardSigmoid",
        "Exp",
        "LRN",
        "BatchNormalization",
        "Pad",
        "QLinearAdd same",
        "View Reshape",
        "GlobalAveragePool",
    ]
    if "Sigmoid*x" in habits.fused:
        planes.append("QuickGelu")
    rules += [(_quantized, 7), (_quantized_stem, 1)]
    if any(text.startswith(QDQ) for text in habits.fused):
        rules += [(_bytes_moved, 3), (_bytes_pooled, 1), (_bytes_multiplied, 1)]
        planes += ["QLinearMul same", "QLinearSigmoid", "QLinearLeakyRelu", "QuantizeLinear",
                   "DequantizeLinear"]  # fmt: skip
    return rules + [(_elementwise(key), 1) for key in planes]


def _image(generator: random.Random, channels: tuple[int, ...] = _CHANNELS) -> tuple[int, int, int]:
    """Channels, height and width of a tensor that a network might have."""
    while True:
        count, side = generator.choice(channels), generator.choice(_SIDES_PX)
        height = side * 3 // 4 if side > 8 and generator.random() < 0.2 else side
        if _LEAST_COUNT <= count * height * side <= _MOST_COUNT:
            return count, height, side


def _dense(kernel: str, window: str, form: str, channels: tuple[int, ...] = _CHANNELS) -> Rule:
    def rule(generator: random.Random) -> KernelShape | None:
        channels_out, height, width = _image(generator, channels)
        index = channels.index(channels_out) + generator.randint(-8, 8)
        channels_in = channels[min(max(0, index), len(channels) - 1)]
        taps = int(kernel[0]) ** 2
        if 2 * channels_in * channels_out * height * width * taps > _MOST_FLOP:
            return None
        if form == "plain" and channels is _ODD_CHANNELS and channels_in % 4 == 0:
            return None
        return KernelShape(
            key=f"Conv {kernel} {window} dense {form}",
            sizes=(channels_in, channels_out, height, width, 1),
        )

    return rule


def _depthwise(kernel: str, window: str, form: str, channels: tuple[int, ...] = _CHANNELS) -> Rule:
    def rule(generator: random.Random) -> KernelShape | None:
        count, height, width = _image(generator, channels)
        if form == "plain" and channels is _ODD_CHANNELS and count % 4 == 0:
            return None
        return KernelShape(
            key=f"Conv {kernel} {window} depthwise {form}",
            sizes=(count, count, height, width, count),
        )

    return rule


def _stem(form: str) -> Rule:
    def rule(generator: random.Random) -> KernelShape:
        window = generator.choice(("3x3 s2 d1", "3x3 s1 d1", "3x3 s2 d1", "7x7 s2 d1", "5x5 s2 d1"))
        side = generator.choice([side for side in _SIDES_PX if side >= 24])
        count = generator.choice([one for one in _CHANNELS if one <= 96])
        return KernelShape(key=f"Conv {window} dense {form}", sizes=(3, count, side, side, 1))

    return rule


def _grouped(form: str) -> Rule:
    def rule(generator: random.Random) -> KernelShape | None:
        each = generator.choice((8, 16, 24, 32, 64, 96, 128, 192))
        groups = generator.choice((2, 2, 3, 4, 8))
        _, height, width = _image(generator)
        channels = each * groups
        if not _LEAST_COUNT <= channels * height * width <= _MOST_COUNT:
            return None
        return KernelShape(
            key=f"Conv {generator.choice(('1x1', '3x3'))} s1 d1 grouped {form}",
            sizes=(channels, channels, height, width, groups),
        )

    return rule


def _quantized(generator: random.Random) -> KernelShape | None:
    kind = generator.choice(
        ("1x1 s1 d1 dense", "1x1 s1 d1 dense", "1x1 s1 d1 dense", "3x3 s1 d1 dense",
         "3x3 s1 d1 dense", "3x3 s2 d1 dense", "5x5 s1 d1 dense", "3x3 s1 d1 depthwise",
         "3x3 s2 d1 depthwise", "5x5 s1 d1 depthwise")
    )  # fmt: skip
    count, height, width = _image(generator)
    other = generator.choice(_CHANNELS)
    channels_in, groups = (count, count) if "depthwise" in kind else (other, 1)
    work_flop = 2 * channels_in // groups * count * height * width * int(kind[0]) ** 2
    if work_flop > _MOST_FLOP or channels_in * height * width > _MOST_COUNT:
        return None
    weights = generator.choice(("", "", " u8"))
    return KernelShape(
        key=f"QLinearConv {kind}{weights}", sizes=(channels_in, count, height, width, groups)
    )


def _quantized_stem(generator: random.Random) -> KernelShape:
    window = generator.choice(("3x3 s2 d1", "3x3 s1 d1", "3x3 s2 d1", "7x7 s2 d1"))
    side = generator.choice([side for side in _SIDES_PX if side >= 24])
    count = generator.choice([one for one in _CHANNELS if one <= 96])
    return KernelShape(key=f"QLinearConv {window} dense", sizes=(3, count, side, side, 1))


def _bytes_moved(generator: random.Random) -> KernelShape:
    kind = generator.choice(
        ("Transpose 0231", "Transpose 0312", "Transpose 0231", "Transpose 0312", "Transpose 02134",
         "Transpose 021", "QLinearConcat", "QLinearConcat", "QLinearConcat", "Split", "Slice",
         "Resize nearest asymmetric floor x2x2", "Resize linear half_pixel x2x2")
    )  # fmt: skip
    channels, height, width = _image(generator)
    count = channels * height * width
    if kind.startswith("Resize"):
        key = f"{kind} last" if "linear" in kind else f"{kind} u8 last"
        return KernelShape(key=key, sizes=(channels, 2 * height, 2 * width))
    if kind.startswith("Transpose"):
        return KernelShape(
            key=f"{kind} u8", sizes=_transposed_sizes(kind[10:], channels, height, width)
        )
    parts = generator.choice((2, 2, 3, 4))
    if kind == "QLinearConcat":
        # By the axis whose parts lie next to each other: whole planes, or channels of a pixel.
        key, run = generator.choice((("axis1", count), ("axis3", channels), ("axis3", channels)))
        return KernelShape(key=f"{kind} {key}", sizes=(count, run, parts))
    run = generator.choice((count, channels, 4))
    count -= count % run
    return KernelShape(key=f"{kind} u8", sizes=(count, run, 1 if kind == "Slice" else 2))


def _bytes_pooled(generator: random.Random) -> KernelShape:
    window = generator.choice(
        ("NhwcMaxPool 3x3 s2 d1", "NhwcMaxPool 2x2 s2 d1", "NhwcMaxPool 5x5 s1 d1",
         "NhwcMaxPool 3x3 s1 d1", "NhwcMaxPool 9x9 s1 d1", "QLinearAveragePool 3x3 s2 d1",
         "QLinearAveragePool 3x3 s2 d1 plain", "QLinearGlobalAveragePool")
    )  # fmt: skip
    channels, height, width = _image(generator)
    if window == "QLinearGlobalAveragePool":
        return KernelShape(key=window, sizes=(channels, height, width))
    return KernelShape(key=window, sizes=(channels, max(1, height // 2), max(1, width // 2)))


def _bytes_multiplied(generator: random.Random) -> KernelShape:
    kind = generator.choice(("QGemm", "QGemm", "QLinearMatMul", "QLinearSoftmax"))
    if kind == "QLinearSoftmax":
        columns = generator.choice((2, 10, 80, 1000))
        return KernelShape(key=kind, sizes=(generator.choice((1, 100, 484, 2100)), columns))
    shape = _classifier(generator) if generator.random() < 0.5 else _product(generator)
    return KernelShape(key=kind, sizes=shape.sizes)


def _product(generator: random.Random) -> KernelShape:
    inner = generator.choice((*_CHANNELS, 1024, 2048, 4096))
    columns = generator.choice((*_CHANNELS, 10, 85, 1000, 1000, 4096))
    rows = generator.choice((1, 1, 1, 49, 100, 196, 400))
    key = "Gemm" if rows == 1 else "MatMul"
    return KernelShape(key=key, sizes=(1, rows, inner, columns))


def _classifier(generator: random.Random) -> KernelShape:
    """The last layers of classifiers: one row, and weights that no cache holds."""
    inner = generator.choice((512, 1024, 1280, 2048, 4096, 6272, 9216))
    columns = generator.choice((10, 100, 1000, 1000, 1024, 2048, 4096))
    return KernelShape(key="Gemm", sizes=(1, 1, inner, min(columns, _MOST_WEIGHTS // inner)))


def _pool(generator: random.Random) -> KernelShape:
    window = generator.choice(("MaxPool 3x3 s2 d1", "MaxPool 2x2 s2 d1", "MaxPool 5x5 s1 d1",
                               "MaxPool 3x3 s1 d1", "AveragePool 3x3 s2 d1", "MaxPool 9x9 s1 d1",
                               "MaxPool 13x13 s1 d1",
                               "AveragePool 7x7 s1 d1", "AveragePool 2x2 s2 d1"))  # fmt: skip
    channels, height, width = _image(generator)
    while channels % 8:
        channels, height, width = _image(generator)
    return KernelShape(key=window, sizes=(channels, max(1, height // 2), max(1, width // 2)))


def _joined(generator: random.Random) -> KernelShape:
    kind = generator.choice(("Concat axis1", "Concat axis1", "Concat axis2", "Slice", "Split",
                             "Gather"))  # fmt: skip
    channels, height, width = _image(generator)
    count, parts = channels * height * width, generator.choice((2, 2, 3, 4))
    run = count if kind in ("Concat axis1", "Split") else channels
    if kind == "Slice" and generator.random() < 0.4:
        run = 1
    parts = parts if kind.startswith("Concat") or kind == "Split" else 1
    return KernelShape(key=kind, sizes=(count, run, parts))


def _transposed(generator: random.Random) -> KernelShape:
    order = generator.choice(("0231", "02134", "021", "102", "0312"))
    return KernelShape(key=f"Transpose {order}", sizes=_transposed_sizes(order, *_image(generator)))


def _transposed_sizes(order: str, channels: int, height: int, width: int) -> tuple[int, ...]:
    pixels = height * width
    return {
        "0231": (1, channels, height, width), "0312": (1, height, width, channels),
        "02134": (1, 2, max(1, channels // 2), height, width), "021": (1, channels, pixels),
        "102": (channels, 2, max(1, pixels // 2)),
    }[order]  # fmt: skip


def _softmax(generator: random.Random) -> KernelShape:
    columns = generator.choice((2, 8, 16, 80, 1000))
    return KernelShape(key="Softmax", sizes=(generator.choice((1, 100, 400, 2100, 6400)), columns))


def _reduced(generator: random.Random) -> KernelShape:
    channels, height, width = _image(generator)
    return KernelShape(key="ReduceMean", sizes=(channels, height * width))


def _resized(generator: random.Random) -> KernelShape:
    how = generator.choice(("nearest asymmetric floor x2x2", "linear half_pixel x2x2"))
    channels, height, width = _image(generator)
    while channels % 8:
        channels, height, width = _image(generator)
    return KernelShape(key=f"Resize {how}", sizes=(channels, 2 * height, 2 * width))


def _elementwise(key: str) -> Rule:
    def rule(generator: random.Random) -> KernelShape:
        channels, height, width = _image(generator)
        if key == "GlobalAveragePool":
            return KernelShape(key=key, sizes=(channels, height, width))
        return KernelShape(key=key, sizes=(channels, height * width))

    return rule

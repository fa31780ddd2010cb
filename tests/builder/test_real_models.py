"""Real models that nobody here made: each loads, costs what is known, and splits exactly."""

import random
import re
from pathlib import Path

import pytest

from edgekit.builder.compare import differences
from edgekit.builder.load import LoadedModel, load_model
from edgekit.builder.probe import run_proto, seeded_inputs, to_bytes
from edgekit.builder.split import split_model
from edgekit.builder.verify import random_labelled, verify_chain
from edgekit.builder.workload import workload_of
from edgekit.bundle.bundle import open_bundle
from edgekit.errors import ConfigError, PlanError
from edgekit.planner.balance import choose_cuts
from edgekit.planner.cuts import legal_cuts, partition, resolve_cut
from edgekit.planner.dag import Dag
from edgekit.planner.kernel_groups import inner_names
from edgekit.spec.fleet import local_fleet
from edgekit.spec.plan import Cut
from edgekit.spec.workload import Workload

DATA = Path(__file__).parents[2] / "../shared/data"
_HEAVY = {"light_vgg19", "light_bvlc_alexnet"}
"""Made weights of 0.5 GB: minutes where the others take seconds."""
_MATRIX_OPS = {"Conv", "Gemm", "MatMul", "QLinearConv"}


def documented() -> dict[str, tuple[float, int]]:
    """MMAC and parameters per file, from MODELS.md."""
    text = (DATA / "MODELS.md").read_text() if (DATA / "MODELS.md").is_file() else ""
    rows = re.findall(r"^\| (models/\S+\.onnx) \|(.+)$", text, re.MULTILINE)
    found = {}
    for path, rest in rows:
        cells = [cell.strip().replace(",", "") for cell in rest.split("|")]
        found[path] = (float(cells[4]), int(cells[3]) if cells[3].isdigit() else 0)
    return found


FILES = sorted(documented())
needs_data = pytest.mark.skipif(not FILES, reason="needs ../shared/data")
pytestmark = needs_data


def load(file: str) -> tuple[LoadedModel, Workload]:
    shapes = {"input": (1, 3, 320, 320)} if "dynamic" in file else None
    loaded = load_model(DATA / file, input_shapes=shapes)
    return loaded, workload_of(loaded)


def light(files: list[str]) -> list[str]:
    return [file for file in files if Path(file).stem not in _HEAVY]


@pytest.mark.parametrize("file", light(FILES), ids=lambda file: Path(file).stem)
def test_a_real_model_loads_and_costs_what_is_documented(file: str) -> None:
    """Multiply-adds of Conv, Gemm and MatMul, and parameters, as MODELS.md counts them."""
    loaded, workload = load(file)
    mmac, parameter_count = documented()[file]
    work_flop = sum(op.work_flop for op in workload.ops if op.op_type in _MATRIX_OPS)
    # The table rounds to 0.1 MMAC; GoogLeNet's is 1.0 short, the size of its last Gemm.
    allowed = 1.1 if "inception" in file else 0.06
    assert work_flop / 2e6 == pytest.approx(mmac, abs=allowed)
    if parameter_count:
        assert workload.parameter_count == pytest.approx(parameter_count, rel=5e-4)
    assert (
        not {"Shape", "Gather", "Constant"} & {node.op_type for node in loaded.proto.graph.node}
        or "FastestDet" in file
    )  # whose channel shuffle really gathers
    assert all(spec.element_count for spec in workload.tensors)
    # UltraFace's old format lets callers override every weight, so the file itself runs unfused.
    assert any("moved the outputs" in note for note in loaded.notes) == ("ultraface" in file)


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in FILES if f not in light(FILES)])
def test_a_heavy_real_model_loads_and_costs_what_is_documented(file: str) -> None:
    """As above; half a gigabyte of weights is made at every run."""
    test_a_real_model_loads_and_costs_what_is_documented(file)


def test_open_height_and_width_are_refused_with_the_flag() -> None:
    """YuNet with dynamic H/W."""
    with pytest.raises(ConfigError, match="--input input=1x3x320x320"):
        load_model(DATA / "models/yunet/yunet_n_dynamic.onnx")


def test_the_dynamic_export_becomes_the_fixed_one() -> None:
    """Its Shape, Gather, Unsqueeze and Concat chains vanish; the same work is left."""
    dynamic, fixed = (load(f"models/yunet/yunet_n_{kind}.onnx") for kind in ("dynamic", "320_320"))
    kinds = [sorted(op.op_type for op in workload.ops) for _, workload in (dynamic, fixed)]
    assert kinds[0] == kinds[1]
    inputs = seeded_inputs(fixed[0].inputs, 1)
    outputs = [run_proto(one.proto, inputs, optimization="extended") for one, _ in (dynamic, fixed)]
    found = zip(outputs[0].values(), outputs[1].values(), strict=True)
    assert all((one == other).all() for one, other in found)


def verified(
    loaded: LoadedModel, workload: Workload, cuts: tuple[Cut, ...], folder: Path
) -> tuple[bool, float]:
    """Whether all outputs were bit-equal at extended, and the largest error at all."""
    paths = []
    for index, shard in enumerate(split_model(loaded, workload, cuts)):
        paths.append(folder / f"shard-{index}.onnx")
        paths[-1].write_bytes(to_bytes(shard))
    leaving = [*(cut.names for cut in cuts), loaded.parts.output_names]
    report = verify_chain(loaded, paths, leaving, random_labelled(loaded.inputs, [3]))
    equal, compared = report.bit_equal("extended")
    assert report.is_ok
    return equal == compared, report.worst("all")


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if re.search(r"Fastest|yunet_s|slim|v2_quant|resnet20|squeeze", f)],
    ids=lambda file: Path(file).stem,
)
def test_a_real_model_split_over_three_devices_is_bit_equal(file: str, tmp_path: Path) -> None:
    """At the cuts that the automatic rule chooses."""
    loaded, workload = load(file)
    cuts = choose_cuts(workload, local_fleet(3), "auto")
    assert len(partition(workload, cuts)) == 3
    bit_equal, worst = verified(loaded, workload, cuts, tmp_path)
    assert bit_equal
    assert worst <= 1e-5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", light(FILES), ids=lambda file: Path(file).stem)
def test_cuts_outside_kernels_are_bit_equal_and_all_are_within_the_limit(
    file: str, tmp_path: Path
) -> None:
    """All single cuts, 24 multi-tensor cuts, 8 random chains of three shards."""
    loaded, workload = load(file)
    inside = inner_names(Dag(workload))
    cuts = legal_cuts(workload, max_count=3000).cuts
    chooser = random.Random(0)
    single = [cut for cut in cuts if len(cut.tensors) == 1]
    multi = [cut for cut in cuts if len(cut.tensors) > 1]
    multi = chooser.sample(multi, min(24, len(multi)))
    chains: list[tuple[Cut, ...]] = [(cut,) for cut in (*single, *multi)]
    while len(chains) < len(single) + len(multi) + 8:
        pair = tuple(sorted(chooser.sample(cuts, 2), key=lambda cut: cut.op_count_before))
        try:
            partition(workload, pair)
        except PlanError:
            continue
        chains.append(pair)
    for chain in chains:
        assert all(resolve_cut(workload, cut.names) == cut for cut in chain)
        bit_equal, worst = verified(loaded, workload, chain, tmp_path)
        assert bit_equal or any(inside & set(cut.names) for cut in chain), chain
        assert worst <= 1e-5


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("nanodet_m/nanodet_m_320", 5532),
        pytest.param("yolox_nano/yolox_nano_416x416", 12454, marks=pytest.mark.slow),
    ],
)
def test_all_cuts_of_a_large_real_model_are_found(name: str, count: int) -> None:
    """Nothing is missing up to four tensors, and every one is accepted by name."""
    _, workload = load(f"models/{name}.onnx")
    found = legal_cuts(workload)
    assert found.is_complete
    assert len(found.cuts) == count
    for cut in found.cuts[::500]:
        assert resolve_cut(workload, cut.names) == cut


def test_a_bundle_of_a_real_model_opens(tmp_path: Path) -> None:
    """Card recognised, golden vectors in place."""
    from edgekit.builder.build import build_bundle
    from edgekit.vision.cards import resolve_card

    path = DATA / "models/light_person_detector/light_person_detector.onnx"
    result = build_bundle(
        path,
        fleet=local_fleet(2),
        out=tmp_path / "b",
        card=lambda loaded: resolve_card(
            path, decoder=None, inputs=loaded.inputs, outputs=loaded.outputs
        )[0],
    )
    bundle = open_bundle(tmp_path / "b")
    assert bundle.deployment_id == result.bundle.deployment_id
    assert bundle.card is not None
    golden = bundle.golden(1)
    assert golden is not None
    whole = run_proto(
        load(str(path.relative_to(DATA)))[0].proto,
        seeded_inputs(bundle.plan.model_inputs, 0),
        optimization="extended",
    )
    assert all(found.bit_equal for found in differences(whole, golden.outputs).values())

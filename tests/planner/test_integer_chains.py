"""Quantised models are lowered to what a runtime launches for them: one kernel a chain."""

import pytest

from edgekit.planner.channels_last import HABIT
from edgekit.planner.integer_chains import QDQ, SIGNED, SIGNED_UNFORKED
from edgekit.planner.launches import Habits, launches_of
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.workload import KernelShape, OpCost, Workload

CHAINS = {f"{QDQ}{kind}" for kind in ("Conv", "Conv+Relu", "Add", "Sigmoid", "Mul", "Concat")}
JOINS = Habits(fused=frozenset(CHAINS), block=8)
LAST = Habits(fused=frozenset({*CHAINS, HABIT}), block=8)
WEIGHTS = (
    TensorSpec(name="w", dtype="int8", shape=(16, 16, 3, 3)),
    TensorSpec(name="b", dtype="int32", shape=(16,)),
)
KEYS = {"Conv": ("Conv 3x3 s1 d1 dense", (16, 16, 8, 8, 1)), "Add": ("Add same", (16, 64)),
        "Mul": ("Mul same", (16, 64)), "Concat": ("Concat axis1", (2048, 2048, 2)),
        "Reshape": ("View Reshape", (1024,))}  # fmt: skip


def op(kind: str, inputs: str, output: str, weights: tuple[TensorSpec, ...] = ()) -> OpCost:
    key, sizes = KEYS.get(kind, (kind, (16, 64)))
    return OpCost(
        name=output, op_type=kind, inputs=tuple(inputs.split()), outputs=(output,), work_flop=1,
        traffic_bytes=1, weight_bytes=sum(one.nbytes for one in weights), parameter_count=0,
        kernel=KernelShape(key=key, sizes=sizes), dequantized=weights,
    )  # fmt: skip


def quantized(kind: str, inputs: str, output: str) -> list[OpCost]:
    """The operator between DequantizeLinears of its inputs and a QuantizeLinear."""
    weights = WEIGHTS if kind == "Conv" else ()
    floats = " ".join(f"{name}_{output}" for name in inputs.split())
    return [
        *(op("DequantizeLinear", name, f"{name}_{output}") for name in inputs.split()),
        op(kind, floats, f"{output}_float", weights),
        op("QuantizeLinear", f"{output}_float", output),
    ]


def workload(*ops: OpCost, outputs: str, dtype: str = "uint8") -> Workload:
    names = {name for one in ops for name in (*one.inputs, *one.outputs)}
    integer = {one.outputs[0] for one in ops if one.op_type == "QuantizeLinear"}
    integer |= {one.inputs[0] for one in ops if one.op_type == "DequantizeLinear"}
    return Workload(
        model="m", model_sha256="0", ops=ops, inputs=("x",), outputs=tuple(outputs.split()),
        tensors=tuple(
            TensorSpec(name=name, dtype=dtype if name in integer else "float32",
                       shape=(1, 32 if name.startswith("wide") else 16, 8, 8))
            for name in sorted(names)
        ),
    )  # fmt: skip


def launched(model: Workload, habits: Habits = JOINS) -> list[str]:
    return [one.key.split()[0] for one in launches_of(model, range(len(model.ops)), habits)]


def test_a_chain_that_the_runtime_joins_is_one_integer_kernel() -> None:
    """Under the key that models with integer operators of their own have."""
    model = workload(*quantized("Conv", "x", "y"), outputs="y")
    (launch,) = launches_of(model, [0, 1, 2], JOINS)
    assert launch.key == "QLinearConv 3x3 s1 d1 dense"
    assert launch.op == 1


def test_unsigned_weights_are_another_kernel() -> None:
    """Products of two unsigned bytes take another path."""
    chain = quantized("Conv", "x", "y")
    unsigned = (TensorSpec(name="w", dtype="uint8", shape=(16, 16, 3, 3)), WEIGHTS[1])
    model = workload(chain[0], op("Conv", "x_y", "y_float", unsigned), chain[2], outputs="y")
    assert launches_of(model, [0, 1, 2], JOINS)[0].key == "QLinearConv 3x3 s1 d1 dense u8"


def test_a_runtime_that_joins_nothing_dequantises_the_weights_at_every_run() -> None:
    """And its convolution, whose weights are not constant, cannot be blocked."""
    model = workload(*quantized("Conv", "x", "y"), outputs="y")
    habits = Habits(fused=frozenset({"Conv+Relu"}), block=8)
    assert launched(model, habits) == ["DequantizeLinear"] * 3 + ["Conv", "QuantizeLinear"]
    assert launches_of(model, [0, 1, 2], habits)[3].key.endswith("plain")


def test_an_activation_in_between_joins_where_the_runtime_says_so() -> None:
    """A Relu that the quantiser did not drop."""
    chain = quantized("Conv", "x", "y")
    relu = op("Relu", "y_float", "r")
    model = workload(*chain[:2], relu, op("QuantizeLinear", "r", "y"), outputs="y")
    assert launched(model) == ["QLinearConv"]
    assert "Conv" in launched(model, Habits(fused=frozenset({f"{QDQ}Conv"})))


def test_a_cut_between_operator_and_quantisation_parts_the_chain() -> None:
    """The float tensor at the cut must exist, and the weights are dequantised for it."""
    model = workload(*quantized("Conv", "x", "y"), outputs="y")
    keys = [one.key.split()[0] for one in launches_of(model, [0, 1], JOINS)]
    assert keys == ["DequantizeLinear"] * 3 + ["Conv"]


def test_a_reader_that_needs_floats_gets_a_dequantisation_of_its_own() -> None:
    """The other readers take the integers."""
    chain = quantized("Sigmoid", "x", "y")
    model = workload(*chain, op("Exp", "x_y", "e"), outputs="y e")
    assert launched(model) == ["DequantizeLinear", "QLinearSigmoid", "Exp"]


@pytest.mark.parametrize(("habit", "forked"), [("", 0), (SIGNED_UNFORKED, 1), (SIGNED, 3)])
def test_signed_activations_join_as_the_runtime_takes_them(habit: str, forked: int) -> None:
    """Not at all; where one operator reads the tensor; or always."""
    ops = [op("QuantizeLinear", "f", "a"), *quantized("Sigmoid", "a", "b")]
    ops += [*quantized("Sigmoid", "b", "c"), *quantized("Add", "b c", "d")]
    ends = [*quantized("Sigmoid", "d", "e"), op("DequantizeLinear", "e", "y")]
    model = workload(*ops, *ends, outputs="y", dtype="int8")
    keys = launched(model, Habits(fused=frozenset({*CHAINS, habit})))
    assert sum(key == "QLinearSigmoid" for key in keys) == forked
    assert (keys.count("QLinearAdd") == 1) == (habit == SIGNED)


def test_integer_convolutions_run_with_the_channels_last() -> None:
    """One transposition on either side, and none in between."""
    ops = [*quantized("Conv", "x", "a"), *quantized("Sigmoid", "a", "s")]
    ops += [*quantized("Mul", "a s", "m"), *quantized("Conv", "m", "y")]
    keys = launched(workload(*ops, outputs="y"), LAST)
    assert keys == ["Transpose", "QLinearConv", "QLinearSigmoid", "QLinearMul", "QLinearConv",
                    "Transpose"]  # fmt: skip


def test_what_leads_to_no_convolution_keeps_the_models_layout() -> None:
    """One transposition more in front of it is one less behind it: the runtime leaves it."""
    ops = [*quantized("Conv", "x", "a"), *quantized("Sigmoid", "a", "y")]
    assert launched(workload(*ops, outputs="y"), LAST) == [
        "Transpose", "QLinearConv", "Transpose", "QLinearSigmoid"
    ]  # fmt: skip


def test_two_transposed_inputs_become_one_transposed_result() -> None:
    """Concat saves one transposition of two, even at the end of a model."""
    ops = [*quantized("Conv", "x", "a"), *quantized("Conv", "a", "b")]
    model = workload(*ops, *quantized("Concat", "a b", "wide"), outputs="wide")
    found = launches_of(model, range(len(model.ops)), LAST)
    assert [one.key.split()[0] for one in found] == [
        "Transpose", "QLinearConv", "QLinearConv", "QLinearConcat", "Transpose"
    ]  # fmt: skip
    assert found[3].sizes == (2048, 32, 2)


def test_a_layer_and_its_activation_round_once_where_the_runtime_joins_them() -> None:
    """The quantizer marks the tensor between too, so that every float keeps its name."""
    twice = [
        *quantized("Conv", "x", "y"),
        op("DequantizeLinear", "y", "y_back"),
        op("Relu", "y_back", "z_float"),
        op("QuantizeLinear", "z_float", "z"),
    ]
    assert launched(workload(*twice, outputs="z")) == ["QLinearConv"]
    alone = Habits(fused=frozenset({f"{QDQ}Conv"}), block=8)
    assert "Relu" in launched(workload(*twice, outputs="z"), alone)
    # What leaves the shard, or is read again, must exist as it was marked.
    assert "Relu" in launched(workload(*twice, outputs="y z"))
    again = quantized("Sigmoid", "y", "s")
    assert "Relu" in launched(workload(*twice, *again, outputs="z s"))

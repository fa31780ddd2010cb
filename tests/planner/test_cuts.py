"""Legal cuts: all that a brute-force search finds, and clear refusals of those that are none."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import PlanError
from edgekit.planner.cuts import legal_cuts, names_in, partition, resolve_cut
from edgekit.spec.workload import Workload
from tests.graphs import random_workloads, workload

RESIDUAL = workload(
    [
        ("Conv", ["image"], ["a"]),
        ("Relu", ["a"], ["early"]),
        ("Conv", ["a"], ["b"]),
        ("Add", ["a", "b"], ["sum"]),
        ("Tanh", ["sum"], ["late"]),
    ],
    outputs=["early", "late"],
)


def brute_force(model: Workload) -> dict[tuple[str, ...], int]:
    """Crossing tensors (in workload order) and operator count of every closed set of operators."""
    found = {}
    count = len(model.ops)
    maker = {name: i for i, op in enumerate(model.ops) for name in op.outputs}
    for chosen in itertools.product([False, True], repeat=count):
        above = {i for i in range(count) if chosen[i]}
        closed = all(maker.get(n, i) in above for i in above for n in model.ops[i].inputs)
        if not closed or not above or len(above) == count:
            continue
        exists = set(model.inputs) | {n for i in above for n in model.ops[i].outputs}
        needed = set(model.outputs)
        needed |= {n for i in range(count) if i not in above for n in model.ops[i].inputs}
        names = tuple(spec.name for spec in model.tensors if spec.name in exists & needed)
        found[names] = len(above)
    return found


@settings(max_examples=150, deadline=None)
@given(random_workloads(), st.integers(1, 5))
def test_every_legal_cut_up_to_the_width_is_found_and_no_other(
    model: Workload, max_tensors: int
) -> None:
    """Completeness is what lets the planner trust "no better cut exists"."""
    found = legal_cuts(model, max_tensors=max_tensors)
    expected = {n: c for n, c in brute_force(model).items() if len(n) <= max_tensors}
    assert {cut.names: cut.op_count_before for cut in found.cuts} == expected
    assert len(found.cuts) == len(expected)
    assert found.is_complete


@settings(max_examples=60, deadline=None)
@given(random_workloads())
def test_every_legal_cut_is_resolved_from_its_names_in_any_order(model: Workload) -> None:
    """What inspect lists, build accepts."""
    for cut in legal_cuts(model, max_tensors=6).cuts:
        assert resolve_cut(model, cut.names[::-1]) == cut


@settings(max_examples=60, deadline=None)
@given(random_workloads(), st.data())
def test_the_correction_in_a_refusal_is_a_legal_cut(model: Workload, data: st.DataObject) -> None:
    """The hint must work when it is copied and pasted."""
    names = [spec.name for spec in model.tensors]
    asked = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    try:
        cut = resolve_cut(model, asked)
    except PlanError as error:
        if error.hint.startswith("--cut "):
            assert resolve_cut(model, names_in(model, error.hint.removeprefix("--cut ")))
    else:
        assert set(cut.names) == set(asked)


@settings(max_examples=60, deadline=None)
@given(random_workloads())
def test_a_partition_gives_every_operator_to_exactly_one_shard(model: Workload) -> None:
    """Nothing is lost and nothing runs twice."""
    cuts = legal_cuts(model, max_tensors=6).cuts
    chain = []
    for cut in cuts:
        try:
            partition(model, [*chain, cut])
        except PlanError:
            continue
        chain.append(cut)
    shards = partition(model, chain)
    assert len(shards) == len(chain) + 1 and all(shards)
    assert sorted(itertools.chain(*shards)) == list(range(len(model.ops)))


def test_cuts_are_listed_from_the_input_to_the_output() -> None:
    """A reader scans them in the order of the model."""
    cuts = legal_cuts(RESIDUAL).cuts
    counts = [cut.op_count_before for cut in cuts]
    assert counts == sorted(counts)
    assert cuts[0].names == ("a",)
    assert cuts[-1].names == ("early", "sum")
    assert cuts[0].work_flop_before == 100


def test_a_bounded_search_says_so_and_keeps_all_narrow_cuts() -> None:
    """A large model must not hide that its list is incomplete."""
    wide = workload(
        [("Relu", ["image"], [f"t{i}"]) for i in range(9)]
        + [("Concat", [f"t{i}" for i in range(9)], ["all"]), ("Relu", ["all"], ["end"])],
        outputs=["end"],
    )
    found = legal_cuts(wide, max_tensors=4, max_count=5)
    assert not found.is_complete
    assert found.complete_to < 4
    assert ("all",) in {cut.names for cut in found.cuts}
    assert found.single_count == 1


def test_a_misspelt_tensor_is_refused_with_the_near_name() -> None:
    """The commonest mistake at the command line."""
    with pytest.raises(PlanError) as caught:
        resolve_cut(RESIDUAL, ["erly"])
    assert "'erly'" in caught.value.what
    assert "'early'" in caught.value.hint


def test_a_cut_through_a_skip_connection_is_refused_with_the_whole_cut() -> None:
    """One tensor of several looks like a cut, and is none."""
    with pytest.raises(PlanError) as caught:
        resolve_cut(RESIDUAL, ["b"])
    assert "a must cross too" in caught.value.what
    assert caught.value.hint == "--cut a,b"


def test_a_tensor_that_nothing_needs_later_is_refused() -> None:
    """Sending it would be waste that looks like intent."""
    with pytest.raises(PlanError) as caught:
        resolve_cut(RESIDUAL, ["sum", "early", "b"])
    assert "needs b" in caught.value.what
    assert caught.value.hint == "--cut early,sum"


@pytest.mark.parametrize(
    ("names", "words"),
    [(["image"], "first shard without work"), (["early", "late"], "last shard without work")],
)
def test_a_cut_that_leaves_a_shard_without_work_is_refused(names: list[str], words: str) -> None:
    """Nobody needs a device that only forwards."""
    with pytest.raises(PlanError, match=words):
        resolve_cut(RESIDUAL, names)


def test_a_weight_cannot_cross() -> None:
    """Weights belong to the shard that uses them."""
    with pytest.raises(PlanError, match="weights and constants cannot cross"):
        resolve_cut(RESIDUAL, ["conv1.weight"])


def test_cuts_in_the_wrong_order_are_refused() -> None:
    """Frames visit the devices in one direction."""
    early, late = resolve_cut(RESIDUAL, ["a"]), resolve_cut(RESIDUAL, ["early", "sum"])
    assert len(partition(RESIDUAL, [early, late])) == 3
    with pytest.raises(PlanError, match="does not lie below"):
        partition(RESIDUAL, [late, early])
    with pytest.raises(PlanError, match="without work"):
        partition(RESIDUAL, [early, early])


def test_a_name_with_a_comma_in_it_is_one_tensor() -> None:
    """ONNX allows any text as a name."""
    odd = workload([("Relu", ["image"], ["a,b"]), ("Relu", ["a,b"], ["end"])], outputs=["end"])
    assert names_in(odd, "a,b") == ("a,b",)
    assert names_in(odd, " x , y ") == ("x", "y")

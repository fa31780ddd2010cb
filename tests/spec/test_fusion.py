"""Which branches stay live, in the words of a user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.spec.fusion import (
    S3,
    S3_S1,
    S3_SS,
    S3_SS_S1,
    STRATEGIES,
    FusionRule,
    FusionStrategy,
    choose_strategies,
    parse_strategy,
)

KINDS = st.lists(
    st.sampled_from(["identity", "1x1", "pool", "copy", "3x3", "5x5", "1x7"]), unique=True
)


def test_the_four_strategies_of_the_paper_have_its_names() -> None:
    assert [str(strategy) for strategy in STRATEGIES] == ["S3", "S3+Ss", "S3+S1", "S3+Ss+S1"]


@given(KINDS)
def test_every_strategy_is_read_back_from_its_name(kinds: list[str]) -> None:
    strategy = FusionStrategy(live=tuple(kinds))
    again = parse_strategy(str(strategy))
    assert set(again.live) == set(kinds)
    assert str(again) == str(strategy)


def test_order_and_case_of_branches_do_not_matter() -> None:
    assert parse_strategy("s3+s1+SS") == S3_SS_S1


@pytest.mark.parametrize("text", ["", "S1", "S3+", "S3+Sx", "S3+Ss+Ss", "S3+3x3", "S3+S0x1"])
def test_an_unknown_strategy_is_refused_with_what_can_be_written(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_strategy(text)
    assert "S3+Ss" in str(caught.value.hint)


def test_a_kind_that_is_no_branch_is_refused() -> None:
    with pytest.raises(ConfigError, match="no kind"):
        FusionStrategy(live=("shortcut",))


def test_the_last_rule_that_names_a_block_wins() -> None:
    names = ["stem", "stage1.0", "stage1.1", "stage2.0"]
    rules = [
        FusionRule(strategy=S3_SS),
        FusionRule(strategy=S3_S1, blocks="stage1.*"),
        FusionRule(strategy=S3, blocks="0, 3"),
    ]
    assert list(choose_strategies(names, rules).values()) == [S3, S3_S1, S3_S1, S3]


def test_a_range_includes_both_ends() -> None:
    names = ["a", "b", "c", "d"]
    chosen = choose_strategies(names, [FusionRule(strategy=S3_SS, blocks="1-2")])
    assert [name for name in names if chosen[name] == S3_SS] == ["b", "c"]


@pytest.mark.parametrize("blocks", ["4", "2-9", "stage9.*", ""])
def test_a_rule_that_matches_no_block_is_refused(blocks: str) -> None:
    """A typing error must not silently fold everything."""
    with pytest.raises(ConfigError, match="matches none"):
        choose_strategies(["a", "b"], [FusionRule(strategy=S3_SS, blocks=blocks)])


def test_a_model_without_blocks_takes_any_rule_for_all_blocks() -> None:
    """A device's strategy is for all models; one without blocks has nothing to choose."""
    assert choose_strategies([], [FusionRule(strategy=S3_SS)]) == {}

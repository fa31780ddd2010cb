"""Topics and filters: which are valid, and which match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edgekit.errors import ConfigError
from edgekit.transport.mqtt_port import check_filter, check_topic, is_match

levels = st.sampled_from(["a", "b", "", "$SYS", "edgekit"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(
        st.lists(st.one_of(levels, st.just("+")), min_size=1, max_size=4),
        st.sampled_from(["", "#"]),
    )
    .map(lambda parts: "/".join([*parts[0], *filter(None, [parts[1]])]))
    .filter(bool)
)


@given(filters, topics)
def test_matching_agrees_with_the_client_library(topic_filter: str, topic: str) -> None:
    assert is_match(topic_filter, topic) == topic_matches_sub(topic_filter, topic)


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#", "a\0b", "x" * 70_000])
def test_what_is_no_topic_is_refused(topic: str) -> None:
    with pytest.raises(ConfigError, match="is not an MQTT topic"):
        check_topic(topic)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+/b", "a/b#", "##", "a\0", "x" * 70_000])
def test_what_is_no_filter_is_refused(topic_filter: str) -> None:
    with pytest.raises(ConfigError, match="is not an MQTT topic filter"):
        check_filter(topic_filter)


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/+/b", "+/+", "a/#", "/a", "$SYS/#"])
def test_what_is_a_filter_is_taken(topic_filter: str) -> None:
    check_filter(topic_filter)

"""edgekit link, as a user meets it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.link import command as link
from edgekit.errors import ConfigError, EdgeKitError, LinkError
from edgekit.spec.base import load
from edgekit.spec.profile import LinkReport
from edgekit.transport.probe_responder import ProbeResponder


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(link, list(map(str, arguments)))
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def there() -> Iterator[str]:
    responder = ProbeResponder("127.0.0.1", 0, name="edge-b")
    yield f"127.0.0.1:{responder.address[1]}"
    responder.close()


@pytest.mark.integration
def test_a_probe_of_the_loopback_is_sane_and_saved(there: str, tmp_path: Path) -> None:
    """Both directions, plausible numbers, and a file that loads as what was printed."""
    saved = tmp_path / "link.toml"
    result = run(there, "--name", "edge-a", "--duration", 1, "--json", "--save", saved)
    document = json.loads(result.stdout)
    ways = [(one["source"], one["target"]) for one in document["link"]]
    assert ways == [("edge-a", "edge-b"), ("edge-b", "edge-a")]
    for one in document["link"]:
        assert one["bandwidth_bytes_per_s"] > 10e6
        assert 0 < one["rtt_p50_s"] <= one["rtt_p99_s"] < 1
        assert one["loss"] < 0.5
    report = load(saved, LinkReport)
    assert [one.bandwidth_bytes_per_s for one in report.link] == [
        one["bandwidth_bytes_per_s"] for one in document["link"]
    ]
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.integration
def test_the_table_says_what_an_activation_would_take(there: str) -> None:
    output = run(there, "--name", "edge-a", "--duration", 1).output
    assert "edge-a to edge-b" in output
    assert "edge-b to edge-a" in output
    assert "500 kB take" in output
    assert re.search(r"\d ms|\d us", output)


@pytest.mark.integration
def test_a_failed_probe_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    """Half a report would be planned with."""
    saved = tmp_path / "link.json"
    saved.write_text("old")
    with pytest.raises(LinkError, match="nothing listens"):
        run("127.0.0.1:1", "--save", saved)
    assert saved.read_text() == "old"
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "no host"),
        (["--serve", "edge-b"], "HOST means nothing with --serve"),
        (["--serve", "--json"], "--json means nothing with --serve"),
        (["--serve", "--save", "x.toml"], "--save means nothing with --serve"),
        (["edge-b", "--port", "7000"], "--port means nothing without --serve"),
        (["edge-b", "--bind", "::"], "--bind means nothing without --serve"),
        (["edge b"], "is not a host"),
        (["edge-b:0"], "is not a host"),
        (["edge-b:65536"], "is not a host"),
        (["edge-b:http"], "is not a host"),
        (["[::1"], "is not a host"),
        (["edge-b", "--save", "no/such/folder/x.toml"], "cannot write"),
        (["edge-b", "--save", "/"], "cannot write"),
        (["edge-b", "--certificate", "a.pem"], "belong together"),
        (["edge-b", "--certificate", "a", "--key", "b", "--authority", "c"], "no certificate file"),
        (["--serve", "--bind", "192.0.2.1"], "cannot listen"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: list[str], what: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(what)) as caught:
        run(*arguments)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["::1", "[::1]", "[::1]:1", "localhost:1", "127.0.0.1:1"])
def test_hosts_are_understood_as_people_write_them(text: str) -> None:
    """Nothing listens there; that it gets so far is the point."""
    with pytest.raises(LinkError, match=r"nothing listens|cannot reach"):
        run(text)

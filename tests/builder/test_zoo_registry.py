"""The zoo by name: every entry exists, builds, and tells what is wrong with a request."""

import subprocess
import sys
from dataclasses import fields, is_dataclass
from inspect import signature

import pytest
from torch import nn

from edgekit.builder.zoo.classifier import ClassifierConfig
from edgekit.builder.zoo.registry import ARCHITECTURES, architecture, build, entry_of
from edgekit.errors import ModelError


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_entry_names_a_network_and_its_configuration(name: str) -> None:
    """The network takes the fields of the configuration as keyword arguments, no more, no less."""
    entry = architecture(name)
    assert is_dataclass(entry.config_type)
    wanted = {field.name for field in fields(entry.config_type)}
    assert set(signature(entry.module_type).parameters) == wanted
    network = build(name, width=0.125)
    assert isinstance(network, entry.module_type)
    assert network.training
    assert network.config == entry.config_type(width=0.125)
    assert entry_of(network) is entry


def test_the_zoo_has_every_family_of_the_paper() -> None:
    """arXiv 2411.00838, Tables II and VI; and MobileOne."""
    assert set(ARCHITECTURES) >= {
        "table6-detector", "repvgg-a0", "repvgg-a1", "repvgg-a2", "repvgg-b0", "rep-resnet-18",
        "rep-resnet-50", "rep-resnet-101", "rep-resnet-152", "rep-googlenet", "rep-mobilenet-v1",
        "rep-shufflenet-v1", "rep-efficientnet-b0", "mobileone-s0",
    }  # fmt: skip


def test_an_unknown_name_or_field_is_refused_with_those_that_exist() -> None:
    """Most are typing errors."""
    with pytest.raises(ModelError, match=r"no network 'repvgg-ao' in the zoo.*repvgg-a0"):
        build("repvgg-ao")
    with pytest.raises(ModelError, match=r"repvgg-a0 has no classes.*class_count"):
        build("repvgg-a0", classes=10)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0}, {"width": 9.0}, {"class_count": 0}, {"seed": -1}, {"input_shape": (1, 3, 8)},
        {"input_shape": (1, 0, 8, 8)},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_name(values: dict[str, object]) -> None:
    """Before any memory is taken."""
    with pytest.raises(ModelError, match=next(iter(values))):
        ClassifierConfig(**values)


def test_what_is_not_of_the_zoo_has_no_entry() -> None:
    """Neither a stranger nor a subclass: its weights may mean something else."""
    assert entry_of(nn.Linear(2, 2)) is None

    class Mine(architecture("repvgg-a0").module_type):
        stage_blocks = (1, 1, 1, 1)

    assert entry_of(Mine(width=0.125, class_count=2)) is None


def test_the_list_of_names_costs_no_import_of_networks() -> None:
    """Commands show it before they know which network is wanted."""
    code = (
        "import sys; from edgekit.builder.zoo.registry import ARCHITECTURES\n"
        "print([m for m in sys.modules if m.startswith('edgekit.builder.zoo.re')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert run.stdout.strip() == "['edgekit.builder.zoo.registry']"

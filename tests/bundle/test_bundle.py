"""Bundles: whole or not at all, every byte accounted for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.bundle import Bundle, open_bundle, shard_path, write_bundle
from edgekit.bundle.golden import Golden, golden_to_bytes
from edgekit.errors import ConfigError, EdgeKitError, TrustError
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.plan import Cut, Placement, Plan
from edgekit.spec.tensors import TensorSpec

IMAGE, MIDDLE, ANSWER = (
    TensorSpec(name=name, dtype="float32", shape=(1, 2)) for name in ("image", "middle", "answer")
)
CARD = ModelCard(name="test", labels=("person",), output=OutputCard(decoder="yolox"))
GOLDEN = golden_to_bytes(
    Golden(inputs={"image": np.ones((1, 2))}, outputs={"middle": np.zeros((1, 2))})
)


def plan(**changes: object) -> Plan:
    ends = ((IMAGE,), (MIDDLE,), (ANSWER,))
    facts: dict[str, object] = {
        "model": "test",
        "model_sha256": "a" * 64,
        "rule": "given",
        "placements": tuple(
            Placement(
                device=f"edge-{index}",
                shard=shard_path(index),
                inputs=ends[index],
                outputs=ends[index + 1],
                work_flop=1,
                weight_bytes=1,
            )
            for index in range(2)
        ),
        "cuts": (Cut(tensors=(MIDDLE,), work_flop_before=1, op_count_before=1),),
        "model_inputs": (IMAGE,),
        "model_outputs": (ANSWER,),
    }
    return Plan(**{**facts, **changes})  # type: ignore[arg-type]


def write(out: Path, *, force: bool = False, shards: tuple[bytes, bytes] = (b"0", b"1")) -> Bundle:
    return write_bundle(
        out, plan=plan(), shards=shards, card=CARD, golden=[GOLDEN, GOLDEN], force=force
    )


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """Plan, card, shards and golden vectors."""
    written = write(tmp_path / "b")
    opened = open_bundle(tmp_path / "b")
    assert opened == written
    assert (opened.plan, opened.card) == (plan(), CARD)
    assert opened.read("shards/shard-1.onnx") == opened.shard(1).read_bytes() == b"1"
    golden = opened.golden(0)
    assert golden is not None
    assert golden.inputs["image"].tolist() == [[1.0, 1.0]]
    assert [entry.path for entry in opened.manifest.files] == [
        "golden/shard-0.npz", "golden/shard-1.npz", "model.toml", "plan.json",
        "shards/shard-0.onnx", "shards/shard-1.onnx",
    ]  # fmt: skip


def test_the_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    """The deployment id names the content, not the build."""
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert one.deployment_id == two.deployment_id
    other = write(tmp_path / "three", shards=(b"0", b"2"))
    assert other.deployment_id != one.deployment_id


def test_a_bundle_may_lack_card_and_golden_vectors(tmp_path: Path) -> None:
    """A model without a decoder can still be split."""
    write_bundle(tmp_path / "b", plan=plan(), shards=(b"0", b"1"))
    opened = open_bundle(tmp_path / "b")
    assert opened.card is None
    assert opened.golden(0) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


def _edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return apply


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda b: _flip(b / "shards/shard-1.onnx"), "shard-1.onnx"),
    "longer": (lambda b: (b / "model.toml").write_bytes(b"x" * 9999), "model.toml"),
    "missing": (lambda b: (b / "shards/shard-0.onnx").unlink(), "shard-0.onnx"),
    "extra": (lambda b: (b / "shards/extra.so").write_bytes(b"evil"), "shards/extra.so"),
    "hidden extra": (lambda b: (b / ".x").write_bytes(b""), ".x"),
    "link": (
        lambda b: ((b / "plan.json").rename(b.parent / "p"), (b / "plan.json").symlink_to("../p")),
        "plan.json",
    ),
    "linked folder": (lambda b: (b / "more").symlink_to("/tmp"), "more"),
    "plan edited": (lambda b: _flip(b / "plan.json"), "plan.json"),
    "file dropped from manifest": (_edit_manifest(lambda m: m["files"].pop()), "shard-1.onnx"),
    "path outside": (
        _edit_manifest(lambda m: m["files"][0].update(path="../../etc/passwd")),
        "leaves the bundle",
    ),
    "no plan": (
        lambda b: (
            _edit_manifest(lambda m: m["files"].pop(3))(b),
            (b / "plan.json").unlink(),
        ),
        "plan.json",
    ),
    "digest cut short": (
        _edit_manifest(lambda m: m["files"][0].update(sha256="abc")),
        "not a sha256",
    ),
    "other model": (_edit_manifest(lambda m: m.update(model_sha256="b" * 64)), "two models"),
    "newer format": (_edit_manifest(lambda m: m.update(format=2)), "format 2"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_bundle_that_is_not_what_was_built_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """TrustError: never retried, never run."""
    write(tmp_path / "b")
    spoil, words = TAMPERED[name]
    spoil(tmp_path / "b")
    with pytest.raises(TrustError) as caught:
        open_bundle(tmp_path / "b")
    assert words in str(caught.value)


def test_a_file_that_changes_after_opening_is_refused_when_read(tmp_path: Path) -> None:
    """Publishing reads later than opening."""
    bundle = write(tmp_path / "b")
    _flip(tmp_path / "b/shards/shard-0.onnx")
    with pytest.raises(TrustError, match="shard-0"):
        bundle.read("shards/shard-0.onnx")


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    """A wrong path is for the reader to mend."""
    with pytest.raises(ConfigError, match="no bundle"):
        open_bundle(tmp_path)


def test_an_older_bundle_is_replaced_only_on_request(tmp_path: Path) -> None:
    """And then as a whole: no file of the old one stays."""
    write(tmp_path / "b")
    with pytest.raises(ConfigError, match="--force"):
        write(tmp_path / "b")
    write_bundle(tmp_path / "b", plan=plan(), shards=(b"x", b"y"), force=True)
    opened = open_bundle(tmp_path / "b")
    assert opened.read(shard_path(0)) == b"x"
    assert opened.golden(0) is None
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("kind", ["folder", "file", "foreign manifest", "dangling link"])
def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    """--force must not delete somebody's photos."""
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "elsewhere")
    else:
        out.mkdir()
        name = "manifest.json" if kind == "foreign manifest" else "photo.jpg"
        (out / name).write_text("{}")
    with pytest.raises(ConfigError, match="is no bundle"):
        write(out, force=True)
    assert out.is_symlink() or out.exists()
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """mktemp -d makes one."""
    (tmp_path / "b").mkdir()
    write(tmp_path / "b")
    open_bundle(tmp_path / "b")


def test_a_write_that_fails_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of a build."""
    write(tmp_path / "b")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekit.bundle.bundle.os.fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write(tmp_path / "b", force=True, shards=(b"new", b"new"))
    monkeypatch.undo()
    assert open_bundle(tmp_path / "b").read(shard_path(0)) == b"0"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_plan_with_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    """A mistake of the caller must not make a bundle."""
    with pytest.raises(ValueError, match="zip"):
        write_bundle(tmp_path / "b", plan=plan(), shards=(b"0",))
    assert not (tmp_path / "b").exists()


def test_a_copied_bundle_is_the_same_bundle(tmp_path: Path) -> None:
    """USB sticks, rsync, git: only the bytes count."""
    bundle = write(tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    assert open_bundle(tmp_path / "copy").deployment_id == bundle.deployment_id


def test_every_refusal_says_what_to_try(tmp_path: Path) -> None:
    """The hint is part of the promise."""
    with pytest.raises(EdgeKitError) as caught:
        open_bundle(tmp_path / "absent")
    assert caught.value.hint

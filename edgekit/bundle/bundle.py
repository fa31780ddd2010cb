"""The bundle: a folder with all that a fleet needs to run one model, every byte accounted for.

::

    manifest.json         every other file with its digest and size; its own digest is the name
    plan.json             who runs what, and what crosses
    model.toml            the model card (absent if the bundle was built without a decoder)
    shards/shard-0.onnx   one per device
    shards/whole.onnx     for a device that answers some frames itself
    shards/shard-0.engine.json   how TensorRT builds an engine of it (where TensorRT runs it)
    golden/shard-0.npz    self-test vectors (absent if large, unless an engine needs them)
    report.json           how shards were lowered (absent if they are as the model came)

In: the parts of a bundle, or a folder.  Out: a folder that appears whole or not at all; a Bundle
whose every file was checked. Runs nothing; read on devices, so no onnx here.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from edgekit.bundle.golden import Golden, golden_from_bytes, golden_path
from edgekit.errors import ConfigError, TrustError
from edgekit.spec.base import load, parse_json, parse_toml, to_json
from edgekit.spec.card import ModelCard
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.manifest import FileEntry, Manifest
from edgekit.spec.plan import Plan

MANIFEST_PATH = "manifest.json"
PLAN_PATH = "plan.json"
CARD_PATH = "model.toml"
REPORT_PATH = "report.json"
OWN_SHARD_PATH = "shards/whole.onnx"
"""The whole model, for a device that answers some frames itself."""
OWN_ENGINE_PATH = "shards/whole.engine.json"


def shard_path(index: int) -> str:
    """Where a bundle keeps shard ``index``."""
    return f"shards/shard-{index}.onnx"


def engine_path(index: int) -> str:
    """Where a bundle keeps the engine recipe of shard ``index``."""
    return f"shards/shard-{index}.engine.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    manifest: Manifest
    plan: Plan
    card: ModelCard | None

    @property
    def deployment_id(self) -> str:
        """Name of this exact bundle."""
        return self.manifest.deployment_id

    def path(self, name: str) -> Path:
        """Where the file ``name`` of the manifest is. Raises: TrustError if there is none."""
        return self.folder / self.manifest.entry(name).path

    def read(self, name: str) -> bytes:
        """Bytes of the file ``name``, checked once more.

        Raises: TrustError if they no longer match the manifest.
        """
        entry = self.manifest.entry(name)
        return _checked_bytes(self.folder, entry)

    def shard(self, index: int) -> Path:
        """Path of shard ``index`` (the runtime loads paths, so that weights stay file-backed).

        Raises: TrustError if the device at ``index`` has none because it only forwards frames.
        """
        return self.path(self.plan.placements[index].shard)

    def engine(self, index: int) -> EngineRecipe | None:
        """How TensorRT builds an engine of shard ``index``, if it is to."""
        name = self.plan.placements[index].engine
        return parse_json(self.read(name), EngineRecipe, origin=name) if name else None

    def golden(self, index: int) -> Golden | None:
        """Self-test vectors of shard ``index``, if the bundle has any."""
        name = golden_path(index)
        if all(entry.path != name for entry in self.manifest.files):
            return None
        return golden_from_bytes(self.read(name), origin=name)


def write_bundle(
    out: Path,
    *,
    plan: Plan,
    shards: Sequence[bytes],
    card: ModelCard | None = None,
    golden: Sequence[bytes] = (),
    engines: Mapping[str, EngineRecipe] = MappingProxyType({}),
    report: bytes | None = None,
    force: bool = False,
) -> Bundle:
    """Write a bundle at ``out``: it appears there whole, or what was there stays.

    ``shards`` and ``golden`` (empty bytes: none) are those of the devices that have a shard, in the
    order of the plan, ``engines`` the recipes by their paths.
    ``force`` replaces an older bundle, never another kind of folder.
    Raises: ConfigError if ``out`` is taken or cannot be written.
    """
    _check_free(out, force=force)
    files: dict[str, bytes] = {PLAN_PATH: to_json(plan)}
    busy = [index for index, placement in enumerate(plan.placements) if placement.shard]
    files |= {plan.placements[index].shard: data for index, data in zip(busy, shards, strict=True)}
    files |= {golden_path(index): data for index, data in zip(busy, golden, strict=False) if data}
    files |= {name: to_json(recipe) for name, recipe in engines.items()}
    if card is not None:
        files[CARD_PATH] = msgspec.toml.encode(card)
    if report is not None:
        files[REPORT_PATH] = report
    entries = tuple(
        FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in sorted(files.items())
    )
    manifest = Manifest(model=plan.model, model_sha256=plan.model_sha256, files=entries)
    try:
        _put(out, {**files, MANIFEST_PATH: to_json(manifest)})
    except OSError as error:
        raise ConfigError(
            f"cannot write the bundle {out}: {error.strerror}", hint="choose another --out"
        ) from None
    return Bundle(folder=out, manifest=manifest, plan=plan, card=card)


def _check_free(out: Path, *, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if out.is_dir() and not out.is_symlink():
        if not any(out.iterdir()):
            return
        if _has_manifest(out):
            if force:
                return
            raise ConfigError(f"{out} already holds a bundle", hint="add --force to replace it")
    raise ConfigError(f"{out} exists and is no bundle", hint="choose another --out")


def _has_manifest(folder: Path) -> bool:
    try:
        load(folder / MANIFEST_PATH, Manifest)
    except (ConfigError, TrustError):
        return False
    return True


def _put(out: Path, files: Mapping[str, bytes]) -> None:
    """Write all files in a folder beside ``out``, then swap it in."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        staged.chmod(0o755)
        for name, data in files.items():
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _swap(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _swap(staged: Path, out: Path) -> None:
    """Rename ``staged`` to ``out``; an older bundle steps aside first, and back on failure."""
    if not out.exists():
        staged.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".old"))
    out.rename(aside / out.name)
    try:
        staged.rename(out)
    except OSError:
        (aside / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def open_bundle(path: Path) -> Bundle:
    """The bundle at ``path``, every file verified.

    Raises: ConfigError if there is no bundle; TrustError naming the first file that is missing,
    extra, or not what the manifest says.
    """
    if not (path / MANIFEST_PATH).is_file():
        raise ConfigError(
            f"{path} is no bundle (it has no {MANIFEST_PATH})",
            hint="give the folder that `edgekit build --out` made",
        )
    manifest = load(path / MANIFEST_PATH, Manifest)
    known = {entry.path for entry in manifest.files} | {MANIFEST_PATH}
    for found in sorted(_names_in(path) - known):
        raise TrustError(
            f"{path} holds {found!r}, which is not in its manifest",
            hint="remove that file, or build the bundle again",
        )
    kept = {}
    for entry in manifest.files:
        data = _checked_bytes(path, entry)
        if entry.path in (PLAN_PATH, CARD_PATH):
            kept[entry.path] = data
    return Bundle(
        folder=path,
        manifest=manifest,
        plan=_plan_in(kept, manifest, path),
        card=_card_in(kept, path),
    )


def _names_in(folder: Path) -> set[str]:
    """Every file below ``folder``; links count as files, also links to folders."""
    names = set()
    for place, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        names |= {(Path(place) / name).relative_to(folder).as_posix() for name in files + linked}
    return names


def _checked_bytes(folder: Path, entry: FileEntry) -> bytes:
    path = folder / entry.path
    rebuild = "build the bundle again, or copy it again from where it was built"
    if path.is_symlink() or not path.is_file():
        raise TrustError(f"{entry.path} is missing from {folder}", hint=rebuild)
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        raise TrustError(
            f"{entry.path} in {folder} has {size_bytes} bytes, expected {entry.size_bytes}",
            hint=rebuild,
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise TrustError(f"{entry.path} in {folder} does not match its digest", hint=rebuild)
    return data


def _plan_in(contents: Mapping[str, bytes], manifest: Manifest, folder: Path) -> Plan:
    if PLAN_PATH not in contents:
        raise TrustError(f"{folder} has no {PLAN_PATH}", hint="build the bundle again")
    plan = parse_json(contents[PLAN_PATH], Plan, origin=str(folder / PLAN_PATH))
    for placement in plan.placements:
        for name in (placement.shard, placement.engine):
            if name:
                manifest.entry(name)
    if plan.model_sha256 != manifest.model_sha256:
        raise TrustError(
            f"plan and manifest of {folder} are about two models", hint="build the bundle again"
        )
    return plan


def _card_in(contents: Mapping[str, bytes], folder: Path) -> ModelCard | None:
    if CARD_PATH not in contents:
        return None
    return parse_toml(contents[CARD_PATH], ModelCard, origin=str(folder / CARD_PATH))

"""Which model card a model gets, and that it is said."""

from pathlib import Path

import pytest

from edgekit.errors import ConfigError, ModelError
from edgekit.spec.base import save
from edgekit.spec.tensors import TensorSpec
from edgekit.vision.cards import builtin_card, builtin_names, load_card, recognise, resolve_card
from edgekit.vision.decoders import decoder_names

Specs = tuple[TensorSpec, ...]


def specs(**shapes: tuple[int, ...]) -> Specs:
    return tuple(TensorSpec(name=n, dtype="float32", shape=s) for n, s in shapes.items())


def image(height: int, width: int) -> Specs:
    return specs(images=(1, 3, height, width))


def heads(kinds: dict[str, int], *, height: int, width: int, name: str = "{}_{}") -> Specs:
    return specs(
        **{
            name.format(kind, s): (1, (height // s) * (width // s), columns)
            for kind, columns in kinds.items()
            for s in (8, 16, 32)
        }
    )


YUNET = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
YOLOX_416 = specs(output=(1, 3549, 85))


@pytest.mark.parametrize(
    ("inputs", "outputs", "name"),
    [
        (image(416, 416), YOLOX_416, "yolox"),
        (image(320, 640), specs(anything=(1, 4200, 8)), "yolox"),
        (image(192, 192), specs(output=(1, 756, 6)), "light_person"),
        (image(416, 416), specs(output=(1, 3549, 6)), "yolox"),
        (image(0, 0), specs(output=(0, 0, 85)), "yolox"),
        (image(640, 640), specs(output0=(1, 84, 8400)), "ultralytics"),
        (image(640, 640), specs(renamed=(1, 5, 8400)), "ultralytics"),
        (image(0, 0), specs(output0=(1, 84, 0)), "ultralytics"),
        (image(352, 352), specs(**{"758": (1, 85, 22, 22)}), "fastestdet"),
        (image(320, 320), heads({"cls": 80, "dis": 32}, height=320, width=320,
                                name="{}_pred_stride_{}"), "nanodet"),
        (image(320, 320), heads(YUNET, height=320, width=320), "yunet"),
        (image(0, 0), heads(YUNET, height=0, width=0), "yunet"),
        (image(240, 320), specs(scores=(1, 4420, 2), boxes=(1, 4420, 4)), "ultraface"),
    ],
)  # fmt: skip
def test_a_family_is_recognised_by_names_and_shapes(
    inputs: Specs, outputs: Specs, name: str
) -> None:
    assert recognise(inputs, outputs) == name


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (image(224, 224), specs(logits=(1, 1000))),
        (image(640, 640), specs(output0=(1, 300, 6))),  # NMS inside
        (image(640, 640), specs(output0=(1, 116, 8400), output1=(1, 32, 160, 160))),  # segment
        (image(416, 416), specs(output=(1, 100, 85))),
        (image(352, 352), specs(out=(1, 21, 352, 352))),
        (image(0, 0), specs(out=(1, 21, 0, 0))),
        (image(0, 0), specs(other=(1, 0, 85))),
        (specs(tokens=(1, 128)), YOLOX_416),
        (specs(grey=(1, 1, 416, 416)), YOLOX_416),
        (image(416, 416) * 2, YOLOX_416),
        (image(240, 320), specs(scores=(1, 4420, 1), boxes=(1, 4420, 4))),
        (image(320, 320), ()),
        ((), ()),
    ],
)
def test_anything_else_is_not_recognised(inputs: Specs, outputs: Specs) -> None:
    """A wrong guess would draw wrong boxes; no guess asks the user."""
    assert recognise(inputs, outputs) is None


def test_every_built_in_card_loads_and_names_a_decoder_that_exists() -> None:
    assert set(decoder_names()) <= set(builtin_names())
    for name in builtin_names():
        card = builtin_card(name)
        assert card.name == name
        assert card.output.decoder in decoder_names()
        assert len(card.labels) in ((0,) if name == "classes" else (1, 80))


def test_an_unknown_card_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'ssd'.*yolox.*yunet"):
        builtin_card("ssd")
    with pytest.raises(ConfigError, match=r"'\.\./secrets'"):
        builtin_card("../secrets")


def card_file(path: Path, *, name: str, labels: str = '"a", "b"', decoder: str = "yolox") -> None:
    path.write_text(f'name = "{name}"\nlabels = [{labels}]\n[output]\ndecoder = "{decoder}"\n')


TWO_CLASSES = specs(output=(1, 3549, 7))


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_asked_for_beats_own_card_beats_shared_card_beats_recognition(
    tmp_path: Path, suffix: str
) -> None:
    model, known = tmp_path / f"net{suffix}", {"inputs": image(416, 416), "outputs": TWO_CLASSES}
    card, how = resolve_card(model, decoder=None, **known)
    assert (card.name, card.labels) == ("yolox", ())
    assert "recognised" in how
    assert "output float32[1x3549x7]" in how
    card_file(tmp_path / "model.toml", name="shared")
    card, how = resolve_card(model, decoder=None, **known)
    assert (card.name, "model.toml beside the model" in how) == ("shared", True)
    card_file(tmp_path / "net.toml", name="own")
    card, how = resolve_card(model, decoder=None, **known)
    assert (card.name, "net.toml beside the model" in how) == ("own", True)
    card, how = resolve_card(model, decoder="yolox", **known)
    assert (card.name, "as asked" in how) == ("yolox", True)


def test_labels_are_given_only_where_the_class_count_allows() -> None:
    """80 classes are COCO's; 2 classes are anybody's, so they are numbered and that is said."""
    card, how = resolve_card(
        Path("m.onnx"), decoder=None, inputs=image(416, 416), outputs=YOLOX_416
    )
    assert (card.label_of(0), card.label_of(79)) == ("person", "toothbrush")
    assert "labels person, bicycle, ... (80)" in how
    card, how = resolve_card(
        Path("m.onnx"), decoder=None, inputs=image(416, 416), outputs=TWO_CLASSES
    )
    assert card.label_of(0) == "class 0"
    assert "not known" in how


def test_a_person_only_model_is_known_whether_asked_for_or_recognised() -> None:
    known = {"inputs": image(192, 192), "outputs": specs(output=(1, 756, 6))}
    for decoder in (None, "yolox", "light_person"):
        card, _ = resolve_card(Path("m.onnx"), decoder=decoder, **known)
        assert card.labels == ("person",)


def test_a_model_of_no_known_family_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"m\.onnx.*logits.*--decoder .*yolox.*m\.toml"):
        resolve_card(
            Path("m.onnx"), decoder=None, inputs=image(32, 32), outputs=specs(logits=(1, 10))
        )


@pytest.mark.parametrize("decoder", ["nanodet", "ultralytics", "yunet", "fastestdet", "ultraface"])
def test_a_decoder_that_cannot_read_the_outputs_is_refused_before_the_first_frame(
    decoder: str,
) -> None:
    with pytest.raises(ModelError, match=rf"decoder {decoder} reads .*this model has"):
        resolve_card(Path("m.onnx"), decoder=decoder, inputs=image(416, 416), outputs=YOLOX_416)


def test_a_card_with_other_labels_than_the_model_has_classes_is_refused(tmp_path: Path) -> None:
    card_file(tmp_path / "net.toml", name="own", labels='"a", "b", "c"')
    with pytest.raises(ConfigError, match=r"net\.toml.*labels names 3 .*model has 2"):
        resolve_card(
            tmp_path / "net.onnx", decoder=None, inputs=image(416, 416), outputs=TWO_CLASSES
        )


def test_a_bad_card_names_the_file_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    card_file(path, name="own", decoder="ssd")
    with pytest.raises(ConfigError, match=r"net\.toml: output\.decoder.*'ssd'.*yolox"):
        load_card(path)
    path.write_text('name = "x"\nlabels = []\ncolour = "bgr"\n[output]\ndecoder = "yolox"\n')
    with pytest.raises(ConfigError, match=r"net\.toml.*colour"):
        load_card(path)
    path.write_bytes(b"\xff\xfe[[")
    with pytest.raises(ConfigError, match=r"net\.toml"):
        load_card(path)
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_card(tmp_path / "absent.toml")


def test_the_strides_of_a_card_decide_what_fits(tmp_path: Path) -> None:
    """A detector for small objects has a finer grid; nobody can guess that from one number."""
    known = {"inputs": image(64, 64), "outputs": specs(out=(1, 6, 256 + 64 + 16))}
    assert recognise(**known) is None
    path = tmp_path / "net.toml"
    card_file(path, name="fine", decoder="ultralytics")
    with pytest.raises(ModelError, match=r"strides \[8, 16, 32\]"):
        resolve_card(tmp_path / "net.onnx", decoder=None, **known)
    path.write_text(path.read_text() + "strides = [4, 8, 16]\n")
    card, _ = resolve_card(tmp_path / "net.onnx", decoder=None, **known)
    assert card.name == "fine"
    for bad in ("[]", "[0, 8]"):
        path.write_text(path.read_text().replace("[4, 8, 16]", bad))
        with pytest.raises(ConfigError, match=r"net\.toml.*strides"):
            load_card(path)
        path.write_text(path.read_text().replace(bad, "[4, 8, 16]"))


def test_free_dimensions_ask_for_a_fixed_input(tmp_path: Path) -> None:
    free = {"inputs": image(0, 0), "outputs": specs(renamed=(0, 0, 85))}
    with pytest.raises(ModelError, match="--input NAME="):
        resolve_card(tmp_path / "net.onnx", decoder="yolox", **free)


def test_a_built_in_card_saved_beside_a_model_is_read_back_the_same(tmp_path: Path) -> None:
    """How a user starts a card of their own."""
    for name in builtin_names():
        save(builtin_card(name), tmp_path / "net.toml")
        assert load_card(tmp_path / "net.toml") == builtin_card(name)

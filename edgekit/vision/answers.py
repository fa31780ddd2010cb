"""The last step of every pipeline: raw outputs of the model -> the detections of an answer."""

from edgekit.spec.card import ModelCard
from edgekit.spec.messages import Detection
from edgekit.spec.tensors import Array, TensorSpec
from edgekit.vision.decoders.registry import decode
from edgekit.vision.geometry import geometry_for


def detections_of(
    tensors: dict[str, Array],
    card: ModelCard,
    *,
    model_input: TensorSpec,
    source_height_px: int,
    source_width_px: int,
) -> tuple[Detection, ...]:
    """Detections of one frame, best first, in pixels of the source.

    ``model_input`` is the NCHW input (1, 3, height, width) that ``preprocess`` filled.
    Raises: ModelError if the tensors are not what the card's decoder reads.
    """
    height_px, width_px = model_input.shape[2:]
    geometry = geometry_for(
        card.input,
        source_height_px=source_height_px,
        source_width_px=source_width_px,
        height_px=height_px,
        width_px=width_px,
    )
    return decode(tensors, card, geometry).to_spec(card)

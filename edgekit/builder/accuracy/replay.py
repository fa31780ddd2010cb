"""Sessions that remember: the model as it came is run once, however often others are scored
against it.

In:  a Session.  Out: another that records its answers, and one that gives them again in order.
"""

from collections.abc import Sequence

from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec


class Recording:
    """A session that keeps every answer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.answers: list[dict[str, Array]] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the session."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the session."""
        return self._session.outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As the session does."""
        answer = self._session.run(inputs)
        self.answers.append({name: array.copy() for name, array in answer.items()})
        return answer


class Replayed:
    """Gives recorded answers in order, whatever it is asked: an EvaluationSet asks in order."""

    def __init__(self, origin: Session, answers: Sequence[dict[str, Array]]) -> None:
        self._origin, self._answers = origin, iter(answers)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Of the session that was recorded."""
        return self._origin.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the session that was recorded."""
        return self._origin.outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """The next answer. Raises: StopIteration if it is asked more often than was recorded."""
        return next(self._answers)

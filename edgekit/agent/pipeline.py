"""Serve one committed deployment on this device: wire source, stages, hops and outputs together.

In: a Prepared shard, the hop listener and (on the first device) a source.  Out: answers.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.agent.answer_publisher import AnswerPublisher
from edgekit.agent.capture import Capture
from edgekit.agent.frame_keeper import FrameKeeper
from edgekit.agent.ledger import Accounts, Ledger
from edgekit.agent.picture_runner import Forwarder
from edgekit.agent.prepare import Prepared
from edgekit.agent.preview import Previewer
from edgekit.agent.recorder import Recorder
from edgekit.agent.relay_stage import RelayStage
from edgekit.agent.shard import StageLoad
from edgekit.agent.source_stage import Answered, SourceStage
from edgekit.spec.agent_config import AgentConfig, SourceConfig
from edgekit.spec.messages import AnswerReport, HopTime, StreamTelemetry
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort
from edgekit.transport.port import Activation, Answer, HopLink, Identity, Reply, Trip
from edgekit.vision.sources import open_source

logger = logging.getLogger(__name__)

MakeLink = Callable[
    [Identity, Callable[[Answer, Trip], None], Callable[[bool, str], None]], HopLink
]


class Pipeline:
    """What this device does for one deployment, from commit to stop."""

    def __init__(
        self,
        prepared: Prepared,
        *,
        epoch: int,
        run: str,
        config: AgentConfig,
        mqtt: MqttPort,
        make_link: MakeLink,
        on_change: Callable[[], None],
    ) -> None:
        plan = prepared.announcement.plan
        # A stream's frame numbers begin again with every process and every switch.
        self.prepared, self.epoch = prepared, epoch
        self.run = f"{run}.{epoch}"
        self._config, self._mqtt = config, mqtt
        self._make_link, self._on_change = make_link, on_change
        self._topics = Topics(fleet=config.fleet)
        is_last = prepared.index == len(plan.placements) - 1
        self.next_device = "" if is_last else plan.placements[prepared.index + 1].device
        self._ledger = Ledger()
        self._link: HopLink | None = None
        self._last_hop: HopTime | None = None
        self._previewer: Previewer | None = None
        self._recorder: Recorder | None = None
        self._keeper: FrameKeeper | None = None
        self._size_px = (0, 0)
        self._publisher: AnswerPublisher | None = None
        self._stage: SourceStage | RelayStage
        if prepared.index == 0 and config.source is not None:
            self._capture = Capture(open_source(config.source.uri), self._ledger)
            self._stage = self._source_stage(self._capture, config.source)
        else:
            self._stage = RelayStage(
                device=config.device,
                index=prepared.index,
                runner=prepared.runner,
                card=prepared.card,
                model_input=plan.model_inputs[0],
                next_device=self.next_device,
            )

    def identity(self, cut: int) -> Identity:
        """Who this device is on the hop of ``cut``."""
        return Identity(
            device=self._config.device,
            fleet=self._config.fleet,
            deployment=self.prepared.deployment,
            epoch=self.epoch,
            cut=cut,
            codec=self.prepared.announcement.plan.codec_of(cut),
        )

    @property
    def listens_as(self) -> Identity | None:
        """What the hop listener should accept; None on the first device."""
        return self.identity(self.prepared.index - 1) if self.prepared.index > 0 else None

    def start(self) -> None:
        """Begin to serve."""
        if self.next_device:
            self._link = self._make_link(
                self.identity(self.prepared.index), self._answer, self._hop_changed
            )
        if isinstance(self._stage, SourceStage):
            self._start_outputs()
            self._stage.start(self._emit, self._link)
        else:
            self._stage.start(self._link)

    def set_peer(self, address: str) -> None:
        """The next device listens at ``address`` (host:port) now."""
        if self._link is not None and address:
            host, _, port = address.rpartition(":")
            self._link.set_peer(host, int(port))

    def accept(self, activation: Activation, reply: Reply, release: Callable[[], None]) -> None:
        """An activation came from the previous device."""
        if isinstance(self._stage, RelayStage):
            self._stage.accept(activation, reply, release)

    def watched(self) -> None:
        """Somebody looks at the stream."""
        if self._previewer is not None:
            self._previewer.watched()

    def stop(self) -> None:
        """Stop serving; every frame still open is accounted for."""
        self._stage.stop()
        if self._link is not None:
            self._link.close()
        if self._publisher is not None:
            self._publisher.close()
        if self._previewer is not None:
            self._previewer.close()
        if self._recorder is not None:
            self._recorder.close()
        if self._keeper is not None:
            self._keeper.close()

    def load(self) -> StageLoad:
        """What the stage did lately."""
        return self._stage.meter.load()

    @property
    def hop_state(self) -> str:
        """State of the hop that leaves this device; empty on the last one."""
        return self._link.state if self._link is not None else ""

    @property
    def sent_bytes(self) -> int:
        """Bytes that went to the next device so far."""
        return self._stage.sent_bytes

    @property
    def last_hop(self) -> HopTime | None:
        """The latest transfer to the next device."""
        return self._last_hop

    def problems(self) -> tuple[str, ...]:
        """What is wrong here, in sentences."""
        found = []
        if self._link is not None and not self._link.is_connected:
            found.append(f"hop to {self.next_device}: {self._link.state}")
        if isinstance(self._stage, SourceStage) and self._capture.problem:
            found.append(f"source: {self._capture.problem}")
        if self._publisher is not None and self._publisher.unpublished_count:
            lost_count = self._publisher.unpublished_count
            found.append(f"{lost_count} answers found no broker and were not published")
        if self._recorder is not None and self._recorder.problem:
            found.append(f"recording: {self._recorder.problem}")
        if self._keeper is not None and self._keeper.problem:
            found.append(self._keeper.problem)
        return tuple(found)

    def stream(self) -> StreamTelemetry | None:
        """The accounts of the stream; None unless this device owns the source.

        "ended" is said only when every frame is accounted for and the recording is complete.
        """
        if not isinstance(self._stage, SourceStage) or self._config.source is None:
            return None
        accounts = self._ledger.snapshot(time.perf_counter())
        if accounts.is_closed and self._recorder is not None:
            self._recorder.close()
        return _telemetry(accounts, self._config.source.stream, self._capture, self._size_px)

    def _source_stage(self, capture: Capture, source: SourceConfig) -> SourceStage:
        plan, runner = self.prepared.announcement.plan, self.prepared.runner
        return SourceStage(
            device=self._config.device,
            run=self.run,
            stream=source.stream,
            capture=capture,
            ledger=self._ledger,
            runner=Forwarder() if plan.shares_frames else runner,
            card=self.prepared.card,
            model_input=plan.model_inputs[0],
            stage_count=len(plan.placements),
            next_device=self.next_device,
            own=runner if plan.shares_frames else None,
        )

    def _start_outputs(self) -> None:
        source = self._config.source
        if source is None:
            return
        answers = self._topics.detections(source.stream)
        self._publisher = AnswerPublisher(lambda payload: self._mqtt.publish(answers, payload))
        topic = self._topics.preview(source.stream)
        self._previewer = Previewer(
            source.stream,
            self._config.preview,
            lambda payload: self._mqtt.publish(topic, payload, qos=0),
        )
        if source.record:
            fps = self._capture.fps or 25.0
            self._recorder = Recorder(
                Path(source.record), fps=fps, oldest_open=self._ledger.oldest_open
            )
        if source.keep:
            self._keeper = FrameKeeper(
                Path(source.keep), every_count=source.keep_every, most_count=source.keep_most
            )
            self._capture.on_frame = self._keeper.offer

    def _hop_changed(self, connected: bool, state: str) -> None:
        self._stage.hop_changed(connected)
        self._on_change()

    def _answer(self, answer: Answer, trip: Trip) -> None:
        self._stage.answer(answer, trip)

    def _emit(self, answered: Answered) -> None:
        source = self._config.source
        if source is None or self._previewer is None or self._publisher is None:
            return
        self._size_px = (answered.frame.image.shape[1], answered.frame.image.shape[0])
        if answered.hops:
            self._last_hop = answered.hops[0]
        self._publisher.offer(
            AnswerReport(
                stream=source.stream,
                run=self.run,
                frame=answered.frame.number,
                detections=answered.detections,
                captured_unix_s=answered.frame.captured_unix_s,
                age_ms=round(1e3 * answered.age_s, 3),
                stages=answered.stages,
                hops=answered.hops,
            )
        )
        self._previewer.offer(answered)
        if self._recorder is not None:
            self._recorder.offer(answered)


def _telemetry(
    accounts: Accounts, stream: str, capture: Capture, size_px: tuple[int, int]
) -> StreamTelemetry:
    return StreamTelemetry(
        stream=stream,
        source=capture.uri,
        frames_captured=accounts.captured,
        frames_answered=accounts.answered,
        frames_dropped=accounts.dropped,
        frames_in_flight=accounts.in_flight,
        fps=round(accounts.fps, 2),
        latency_ms=accounts.latency_ms,
        ended=accounts.is_closed,
        width_px=size_px[0],
        height_px=size_px[1],
    )

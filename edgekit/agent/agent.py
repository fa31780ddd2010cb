"""The agent: obeys commands, keeps one pipeline serving, and says what it is doing.

::

    idle -> preparing -> ready -> serving        (prepare, then commit: all devices or none)
              |            |
              +-> failed <-+                     (what served before goes on serving)

In: commands and announcements over MQTT, activations over the hop.  Out: status (retained, with a
last will), telemetry once a second and at every change, answers.  After a restart, and without a
network, it serves what was last committed.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edgekit import __version__
from edgekit.agent.board_profile import BoardProfiler, objection_to_measuring
from edgekit.agent.identity import new_run_id, offline_will
from edgekit.agent.link_meter import LinkMeter, NoLinkMeter
from edgekit.agent.pipeline import MakeLink, Pipeline
from edgekit.agent.prepare import (
    Prepared,
    check_source,
    completed,
    files_for,
    prepare,
)
from edgekit.agent.puller import pull_announcement, pull_file
from edgekit.agent.reports import Reporter
from edgekit.agent.shard_session import LoadSession
from edgekit.agent.store import Current, Store
from edgekit.errors import DeviceError, EdgeKitError, LinkError
from edgekit.runtime.ort import runtime_name
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.messages import Announcement, Command, DeviceState, DeviceStatus
from edgekit.spec.topics import Topics
from edgekit.transport.mqtt_port import MqttPort
from edgekit.transport.port import Activation, HopListener, Reply, answer_to

logger = logging.getLogger(__name__)

__all__ = ["Agent", "new_run_id", "offline_will"]

_RECONNECT_S = 2.0


class Agent:
    """One device of a fleet."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        run: str,
        mqtt: MqttPort,
        make_link: MakeLink,
        load_session: LoadSession | None = None,
        link_meter: LinkMeter | None = None,
        processor: str = "",
    ) -> None:
        self._config, self._run_id, self._mqtt = config, run, mqtt
        self._make_link, self._load_session = make_link, load_session
        self._topics = Topics(fleet=config.fleet)
        self._store = Store(Path(config.store))
        self._listener: HopListener | None = None
        self._hop_address = self._probe_address = ""
        self._link_meter = link_meter or NoLinkMeter()
        self._processor = processor
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._obeyed: deque[str] = deque(maxlen=64)
        self._cancel = threading.Event()
        self._ended = threading.Event()
        self._prepared: Prepared | None = None
        self._pipeline: Pipeline | None = None
        self._peer_topic = ""
        self._command_id = ""
        self._state: DeviceState = "idle"
        self._problem = ""
        self._reporter = Reporter(config, run, self._publish_telemetry)
        self._board = BoardProfiler(
            config,
            run=run,
            folder=self._store.profile_folder,
            mqtt=mqtt,
            objection=self._objection_to_measuring,
            on_change=lambda: self._inbox.put(self._publish_status),
        )

    # ---- life -------------------------------------------------------------------------------

    def run(self, listener: HopListener, *, hop_address: str, probe_address: str = "") -> None:
        """Serve until ``stop`` is called. ``hop_address`` is where neighbours reach the listener,
        ``probe_address`` where they may probe the link; empty if they may not.

        Raises: LinkError if the broker cannot be reached and there is nothing to serve without it.
        """
        self._listener, self._hop_address = listener, hop_address
        self._probe_address = probe_address
        current = self._store.current()
        # Before connecting: nobody may see us online and command us before we listen.
        self._mqtt.subscribe(self._topics.command(self._config.device), self._on_command)
        if self._config.source is not None:
            watch = self._topics.watch(self._config.source.stream)
            self._mqtt.subscribe(watch, lambda _topic, _payload: self._on_watch(), qos=0)
        try:
            self._mqtt.connect()
        except LinkError as error:
            if current is None:
                raise
            logger.warning("no broker, serving the last deployment all the same: %s", error)
            threading.Thread(target=self._keep_connecting, name="broker", daemon=True).start()
        self._publish_status()
        self._reporter.start(
            lambda: (self._state, self._problem, self._pipeline),
            link=self._link_meter.latest,
            coming=lambda: self._prepared,
        )
        if current is not None:
            self._guarded(lambda: self._resume(current))
        while (task := self._inbox.get()) is not None:
            self._guarded(task)
        self._shut_down()

    def stop(self) -> None:
        """Ask ``run`` to end; safe from signal handlers and other threads."""
        self._cancel.set()
        self._ended.set()
        self._inbox.put(None)

    def connection_changed(self, connected: bool) -> None:
        """The broker came or went (called on the MQTT thread)."""
        if connected:  # the last will may have replaced our retained status
            self._publish_status()

    def _keep_connecting(self) -> None:
        while not self._ended.wait(_RECONNECT_S):
            try:
                self._mqtt.connect()
            except LinkError as error:
                logger.debug("still no broker: %s", error)
            else:
                return

    def accept(self, activation: Activation, reply: Reply, release: Callable[[], None]) -> None:
        """An activation arrived at the listener."""
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.accept(activation, reply, release)
            return
        release()
        reply(answer_to(activation, dropped="not_serving"))

    def _shut_down(self) -> None:
        self._board.close()
        self._drop_prepared()
        self._link_meter.unwatch()
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline.prepared.close()
        self._reporter.close()
        self._problem = ""
        self._set_state("offline")
        self._mqtt.close()
        if self._listener is not None:
            self._listener.close()

    def _guarded(self, task: Callable[[], None]) -> None:
        """Run one task; a failure is said aloud and whatever served before goes on."""
        try:
            task()
        except EdgeKitError as error:
            logger.error("%s", error)
            self._problem = str(error)
            self._set_state("serving" if self._pipeline is not None else "failed")

    # ---- commands ---------------------------------------------------------------------------

    def _on_command(self, topic: str, payload: bytes) -> None:
        """On the MQTT thread: hand over, so that the network never waits for a session."""
        command = parse_json(payload, Command, origin=topic)
        if command.verb in ("profile", "cancel"):  # beside what the inbox is at; asked repeatedly
            self._board.obey(command)
            return
        if command.id in self._obeyed:
            return
        self._obeyed.append(command.id)
        if command.verb in ("abort", "stop"):
            self._cancel.set()
        self._inbox.put(lambda: self._obey(command))

    def _obey(self, command: Command) -> None:
        logger.info("command %s %s", command.verb, command.deployment)
        self._command_id, self._problem = command.id, ""
        if command.verb == "prepare":
            self._prepare(command.deployment)
        elif command.verb == "commit":
            self._commit(command.deployment, command.epoch)
        elif command.verb == "abort":
            self._drop_prepared()
            self._set_state("serving" if self._pipeline is not None else "idle")
        else:
            self._drop_prepared()
            self._stop_serving()
            self._store.set_current(None)
            self._set_state("idle")

    def _prepare(self, deployment: str) -> None:
        """Pull what is missing, load, warm up, self-test; then say "ready"."""
        self._cancel.clear()
        self._board.give_way(f"deployment {deployment} came")
        self._drop_prepared()
        self._set_state("preparing")
        announcement = pull_announcement(deployment, mqtt=self._mqtt, topics=self._topics)
        wanted = files_for(announcement, self._config.device)
        self._reporter.begin_download(sum(entry.size_bytes for entry in wanted))
        for entry in wanted:
            pull_file(
                entry,
                store=self._store,
                mqtt=self._mqtt,
                topics=self._topics,
                on_bytes=self._reporter.downloaded,
                cancelled=self._cancel,
            )
        announcement = completed(announcement, self._store)
        self._prepared = self._load(announcement)
        self._store.save_announcement(announcement)
        self._set_state("ready")

    def _load(self, announcement: Announcement) -> Prepared:
        prepared = prepare(
            announcement,
            device=self._config.device,
            store=self._store,
            config=self._config.runtime,
            load_session=self._load_session,
            cancelled=self._cancel,
            on_change=self._reporter.poke,
        )
        if prepared.index == 0:
            check_source(self._config, is_in_use=self._pipeline is not None)
        prepared.start()
        return prepared

    def _drop_prepared(self) -> None:
        """It will not be committed: its engine need not be built."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.close()

    def _commit(self, deployment: str, epoch: int) -> None:
        """Switch to what was prepared."""
        prepared = self._prepared
        if prepared is None or prepared.deployment != deployment:
            raise DeviceError(
                f"{self._config.device} was told to commit {deployment}, which is not prepared",
                hint="deploy again",
            )
        self._prepared = None
        self._serve(prepared, epoch)
        # On disk before anybody hears of it: a power cut now must come back with this one.
        self._store.set_current(Current(deployment=deployment, epoch=epoch))
        keep = {entry.sha256 for entry in files_for(prepared.announcement, self._config.device)}
        self._store.prune(keep)
        self._join_pipeline()

    def _resume(self, current: Current) -> None:
        """After a restart: serve what was committed, from disk."""
        self._set_state("preparing")
        prepared = self._load(self._store.announcement(current.deployment))
        pipeline = self._serve(prepared, current.epoch)
        pipeline.set_peer(current.peer_address)  # first what was true last time, then what is heard
        self._join_pipeline()

    # ---- serving ----------------------------------------------------------------------------

    def _serve(self, prepared: Prepared, epoch: int) -> Pipeline:
        """Replace what serves. Neighbours are let in by ``_join_pipeline``."""
        self._stop_serving()
        pipeline = Pipeline(
            prepared,
            epoch=epoch,
            run=self._run_id,
            config=self._config,
            mqtt=self._mqtt,
            make_link=self._make_link,
            on_change=self._reporter.poke,
        )
        pipeline.start()
        self._pipeline, self._problem = pipeline, ""
        return pipeline

    def _join_pipeline(self) -> None:
        """Let the neighbours in, say so, and look for the next device."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        if self._listener is not None:
            self._listener.serve(pipeline.listens_as)
        self._set_state("serving")
        if pipeline.next_device:
            self._peer_topic = self._topics.status(pipeline.next_device)
            self._mqtt.subscribe(self._peer_topic, self._on_peer)

    def _stop_serving(self) -> None:
        self._link_meter.unwatch()
        if self._listener is not None:
            self._listener.serve(None)
        if self._peer_topic:
            self._mqtt.unsubscribe(self._peer_topic)
            self._peer_topic = ""
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline.prepared.close()
            self._pipeline = None

    def _on_peer(self, topic: str, payload: bytes) -> None:
        """Status of the next device: remember where it listens."""
        status = parse_json(payload, DeviceStatus, origin=topic)
        pipeline = self._pipeline
        if pipeline is None or not status.hop_address:
            return
        pipeline.set_peer(status.hop_address)
        if status.probe_address:
            self._inbox.put(lambda: self._watch_link(pipeline, status))
        self._inbox.put(lambda: self._remember_peer(status.hop_address))

    def _remember_peer(self, address: str) -> None:
        current = self._store.current()
        if current is not None and current.peer_address != address:
            self._store.set_current(
                Current(deployment=current.deployment, epoch=current.epoch, peer_address=address)
            )

    def _watch_link(self, pipeline: Pipeline, status: DeviceStatus) -> None:
        if pipeline is not self._pipeline:  # another one has taken over meanwhile
            return
        host, _, port = status.probe_address.rpartition(":")
        self._link_meter.watch(
            status.device, host, int(port), carried_bytes=lambda: pipeline.sent_bytes
        )

    def _on_watch(self) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.watched()

    def _objection_to_measuring(self) -> str:
        pipeline = self._pipeline
        serving = pipeline.prepared.deployment if pipeline is not None else ""
        return objection_to_measuring(self._config, state=self._state, serving=serving)

    # ---- saying so --------------------------------------------------------------------------

    def _set_state(self, state: DeviceState) -> None:
        self._state = state
        self._publish_status()
        self._reporter.poke()

    def _publish_status(self) -> None:
        pipeline = self._pipeline
        prepared = self._prepared
        deployment = pipeline.prepared.deployment if pipeline is not None else ""
        if self._state == "ready" and prepared is not None:
            deployment = prepared.deployment
        status = DeviceStatus(
            device=self._config.device,
            state=self._state,
            run=self._run_id,
            agent_version=__version__,
            runtime=runtime_name(),
            processor=self._processor,
            hop_address=self._hop_address if self._state != "offline" else "",
            probe_address=self._probe_address if self._state != "offline" else "",
            deployment=deployment,
            epoch=pipeline.epoch if pipeline is not None else 0,
            command=self._command_id,
            profiling=self._board.request,
            profile_sha256=self._board.sha256,
            problem=self._problem,
        )
        topic = self._topics.status(self._config.device)
        wait_s = 2.0 if self._state == "offline" else None
        try:
            self._mqtt.publish(topic, to_json(status, indent=0), retain=True, wait_s=wait_s)
        except LinkError as error:
            logger.warning("status not published: %s", error)

    def _publish_telemetry(self, payload: bytes) -> None:
        self._mqtt.publish(self._topics.telemetry(self._config.device), payload, qos=0)

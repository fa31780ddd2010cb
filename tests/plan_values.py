"""Plans by hand, for tests of what is said and shown of them."""

from edgekit.spec.planning import Candidate, Goal, HopPlan, Interval, PlanReport, StagePlan


def stage(
    device: str,
    time_ms: float,
    *,
    after: tuple[str, ...] = (),
    until: tuple[str, ...] = (),
    measured: bool = False,
    strategy: str = "S3",
) -> StagePlan:
    low_ms, high_ms = (time_ms, time_ms) if measured else (0.8 * time_ms, 1.25 * time_ms)
    return StagePlan(
        device=device,
        strategy=strategy,
        precision="fp32",
        first_op=0,
        op_count=10,
        after=after,
        until=until,
        work_flop=2_000_000,
        traffic_bytes=1_000_000,
        weight_bytes=40_000,
        memory_bytes=30_000_000,
        time=Interval(
            time_s=time_ms / 1e3, low_s=low_ms / 1e3, high_s=high_ms / 1e3, is_measured=measured
        ),
        roof="compute",
    )


def hop(
    source: str, target: str, transfer_ms: float, *, carries: str = "activations", codec: str = ""
) -> HopPlan:
    return HopPlan(
        source=source,
        target=target,
        carries=carries,  # type: ignore[arg-type]
        codec=codec or "fp32",
        nbytes=round(12_500 * transfer_ms),
        encode_s=0.001 if codec else 0.0,
        transfer_s=transfer_ms / 1e3,
        delay_s=0.0005,
        decode_s=0.002 if codec else 0.0,
    )


def candidate(family: str, stages: list[StagePlan], hops: list[HopPlan]) -> Candidate:
    stages_s = sum(one.time.time_s for one in stages)
    hops_s = sum(one.latency_s for one in hops)
    return Candidate(
        family=family,  # type: ignore[arg-type]
        stages=tuple(stages),
        hops=tuple(hops),
        latency=Interval(
            time_s=stages_s + hops_s,
            low_s=sum(one.time.low_s for one in stages) + hops_s,
            high_s=sum(one.time.high_s for one in stages) + hops_s,
        ),
        interval_s=max([one.time.time_s for one in stages] + [one.transfer_s for one in hops]),
        link_bytes=sum(one.nbytes for one in hops),
    )


def pipeline(
    first_ms: float = 10, transfer_ms: float = 4, second_ms: float = 6, cut: str = "conv5"
) -> Candidate:
    stages = [
        stage("camera", first_ms, until=(cut,)),
        stage("gateway", second_ms, after=(cut,)),
    ]
    return candidate("pipeline", stages, [hop("camera", "gateway", transfer_ms)])


def alone(time_ms: float = 40) -> Candidate:
    return candidate("whole", [stage("camera", time_ms)], [])


def frames(transfer_ms: float = 20, time_ms: float = 12) -> Candidate:
    sent = hop("camera", "gateway", transfer_ms, carries="frame", codec="jpeg-90")
    return candidate("frames", [stage("gateway", time_ms)], [sent])


def farm() -> Candidate:
    members = (alone(40), frames())
    return Candidate(
        family="farm",
        members=members,
        shares=(0.25, 0.75),
        latency=Interval(time_s=0.036, low_s=0.03, high_s=0.045),
        interval_s=0.012,
        link_bytes=187_500,
    )


def plan_report(**changes: object) -> PlanReport:
    chosen = pipeline()
    fields: dict[str, object] = {
        "model": "net",
        "model_sha256": "ab" * 32,
        "fleet": "yard",
        "goal": Goal(),
        "chosen": chosen,
        "pareto": (chosen, farm()),
        "alternatives": (chosen, alone(), frames(), farm()),
        "neighbours": (pipeline(12, 4, 5, "conv6"),),
        "candidate_count": 1234,
        "cut_count": 20,
        "seconds": 0.1,
    }
    return PlanReport(**(fields | changes))  # type: ignore[arg-type]

"""How long until PPO reaches a level of reward: ours in the default configuration, the peer at its best learning rate.

The task: beginnings of sentences about films, and VADER's compound score of what follows as reward. The time counted is
that of the steps alone, from the first one on. Ours goes first. The peer trains all weights, once for each learning
rate, each time from the start; a run that takes longer than its limit, or than the best of the peer so far, is ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

from benchmarks.plots import draw
from benchmarks.speed_tasks import Result, Side, level, same_reward
from benchmarks.speed_worker import RECORDS, Worker, write

WINDOW = 3  # steps whose mean reward is compared with the level


@dataclass(frozen=True)
class Run:
    """A run to the level, and the seconds it took there; None: it was ended before."""

    result: Result
    seconds: float | None

    @property
    def spent(self) -> float:
        return sum(step["wall"] for step in self.result.steps)

    def curve(self) -> list[tuple[float, float]]:
        """(seconds, mean reward) after each step."""
        seconds = accumulate(step["wall"] for step in self.result.steps)
        return list(zip(seconds, (step["reward"] for step in self.result.steps), strict=True))


def run(side: Side, goal: float, limit: float) -> Run:
    """Train until the last steps' mean reward is at the goal, or the time is up."""
    worker, spent = Worker(side), 0.0
    try:
        while spent < limit:
            step = worker.step()
            spent += step["wall"]
            reached = moving(worker.result) >= goal
            print(f"{side.label}: step {len(worker.result.steps)}, {spent:.0f} s, reward {step['reward']:+.3f}")
            if reached:
                return Run(worker.end(), spent)
        return Run(worker.end(), None)
    finally:
        worker.close()


def moving(result: Result) -> float:
    """The mean reward of the last steps, once there are enough."""
    rewards = [step["reward"] for step in result.steps[-WINDOW:]]
    return fmean(rewards) if len(rewards) == WINDOW else float("-inf")


def race(goal: float, limit: float, rates: Sequence[float], *, record: bool, bound: str | None) -> None:
    """All runs, what came of them, and its record."""
    ours = run(level(rates[0]).ours, goal, limit)
    if ours.seconds is None:
        raise SystemExit(f"ours did not reach {goal:+g} in {limit:g} s; nothing is recorded")
    peers, left = dict[float, Run](), limit
    for rate in rates:
        side = level(rate).peers[0]
        peers[rate] = run(replace(side, label=f"{side.label}, learning rate {rate:g}"), goal, left)
        left = peers[rate].seconds or left
        wrong = same_reward(ours.result.steps[:1], peers[rate].result.steps[:1])
        if wrong:  # the models begin alike, and so must their rewards
            raise SystemExit(f"NOT THE SAME TASK, nothing is recorded: {wrong[0]}")
    reached = {rate: peer.seconds for rate, peer in peers.items() if peer.seconds is not None}
    best = min(reached, key=reached.__getitem__) if reached else max(peers, key=lambda rate: moving(peers[rate].result))
    seconds = reached.get(best, peers[best].spent)
    how = (
        f"at its best learning rate, {best:g}"
        if reached
        else f"which was not there in {limit:g} s at {' or '.join(f'{rate:g}' for rate in rates)}"
    )
    print(f"ours {ours.seconds:.0f} s; the peer {seconds:.0f} s, {how}")
    if not record:
        return
    curves = {peers[best].result.side.label: peers[best].curve(), "proxtune": ours.curve()}
    title = "Mean reward over time"
    draw("speed_level", curves, records=RECORDS, title=title, x_label="seconds", y_label="VADER's compound score")
    told = {r.result.side.label: {"seconds": r.seconds, "curve": r.curve()} for r in (ours, *peers.values())}
    task = f"PPO on SmolLM2-135M until VADER's mean score of 32 responses, over {WINDOW} steps, is {goal:+g}"
    write(
        "level_speed",
        f"{task}: the time of the peer, all weights, {how}, over ours in the default configuration",
        seconds / ours.seconds,
        None,
        ">=",
        5.0,
        bound=bound,
        raw=told,
        against="TRL 1.12.0",
        seeds=[0],
        measures=[*level(best).measures, "benchmarks/speed_level.py"],
        command=f"python -m benchmarks.speed level --level {goal:g} --limit {limit:g} "
        f"--rates {' '.join(f'{rate:g}' for rate in rates)}",
    )

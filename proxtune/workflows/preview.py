"""`proxtune data preview`: the first rows of a file as a model is trained on them, token by token."""

import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from proxtune.charts import STYLE
from proxtune.data.bundled import resolve
from proxtune.data.files import rows
from proxtune.data.formats import Format
from proxtune.data.lines import Encoding
from proxtune.data.records import Answered, Labelled, Preference, Prompt, Record, Tagged
from proxtune.data.sift import Sieve
from proxtune.data.template import encode, encode_preferences, encode_prompts
from proxtune.data.tokenizer import Tokenizer, stop_ids
from proxtune.errors import DataError
from proxtune.models.load import load_tokenizer
from proxtune.runs import write_atomic

Kind = Literal["given", "trained", "stop", "cut"]
STYLES: dict[Kind, str] = {"given": "dim", "trained": "green", "stop": "bold reverse green", "cut": "red strike"}
NAMES: dict[Kind, str] = {"given": "given", "trained": "trained", "stop": "stop token", "cut": "cut off"}
WHOLE = 2**31  # no limit: what is over it is shown as cut off
CSS = """
.tokens { line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { padding: 1px 0; border-right: 1px solid #8886; border-radius: 3px; }
.given { opacity: .55; } .trained { background: #2e9e4f38; } .stop { background: #2e7e3f; color: #fff; }
.cut { background: #d5000030; text-decoration: line-through; }
"""


class Piece(NamedTuple):
    """Shown text, and its tokens: one, or the several that a character is made of."""

    text: str
    ids: list[int]
    kind: Kind


@dataclass(frozen=True)
class Previewed:
    """A prompt and one answer to it."""

    where: str
    answer: str  # "", "chosen" or "rejected"
    pieces: list[Piece]
    note: str


def preview(
    path: Path,
    console: Console,
    *,
    model: str,
    count: int = 3,
    format: Format | Literal["auto"] = "auto",  # noqa: A002 (the user's word for it)
    encoding: Encoding = "auto",
    chat: bool = False,
    max_length: int | None = None,
    ids: bool = False,
    out: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> None:
    """Show the first `count` usable rows of a file in colour, with `ids` their token ids, and write the page `out`.

    Raises ConfigError, DataError or ModelError: no such file or model, or no row of the file can be used.
    """
    tokenizer, context = load_tokenizer(model)
    sieve = Sieve(resolve(path), format=format, chat=chat, columns=columns)
    sifted = (sieve.sift(line, row) for line, row in rows(sieve.path, hashlib.sha256(), encoding))
    records = list(islice((row.record for row in sifted if row.record is not None), count))
    if not records:
        raise DataError(f"{path}: no usable row; `proxtune data check {path}` says why")
    shown = [row for record in records for row in as_trained(record, tokenizer, max_length or context)]
    console.print(Text.assemble(*((f" {NAMES[kind]} ", style) for kind, style in STYLES.items())), "\n")
    for row in shown:
        console.print(Text.assemble((row.where, "bold"), f" {row.answer}"))
        console.print(in_colour(row.pieces))
        if ids:
            console.print("ids", *(token for piece in row.pieces for token in piece.ids), style="dim")
        console.print(f"{row.note}\n", style="dim")
    if out is not None:
        write_atomic(out, as_page(shown, f"{path}, read by {model}"))
        console.print(f"page {out}", soft_wrap=True)


def as_trained(record: Record, tokenizer: Tokenizer, max_length: int) -> list[Previewed]:
    """A record's prompt and answers in pieces; what is over `max_length` tokens is marked as cut off.

    Of a prompt without an answer the beginning is cut, of all else the end. A text with a label, a tagged sentence and
    a question with its context are given whole, without the tokens that a model puts around them.
    """
    if isinstance(record, Tagged | Answered | Labelled):
        return [_whole(record, tokenizer, max_length)]
    if isinstance(record, Prompt):
        (prompt,), _ = encode_prompts([record], tokenizer, max_length=WHOLE)
        room = max(0, len(prompt.prompt_ids) - max_length)
        parts = [*pieces_of(tokenizer, prompt.prompt_ids[:room], "cut")]
        parts += pieces_of(tokenizer, prompt.prompt_ids[room:], "given")
        note = f"{len(prompt.prompt_ids)} tokens, a prompt: its answer is sampled"
        return [Previewed(record.where, "", parts, note)]
    if isinstance(record, Preference):
        (pair,), _ = encode_preferences([record], tokenizer, max_length=WHOLE)
        answers = {"chosen": pair.chosen_ids, "rejected": pair.rejected_ids}
        given = pair.prompt_ids
    else:
        (example,), _ = encode([record], tokenizer, max_length=WHOLE)
        answers, given = {"": example.response_ids}, example.prompt_ids
    return [answered(record.where, name, given, ids, tokenizer, max_length) for name, ids in answers.items()]


def _whole(record: Labelled | Tagged | Answered, tokenizer: Tokenizer, max_length: int) -> Previewed:
    match record:
        case Labelled(text, label, pair=pair):
            read, target = text if pair is None else f"{text}\n{pair}", f"label {label!r}"
        case Tagged(tags=tags):
            read, target = record.text, f"tags {' '.join(tags)}"
        case Answered(context, question, answers):
            spans = ", ".join(f"{span.text!r} at character {span.begin}" for span in answers or ())
            read, target = f"{question}\n{context}", f"answer {spans or 'none'}"
    ids = tokenizer.encode(read, add_special_tokens=False)
    pieces = [*pieces_of(tokenizer, ids[:max_length], "given"), *pieces_of(tokenizer, ids[max_length:], "cut")]
    return Previewed(record.where, "", pieces, f"{len(ids)} tokens, given; to learn: {target}")


def answered(
    where: str, name: str, given: list[int], answer: list[int], tokenizer: Tokenizer, max_length: int
) -> Previewed:
    """An answer to a prompt in pieces; what is over `max_length` tokens is marked as cut off."""
    room = max(0, max_length - len(given))
    kept, cut = answer[:room], answer[room:]
    stops = stop_ids(tokenizer)
    ends = bool(kept) and kept[-1] in stops
    body = kept[:-1] if ends else kept
    pieces = [*pieces_of(tokenizer, given, "given"), *pieces_of(tokenizer, body, "trained")]
    pieces += [*pieces_of(tokenizer, kept[-1:] if ends else [], "stop"), *pieces_of(tokenizer, cut, "cut")]
    stop = f"yes ({pieces[-1].text})" if ends else f"no: the row is longer than {max_length} tokens"
    over = f", {len(cut)} cut off" if cut else ""
    note = f"{len(given) + len(answer)} tokens, {len(kept)} trained{over} · stop token trained: {stop}"
    return Previewed(where, name, pieces, note)


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int], kind: Kind) -> Iterator[Piece]:
    """Tokens one by one, but those that hold only bytes of a character together.

    WordPiece (BERT) keeps no spaces: one stands here before every token that begins a word.
    """
    if tokenizer.cls_token is not None and "##s" in tokenizer.get_vocab():
        for token in ids:
            word = str(tokenizer.convert_ids_to_tokens(token))
            yield Piece(word.removeprefix("##") if word.startswith("##") else f" {word}", [token], kind)
        return
    begun: list[int] = []
    for token in ids:
        begun.append(token)
        text = str(tokenizer.decode(begun))
        if "�" not in text or len(begun) == 4:
            yield Piece(text, begun, kind)
            begun = []
    if begun:
        yield Piece(str(tokenizer.decode(begun)), begun, kind)


def in_colour(pieces: Sequence[Piece]) -> Text:
    """Pieces for the terminal; every other one is underlined, so that their borders are seen."""
    text = Text()
    for i, piece in enumerate(pieces):
        text.append(piece.text, STYLES[piece.kind] + (" underline" if i % 2 else ""))
    return text


def as_page(shown: Sequence[Previewed], title: str) -> str:
    """A page of its own; the ids of a piece are its tooltip."""
    legend = " ".join(f"<span class={kind}>{name}</span>" for kind, name in NAMES.items())
    body = "".join(
        f"<h2>{html.escape(row.where)} {row.answer}</h2>\n<p class=tokens>"
        + "".join(f'<span class={p.kind} title="{p.ids}">{html.escape(p.text)}</span>' for p in row.pieces)
        + f"</p>\n<p>{html.escape(row.note)}</p>\n"
        for row in shown
    )
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}\nbody {{ font: 16px/1.5 system-ui, sans-serif; "
        f"max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }}{CSS}</style>\n<body>"
        f"<h1>{html.escape(title)}</h1>\n<p class=tokens>{legend}</p>\n{body}</body></html>\n"
    )

"""Figures of written texts: translations (BLEU, chrF), summaries (ROUGE), answers (exact match, F1).

Each has the figure `empty`: the share of predictions that are nothing or white space. sacrebleu and rouge-score are an
extra.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import numpy as np

from proxtune.errors import ConfigError
from proxtune.evaluation.metrics import Array, Measure, check_rows, means, ratio

Several = str | Sequence[str]

CJK = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
CHARACTER = re.compile(f"([{CJK}])")
WORD = re.compile(f"[a-z0-9]+|[{CJK}]")
ARTICLE = re.compile(r"\b(a|an|the)\b")
CJK_PUNCTUATION = "\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}{CJK_PUNCTUATION}]")
TOKENIZERS = {"zh": "zh", "ja": "char"}


def translations(references: Sequence[Several], hypotheses: Sequence[str], *, language: str = "") -> Measure:
    """The corpus scores of sacrebleu, 0 to 100: bleu (Papineni et al. 2002) and chrf (Popović 2015); and empty.

    A row has one reference or several. `language` is that of the references: "zh" and "ja" are cut into characters
    (sacrebleu's tokenizers zh and char), all else into words (13a). `signature` says which scores these are.
    Raises DataError: not as many hypotheses as references, or none. ConfigError: sacrebleu is not installed.
    """
    check_rows(references, hypotheses)
    every = [_several(reference) for reference in references]
    streams = list(zip_longest(*every))  # sacrebleu leaves None out
    metrics = _bleu_and_chrf(language)
    statistics = [
        np.asarray(metric._extract_corpus_statistics(hypotheses, streams), dtype=np.float64)  # noqa: SLF001
        for metric in metrics
    ]
    empty = [(not text.strip(), 1.0) for text in hypotheses]
    ends = np.cumsum([part.shape[1] for part in statistics])

    def figures(sums: Array) -> dict[str, Array]:
        bleu, chrf, rest = np.split(sums, ends, axis=-1)
        return {
            "bleu": _scores(metrics[0], bleu),
            "chrf": _scores(metrics[1], chrf),
            "empty": ratio(rest[..., 0], rest[..., 1]),
        }

    return Measure(np.hstack([*statistics, empty]), figures)


def signature(*, language: str = "", references: int = 1) -> dict[str, str]:
    """The words of sacrebleu for what `translations` measures, by figure; `references` is how many a row has.

    Raises ConfigError: sacrebleu is not installed.
    """
    found = dict[str, str]()
    for name, metric in zip(("bleu", "chrf"), _bleu_and_chrf(language), strict=True):
        metric.corpus_score([""], [[""]] * references)
        found[name] = str(metric.get_signature())
    return found


def _bleu_and_chrf(language: str) -> tuple[Any, Any]:
    _needs("sacrebleu", "BLEU and chrF")
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 (an extra)
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415

    return BLEU(tokenize=TOKENIZERS.get(language[:2].lower(), "13a"), force=True), CHRF()


def _scores(metric: Any, sums: Array) -> Array:
    """The metric's score of each row of sums, [..., S] -> [...]."""
    scores = [metric._compute_score_from_stats(row).score for row in sums.reshape(-1, sums.shape[-1]).tolist()]  # noqa: SLF001
    return np.asarray(scores).reshape(sums.shape[:-1])


def summaries(references: Sequence[Several], hypotheses: Sequence[str]) -> Measure:
    """The means of the F-measures of rouge-score, 0 to 1: rouge1, rouge2, rougeL (Lin 2004), not stemmed; and empty.

    Of several references the best counts, in each figure. Tokens are runs of a-z and 0-9 in lower case, as in
    rouge-score, and also each Chinese, Japanese or Korean character, which rouge-score drops.
    Raises DataError: not as many hypotheses as references, or none. ConfigError: rouge-score is not installed.
    """
    check_rows(references, hypotheses)
    _needs("rouge_score", "ROUGE")
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 (an extra)

    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, tokenizer=_Words())
    scores = [scorer.score_multi(_several(a), b) for a, b in zip(references, hypotheses, strict=True)]
    columns = {name: [score[name].fmeasure for score in scores] for name in names}
    return means({**columns, "empty": [not text.strip() for text in hypotheses]})


class _Words:
    """The tokenizer that `RougeScorer` asks for."""

    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())


def answers(gold: Sequence[Several], predicted: Sequence[str]) -> Measure:
    """The scores of SQuAD's script v2.0 (Rajpurkar et al. 2018), 0 to 1: exact, and f1 of the bags of words; and empty.

    Both texts are lower-cased; punctuation and the articles a, an, the are left out; the best of the gold answers
    counts. A question without gold answers has none: the empty text, or one of which nothing is left, is right. Beyond
    the script, each Chinese, Japanese or Korean character is a word, and CJK and full-width punctuation is left out.
    Raises DataError: not as many predictions as questions, or none.
    """
    check_rows(gold, predicted)
    best = []
    for right, said in zip(gold, predicted, strict=True):
        possible = [words for words in map(_words, _several(right)) if words] or [[]]
        exact, f1 = zip(*(_compare(words, _words(said)) for words in possible), strict=True)
        best.append((max(exact), max(f1), not said.strip()))
    return means(dict(zip(("exact", "f1", "empty"), zip(*best, strict=True), strict=True)))


def _words(text: str) -> list[str]:
    text = ARTICLE.sub(" ", PUNCTUATION.sub("", text.lower()))
    return CHARACTER.sub(r" \1 ", text).split()


def _compare(gold: list[str], predicted: list[str]) -> tuple[float, float]:
    """Whether the words are the same, and the F1 of the bags; two empty bags have the F1 1."""
    common = (Counter(gold) & Counter(predicted)).total()
    same = float(gold == predicted)
    return same, 2 * common / (len(gold) + len(predicted)) if gold or predicted else same


def _several(references: Several) -> list[str]:
    return [references] if isinstance(references, str) else list(references)


def _needs(package: str, figures: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(
            f'{figures} need {package}, which is not installed; install it with\n    pip install "proxtune[text]"'
        )

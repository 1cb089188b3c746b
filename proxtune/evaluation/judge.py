"""Judges that a policy never trained against, so that a gain of the training reward can be told from a gain."""

from collections.abc import Sequence
from typing import Protocol

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from proxtune.errors import ConfigError


class Judge(Protocol):
    """`name` and `unit` label its figure; calling it gives each text a number."""

    name: str
    unit: str

    def __call__(self, texts: Sequence[str]) -> list[float]: ...


class TfidfJudge:
    """Logistic regression on TF-IDF of words and word pairs: the probability that a text is favourable."""

    name, unit = "TF-IDF + logistic regression", "probability"

    def __init__(self, texts: Sequence[str], favourable: Sequence[bool]) -> None:
        vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
        self.pipeline = make_pipeline(vectors, LogisticRegression(C=4.0, max_iter=1000)).fit(texts, favourable)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        return [float(p) for p in self.pipeline.predict_proba(texts)[:, 1]]


class VaderJudge:
    """VADER's compound score (Hutto & Gilbert 2014), −1 to 1, from a word list and rules that nobody trained here."""

    name, unit = "VADER", "compound score"

    def __init__(self) -> None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ConfigError("the VADER judge needs a package: pip install --no-deps vaderSentiment==3.3.2") from error
        self.analyzer = SentimentIntensityAnalyzer()

    def __call__(self, texts: Sequence[str]) -> list[float]:
        return [float(self.analyzer.polarity_scores(text)["compound"]) for text in texts]

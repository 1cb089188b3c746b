"""`proxtune label simulate`: simulated people answer what is open, through the app."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxtune.errors import ConfigError
from proxtune.feedback.simulated import Adversarial, Biased, Crowd, Lazy, Noisy, Recorded, Taste
from proxtune.feedback.store import Store
from proxtune.rewards.child import load

TEMPERAMENTS: dict[str, type[Noisy]] = {"noisy": Noisy, "biased": Biased, "lazy": Lazy, "adversarial": Adversarial}


def simulate(
    url: str,
    store: str,
    taste: str,
    console: Console,
    *,
    people: int,
    temperaments: Sequence[str],
    options: Mapping[str, float],
    seed: int,
    pause: float,
    stay: bool,
) -> None:
    """Let people join the app of a store, and answer all there is.

    Args:
        taste: FILE.py:FUNCTION, the caller's own code: (prompt, answer) -> a number.
        temperaments: of the people in turn; options go to those of them that have such a one.
        stay: wait for more when nothing is left, until interrupted.

    Raises:
        ConfigError: the taste cannot be used, or a temperament is unknown or has no such option.
        StoreError: the app refuses, or does not answer.
    """
    likes = taste_of(taste)
    persons = [person_of(temperaments[place % len(temperaments)], likes, options) for place in range(people)]
    unused = set(options) - {field.name for person in persons for field in fields(type(person))}
    if unused:
        raise ConfigError(
            f"--{min(unused)} is nothing to {', '.join(temperaments)}; leave it out, or give another temperament"
        )
    with Store.open(store) as opened:
        taken = {person.name for person in opened.people.all()}
        free = [name for name in (f"simulated {n}" for n in range(1, len(taken) + people + 1)) if name not in taken]
        crowd = Crowd(url, dict(zip(free, persons, strict=False)))
        crowd.join(lambda: opened.people.invite("annotator"))
        said = _watched(crowd, None if stay else _open_places(opened, people), console, seed, pause, stay)
    for name, count in said.items():
        console.print(f"{name}  {count:,} answers")


def person_of(temperament: str, taste: Taste, options: Mapping[str, float]) -> Noisy:
    """A person of a temperament, with those of the options that it has. Raises ConfigError: it is unknown."""
    kind = TEMPERAMENTS.get(temperament)
    if kind is None:
        raise ConfigError(f"--temperament {temperament}: expected some of {', '.join(TEMPERAMENTS)}")
    known = {field.name for field in fields(kind)}
    return kind(taste, **{name: value for name, value in options.items() if name in known})


def taste_of(spec: str) -> Taste:
    """`my_taste.py:likes` -> the function, which is run here. Raises ConfigError: it cannot be, or gives no number."""
    path, _, name = spec.rpartition(":")
    if not path or not Path(path).is_file():
        raise ConfigError(f"--taste {spec}: no such file {path or spec!r}; expected FILE.py:FUNCTION")
    found = vars(load(path))
    function = found.get(name)
    if not callable(function):
        public = sorted(n for n, x in found.items() if inspect.isfunction(x) and not n.startswith("_"))
        raise ConfigError(f"--taste {spec}: {path} has no function {name!r}; it has {', '.join(public) or 'none'}")

    def taste(prompt: str, text: str) -> float:
        value = function(prompt, text)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"--taste {spec} gave {value!r} for the answer {text[:100]!r}; expected a finite number")
        return number

    return taste


def _watched(crowd: Crowd, places: int | None, console: Console, seed: int, pause: float, stay: bool) -> dict[str, int]:
    """Everybody answers, under a bar with the time left."""
    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("judging", total=places)

        def told(_: Recorded) -> None:
            bar.advance(task)

        return crowd.answer_all(seed=seed, pause=pause, told=told, stay=stay)


def _open_places(store: Store, people: int) -> int:
    """How many answers so many people will be asked for, at most."""
    return sum(
        min(people, max(0, judged.item.overlap - len(judged.judgements)))
        for judged in store.judgements.all(unjudged=True)
    )

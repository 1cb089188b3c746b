"""`proxtune label simulate`: people who answer by a formula."""

from typing import Annotated

import typer

from proxtune.cli.app import console
from proxtune.cli.label import StoreAt, label, needs_extra
from proxtune.feedback.web import PORT

EXAMPLE = "Example: proxtune label simulate --taste my_taste.py:likes --people 3 --temperament noisy,noisy,adversarial"


@label.command(epilog=EXAMPLE)
def simulate(
    taste: Annotated[
        str,
        typer.Option(metavar="FILE.py:FUNCTION", help="A Python function (prompt, answer) -> how good the answer is."),
    ],
    url: Annotated[str, typer.Option(metavar="URL", help="Where the app runs.")] = f"http://127.0.0.1:{PORT}",
    store: StoreAt = "labels.db",
    people: Annotated[int, typer.Option(min=1, max=100, help="How many judge at once.")] = 3,
    temperament: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="noisy: by Bradley and Terry; biased: likes the first or the longer; lazy: does not always read; "
            "adversarial: prefers the worse. Of several people in turn.",
        ),
    ] = "noisy",
    temperature: Annotated[float, typer.Option(min=0, help="Noise, in units of the taste; 0: none.")] = 0.0,
    centre: Annotated[float, typer.Option(help="The taste of an answer that gets the middle rating.")] = 0.0,
    step: Annotated[float, typer.Option(min=1e-9, help="How much more taste earns the next rating.")] = 0.5,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of lazy and adversarial: the share of items.")
    ] = None,
    first: Annotated[float | None, typer.Option(help="Of biased: what the answer shown first has more.")] = None,
    longer: Annotated[float | None, typer.Option(help="Of biased: what the longest answer has more.")] = None,
    pause: Annotated[float, typer.Option(min=0, help="Seconds that reading an item takes.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed says the same.")] = 1,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for more when nothing is left, until Ctrl-C.")] = False,
) -> None:
    """Let simulated people answer what is open, through the app: to rehearse, or to test a setup. Never to train on."""
    needs_extra()
    from proxtune.workflows.label_simulate import simulate as run

    optional = {"share": share, "first": first, "longer": longer}
    given = {name: value for name, value in optional.items() if value is not None}
    run(
        url,
        store,
        taste,
        console,
        people=people,
        temperaments=[one.strip() for one in temperament.split(",")],
        options={"temperature": temperature, "centre": centre, "step": step, **given},
        seed=seed,
        pause=pause,
        stay=stay,
    )

"""People in the loop, simulated: what the app bears, how few judgements are enough, what the loop gains.

python -m benchmarks.people load         20 people at work, and kill -9 of the app in their midst
python -m benchmarks.people security     what is tried against the app, by goal
python -m benchmarks.people judgements   informative pairs beside random ones, for people of three kinds
python -m benchmarks.people loop         the whole loop on film reviews; finished runs in runs/people stay
"""

import argparse
import shlex
import tempfile
from pathlib import Path

from benchmarks.people_judgements import judgements
from benchmarks.people_load import load
from benchmarks.people_loop import PEOPLE, loop
from benchmarks.people_security import security


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "judgements", "loop", "security"])
    parser.add_argument("--people", nargs="+", choices=PEOPLE, default=list(PEOPLE), help="of the loop")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5, 6])
    given = parser.parse_args()
    command = f"python -m benchmarks.people {given.what}"
    if given.what == "load":
        with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1] / "runs") as folder:
            load(Path(folder), command)
    elif given.what == "security":
        security(command)
    elif given.what == "loop":
        loop(given.people, shlex.join([*command.split(), "--people", *given.people]))
    else:
        judgements(given.seeds, f"{command} --seeds {' '.join(map(str, given.seeds))}")


if __name__ == "__main__":
    main()

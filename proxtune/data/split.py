"""Parts of a data set that share no prompt and no group, each with the labels in the proportions of the whole."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from proxtune.errors import DataError
from proxtune.runs import derive_seed


def assign(groups: Sequence[str], labels: Sequence[str], shares: Mapping[str, float], *, seed: int) -> list[str]:
    """The part that each row belongs to.

    Rows of one group stay together. Groups are taken from the largest to the smallest, those of one size in an order
    that `seed` decides, and each goes where most of its labels are still missing. A label whose groups are single rows
    is within one row of its share in every part.

    Args:
        groups: [N] what each row must not be parted from.
        labels: [N] what is to be spread evenly; all equal where nothing is.
        shares: part -> its share of the rows; they add up to 1.

    Raises:
        DataError: a part would be empty.
    """
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        members[group][label] += 1
    total = Counter(labels)
    missing = {part: {label: share * count for label, count in total.items()} for part, share in shares.items()}
    order = sorted(members, key=lambda group: (-members[group].total(), derive_seed(seed, f"split {group}")))
    chosen = dict[str, str]()
    for group in order:
        need = {
            part: sum(count * lacks[label] / total[label] for label, count in members[group].items())
            for part, lacks in missing.items()
        }
        part = chosen[group] = max(need, key=need.__getitem__)
        for label, count in members[group].items():
            missing[part][label] -= count
    empty = [part for part in shares if part not in chosen.values()]
    if empty:
        raise DataError(
            f"the part {empty[0]!r} would have no row: {len(members)} groups of rows cannot be split into "
            f"{', '.join(f'{part}={share:g}' for part, share in shares.items())}; set larger shares or fewer parts"
        )
    return [chosen[group] for group in groups]

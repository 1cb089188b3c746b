"""What every request of a running app shares."""

from dataclasses import dataclass, field

from fastapi import Request

from proxtune.feedback.store import Store
from proxtune.feedback.web.passwords import Passwords, Throttle

DAILY = 100  # answers a day that the progress bar is full at


@dataclass(frozen=True, slots=True)
class Site:
    """A store, and how it is shown to people.

    Args:
        secret: signs the tokens of forms.
        secure: send cookies over TLS only, whatever the address of a request looks like.
    """

    store: Store
    secret: bytes
    secure: bool
    daily: int = DAILY
    passwords: Passwords = field(default_factory=Passwords)
    throttle: Throttle = field(default_factory=Throttle)


def site(request: Request) -> Site:
    """The site that a request came to."""
    found = request.app.state.site
    assert isinstance(found, Site)
    return found

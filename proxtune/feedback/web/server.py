"""Running the web app: its secret, the first admin, and where it listens."""

import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import uvicorn

from proxtune.errors import ConfigError, StoreError
from proxtune.feedback.store import Store
from proxtune.feedback.web import PORT
from proxtune.feedback.web.app import create_app


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    say: Callable[[str], object],
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve the web app until it is interrupted.

    Args:
        say: told the address, and while nobody can log in as admin the link with which somebody can.
        certificate, key: of TLS, in PEM files. Without, browsers send the session on this machine alone, unless a
            proxy before the app speaks TLS.

    Raises:
        ConfigError: others could reach the app, and there is no admin yet.
    """
    local = is_loopback(host)
    if not local and not has_admin(store):
        raise ConfigError(
            f"--host {host} lets others reach an app that has no admin; serve it on 127.0.0.1 first, open the link "
            "that is shown there and choose a password"
        )
    if not local and certificate is None:
        say("Browsers log in at this address over TLS only: give a certificate, or put a proxy that has one before it.")
    shown = f"[{host}]" if ":" in host else host
    site = f"{'https' if certificate else 'http'}://{shown}:{port}"
    say(f"Judging answers at {site}")
    link = first_admin_link(store, site)
    if link:
        say(f"Nobody can administer yet. Become the admin, once, within three days: {link}")
    uvicorn.run(
        create_app(store, secret=secret_of(store), secure=not local),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,  # addresses hold invitations
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def first_admin_link(store: Store, site: str) -> str | None:
    """A link with which one person can become admin; None where there is an admin who can log in."""
    return None if has_admin(store) else f"{site}/join/{store.people.invite('admin')}"


def has_admin(store: Store) -> bool:
    """Whether an admin can log in."""
    admins = [store.people.by_name(person.name) for person in store.people.all() if person.may("admin")]
    return any(found is not None and found[1] is not None for found in admins)


def secret_of(store: Store) -> bytes:
    """What signs the tokens of forms: random, in a file beside the store that nobody else can read.

    For PostgreSQL it lasts as long as the process; pages that are open then load their token anew.
    """
    if store.db.path is None:
        return secrets.token_bytes(32)
    path = store.db.path.with_name(f"{store.db.path.name}-secret")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _kept_secret(path)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    return _kept_secret(path)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kept_secret(path: Path) -> bytes:
    mode, secret = path.stat().st_mode, path.read_bytes()
    if mode & 0o077 or len(secret) < 32:
        raise StoreError(
            f"{path}: others may read it (mode {mode & 0o777:o}), or it is shorter than 32 bytes; remove it, and "
            "a new one is made"
        )
    return secret

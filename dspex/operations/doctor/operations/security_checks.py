"""Security: connections are encrypted, doors are locked, and roles may do no more than they need."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import redis as redis_py

from dspex.operations.doctor.check import Finding, Need, check, met, not_met, skipped, warning
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.publish import redis_clients
from dspex.settings.urls import is_plain_text, is_unverified
from dspex.store import roles
from dspex.store.sessions import is_pooled, libpq_url

#: Passwords that are the first to be tried.
COMMON = frozenset(
    ("admin", "administrator", "changeme", "default", "dspex", "guest", "password", "passw0rd", "postgres", "qwerty",
     "redis", "root", "secret", "test", "123456", "12345678")
)  # fmt: skip
SHORT = 12
TRIGGERS = {"audit_events_append_only", "audit_events_no_truncate", "executions_transition"}


@check(
    "Connections to Postgres are encrypted",
    Need.POSTGRES,
    mend="add ?sslmode=verify-full&sslrootcert=FILE to DSPEX_DATABASE_URL, and ssl = on in Postgres",
)
def postgres_tls(deployment: Deployment) -> Finding:
    """The connection of this machine to Postgres on another one goes over TLS."""
    url = deployment.database.url
    if is_pooled(url):  # Postgres knows how pgbouncer came, not how this machine came to pgbouncer
        return _encrypted(deployment, url, "" if is_plain_text(url) else "TLS to pgbouncer")
    row = deployment.row("SELECT ssl, version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    return _encrypted(deployment, url, f"{row.version}, {row.cipher}" if row.ssl else "")


@check(
    "Connections to Redis are encrypted",
    Need.REDIS,
    mend="use rediss:// with ?ssl_ca_certs=FILE in DSPEX_BROKER_URL, and tls-port in Redis",
)
def redis_tls(deployment: Deployment) -> Finding:
    """The connection of this machine to Redis on another one goes over TLS."""
    url = deployment.broker.url
    return _encrypted(deployment, url, "TLS" if url.startswith("rediss://") else "")


@check(
    "Postgres lets nobody in without a password",
    Need.POSTGRES,
    mend="use scram-sha-256 instead of trust in pg_hba.conf",
)
def postgres_door(deployment: Deployment) -> Finding:
    """One connection is tried with a wrong password, and must be refused."""
    parts = urlsplit(deployment.database.url)
    if not parts.password:
        return skipped("this role has no password: it is let in by its certificate, its system user, or by trust")
    try:
        psycopg.connect(libpq_url(deployment.database.url), password=token_urlsafe(16), connect_timeout=5).close()
    except psycopg.OperationalError:
        return met("a wrong password is refused")
    return _open(deployment)("a wrong password is accepted")


@check(
    "Redis lets nobody in without a password",
    Need.REDIS,
    mend="set requirepass or ACL users in Redis, and the password in DSPEX_BROKER_URL",
)
def redis_door(deployment: Deployment) -> Finding:
    """One PING is tried without a password, and must be refused."""
    parts = urlsplit(deployment.broker.url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        with redis_clients.client(bare, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except redis_py.RedisError:
        return met("refused without a password")
    return _open(deployment)("anybody who reaches it is let in")


@check(
    "No password is a common one", Need.SETTINGS, mend="give the role a long random password: openssl rand -base64 24"
)
def passwords(deployment: Deployment) -> Finding:
    """The passwords in the URLs are neither empty, nor among those tried first, nor the user's name, nor short."""
    if deployment.settings.database_url is None:
        return met("the embedded stack made its own")
    weak = [
        f"{name} has {fault}"
        for name, url in (("DSPEX_DATABASE_URL", _database(deployment)), ("DSPEX_BROKER_URL", _broker(deployment)))
        if (fault := _weakness(url))
    ]
    if not weak:
        return met("both are long and none of the common ones")
    return (not_met if deployment.production else warning)("; ".join(weak))


@check(
    "Roles have no more rights than they need",
    Need.POSTGRES,
    mend="run `dspex migrate --roles`, and use the role of producers here",
)
def role(deployment: Deployment) -> Finding:
    """In production DSPex does not run as a superuser, which no trigger and no grant holds back."""
    row = deployment.row("""SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles
        WHERE rolname = current_user""")
    much = [
        what
        for what, has in (("a superuser", row.rolsuper), ("may bypass row security", row.rolbypassrls)) if has
    ]  # fmt: skip
    some = [what for what, has in (("create roles", row.rolcreaterole), ("create databases", row.rolcreatedb)) if has]
    if much:
        return (not_met if deployment.production else warning)(f"{row.rolname} is {' and '.join(much)}")
    if some and deployment.production:
        return warning(f"{row.rolname} may {' and '.join(some)}")
    return met(f"{row.rolname}: no superuser" + (f"; it may {' and '.join(some)}" if some else ""))


@check(
    "Applications have roles of their own",
    Need.SCHEMA,
    mend="run `dspex migrate --roles` as the owner, and give each application a login that is a member of one role",
)
def owner(deployment: Deployment) -> Finding:
    """In production an application is not the owner of the schema, who may switch off what keeps the audit trail."""
    row = deployment.row("""SELECT current_user AS name, pg_has_role(current_user, nspowner, 'USAGE') AS owns
        FROM pg_namespace WHERE nspname = 'dspex'""")
    made = deployment.database.run(roles.in_use)
    said = f"{row.name} {'owns' if row.owns else 'does not own'} the schema; roles {'' if made else 'not '}in use"
    return warning(said) if row.owns and deployment.production else met(said)


@check(
    "What keeps the audit trail is switched on",
    Need.SCHEMA,
    mend="enable them: ALTER TABLE … ENABLE TRIGGER ALL; then `dspex audit`",
)
def triggers(deployment: Deployment) -> Finding:
    """The triggers that refuse changes of audit entries, and transitions that are none, are there and enabled."""
    rows = deployment.rows("""SELECT t.tgname AS name, bool_and(t.tgenabled = 'O') AS enabled FROM pg_trigger t
        JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'dspex' AND NOT t.tgisinternal GROUP BY t.tgname""")
    enabled = {row.name for row in rows if row.enabled}
    off = TRIGGERS - enabled
    return not_met(f"off or missing: {', '.join(sorted(off))}") if off else met(f"{len(TRIGGERS)} triggers")


@check(
    "Servers listen where they must only",
    Need.REDIS,
    mend="set bind and protected-mode in redis.conf, listen_addresses in postgresql.conf",
)
def listening(deployment: Deployment) -> Finding:
    """A Redis that listens on every address is protected by a password; Postgres on every address by TLS."""
    try:
        with deployment.redis() as client:
            bound = str(client.config_get("bind").get("bind", ""))
    except redis_py.ResponseError:  # not permitted, or renamed away, as managed ones do
        return skipped("this user of Redis may not see where it listens")
    if Need.POSTGRES in deployment.missing:
        return met(f"Redis on {bound or 'every address'}")
    listens = str(deployment.value("SELECT current_setting('listen_addresses', true)"))
    encrypts = deployment.value("SELECT current_setting('ssl', true)") == "on"
    said = f"Redis on {bound or 'every address'}, Postgres on {listens}"
    return warning(f"{said} without TLS") if listens == "*" and not encrypts and deployment.production else met(said)


@check(
    "Secret fields are sealed",
    Need.SCHEMA,
    mend="set DSPEX_ENCRYPTION_KEY (`dspex encryption key` makes one) for producers and workers",
)
def encryption(deployment: Deployment) -> Finding:
    """Programs with fields marked secret have a key to seal them with; without, they are in Postgres as they are."""
    with_secrets = sorted(program.name for program in deployment.programs if program.signature.secret_fields)
    if not with_secrets:
        return skipped("no program has a field marked secret")
    if deployment.settings.encryption_key is None:
        said = f"no key is set; secret fields have {', '.join(with_secrets)}"
        return (not_met if deployment.production else warning)(said)
    return met(f"a key is set; secret fields have {', '.join(with_secrets)}")


@check(
    "Submits are limited",
    Need.SETTINGS,
    mend="set DSPEX_RATE_LIMIT_PER_MINUTE, such as 1000, where applications submit",
)
def rate_limit(deployment: Deployment) -> Finding:
    """In production a client that submits in a loop is held back before it fills the database."""
    limit = deployment.settings.rate_limit_per_minute
    if limit is None:
        return (warning if deployment.production else met)("no limit")
    return met(f"{limit:,} a minute for each client, {deployment.settings.rate_limit_burst:,} at once")


@check("Flower asks for a password", Need.SETTINGS, mend="set DSPEX_FLOWER_PASSWORD, or DSPEX_FLOWER_PASSWORD_FILE")
def flower(deployment: Deployment) -> Finding:
    """Flower shows ids and program names, and can stop workers: nobody gets in without a password, but for oneself."""
    if deployment.settings.flower_password is not None:
        return met("a password is set")
    if deployment.settings.profile.open_flower:
        return met("it may be open here, to this machine only")
    return skipped("none is set: here Flower refuses to start without one")


def _encrypted(deployment: Deployment, url: str, how: str) -> Finding:
    if how:
        return warning(f"{how}, but the server's certificate is not checked") if is_unverified(url) else met(how)
    if is_local(url):
        return met("plain, within this machine")
    return (not_met if deployment.production else warning)("plain text, over a network")


def _open(deployment: Deployment) -> Callable[..., Finding]:
    return not_met if deployment.production else warning


def _weakness(url: str) -> str | None:
    parts = urlsplit(url)
    password = unquote(parts.password or "")
    if not password:
        return None if "sslcert=" in url or "ssl_certfile=" in url or not parts.hostname else "no password"
    if password.lower() in COMMON or password == unquote(parts.username or ""):
        return "a password that is tried first"
    return f"a password of less than {SHORT} characters" if len(password) < SHORT else None


def _database(deployment: Deployment) -> str:
    return deployment.settings.backends().database_url


def _broker(deployment: Deployment) -> str:
    return deployment.settings.backends().broker_url

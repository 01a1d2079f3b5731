"""Security: connections are encrypted, passwords are required, and roles have no more rights than they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_urlsafe

import psycopg
import redis as redis_py
from psycopg.conninfo import conninfo_to_dict

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, unknown, warning
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.publish import redis_clients
from dspex.settings.urls import credentials, is_plain_text, is_unverified, without_credentials
from dspex.store import guards, roles
from dspex.store.facts import role_facts, server_facts
from dspex.store.sessions import is_pooled, libpq_url

#: Passwords that attackers try first.
COMMON = frozenset(
    ("admin", "administrator", "changeme", "default", "dspex", "guest", "password", "passw0rd", "postgres", "qwerty",
     "redis", "root", "secret", "test", "123456", "12345678")
)  # fmt: skip
SHORT = 12
TRY_AGAIN = "correct what the error names, and run `dspex doctor` again"


@check(
    "Connections to Postgres are encrypted",
    Need.POSTGRES,
    fix="add ?sslmode=verify-full&sslrootcert=FILE to DSPEX_DATABASE_URL, and ssl = on in Postgres",
)
def postgres_tls(deployment: Deployment) -> Finding:
    """The connection from this machine to Postgres on another machine uses TLS."""
    url = deployment.database.url
    if is_pooled(url):  # Postgres only sees the connection from pgbouncer
        return _encrypted(deployment, url, "" if is_plain_text(url) else "TLS to pgbouncer")
    found = deployment.ask(role_facts.encryption)
    return _encrypted(deployment, url, f"{found.version}, {found.cipher}" if found.tls else "")


@check(
    "Connections to Redis are encrypted",
    Need.REDIS,
    fix="use rediss:// with ?ssl_ca_certs=FILE in DSPEX_BROKER_URL, and tls-port in Redis",
)
def redis_tls(deployment: Deployment) -> Finding:
    """The connection from this machine to Redis on another machine uses TLS."""
    url = deployment.broker.url
    return _encrypted(deployment, url, "TLS" if url.startswith("rediss://") else "")


@check(
    "Postgres requires a password",
    Need.POSTGRES,
    fix="use scram-sha-256 instead of trust in pg_hba.conf",
)
def postgres_door(deployment: Deployment) -> Finding:
    """A connection with a wrong password is tried, and must be refused."""
    url = libpq_url(deployment.database.url)
    with psycopg.connect(url, connect_timeout=5) as session:
        if not session.info.password:
            return not_applicable(
                "this role has no password: it is authenticated by its certificate, its system user, or by trust"
            )
    try:
        psycopg.connect(url, password=token_urlsafe(16), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if error.pgconn is not None and error.pgconn.used_password:
            return met("a wrong password is refused")
        return unknown(f"Postgres did not come to ask for the password: {_first_line(error)}", fix=TRY_AGAIN)
    return _open(deployment)("a wrong password is accepted")


@check(
    "Redis requires a password",
    Need.REDIS,
    fix="set requirepass or ACL users in Redis, and the password in DSPEX_BROKER_URL",
)
def redis_door(deployment: Deployment) -> Finding:
    """A PING without a password is tried, and must be refused."""
    try:
        bare = without_credentials(deployment.broker.url)
        with redis_clients.client(bare, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis_py.AuthenticationError, redis_py.ResponseError):
        return met("refused without a password")
    except redis_py.RedisError as error:
        return unknown(f"Redis did not come to ask for a password: {_first_line(error)}", fix=TRY_AGAIN)
    return _open(deployment)("it accepts anybody who reaches it")


@check(
    "No password is a common one", Need.SETTINGS, fix="give the role a long random password: openssl rand -base64 24"
)
def passwords(deployment: Deployment) -> Finding:
    """The passwords of the connections are not empty, common, short, or equal to the user's name."""
    if deployment.settings.database_url is None:
        return not_applicable("the embedded stack generated them")
    given = {"DSPEX_DATABASE_URL": _database_access(deployment), "DSPEX_BROKER_URL": _broker_access(deployment)}
    weak = [f"{name} has {fault}" for name, access in given.items() if (fault := weakness(access))]
    if not weak:
        return met("both are long, and neither is common")
    return (not_met if deployment.production else warning)("; ".join(weak))


@check(
    "Roles have no more rights than they need",
    Need.POSTGRES,
    fix="run `dspex migrate --roles`, and use the role of producers here",
)
def role(deployment: Deployment) -> Finding:
    """In production DSPex does not connect as a superuser, whom no trigger and no grant limits."""
    role = deployment.ask(role_facts.role)
    unlimited = {"is a superuser": role.superuser, "may bypass row security": role.bypasses_row_security}
    much = [what for what, has in unlimited.items() if has]
    some = [
        what
        for what, has in (("create roles", role.creates_roles), ("create databases", role.creates_databases))
        if has
    ]
    if much:
        return (not_met if deployment.production else warning)(f"{role.name} {' and '.join(much)}")
    if some and deployment.production:
        return warning(f"{role.name} may {' and '.join(some)}")
    return met(f"{role.name}: no superuser" + (f"; it may {' and '.join(some)}" if some else ""))


@check(
    "Applications do not use the owner's role",
    Need.SCHEMA,
    fix="run `dspex migrate --roles` as the owner, and give each application a login that is a member of one role",
)
def owner(deployment: Deployment) -> Finding:
    """In production an application does not connect as the schema's owner, who may disable the triggers that protect
    the audit trail."""
    owner = deployment.ask(role_facts.schema_owner)
    used = deployment.ask(roles.in_use)
    evidence = (
        f"{owner.role} {'owns' if owner.owns else 'does not own'} the schema; roles {'' if used else 'not '}in use"
    )
    if owner.owns:
        return (warning if deployment.production else not_applicable)(evidence)
    return met(evidence)


@check(
    "The audit trail is protected",
    Need.SCHEMA,
    fix="enable them: ALTER TABLE … ENABLE TRIGGER ALL; then `dspex audit`",
)
def triggers(deployment: Deployment) -> Finding:
    """The triggers that refuse changes of audit entries and illegal transitions exist and are enabled."""
    off = deployment.ask(guards.missing_triggers)
    return not_met(f"off or missing: {', '.join(off)}") if off else met(f"{len(guards.TRIGGERS)} triggers")


@check(
    "Servers listen only where they must",
    Need.REDIS,
    fix="set bind and protected-mode in redis.conf, listen_addresses in postgresql.conf",
)
def listening(deployment: Deployment) -> Finding:
    """A Redis that listens on every address requires a password; a Postgres that does so requires TLS."""
    try:
        with deployment.redis() as client:
            bound = str(client.config_get("bind").get("bind", ""))
    except redis_py.ResponseError:  # not permitted, or renamed, as managed services do
        return not_applicable("this user of Redis may not see where it listens")
    if Need.POSTGRES in deployment.missing:
        return met(f"Redis on {bound or 'every address'}")
    values = deployment.ask(server_facts.settings, "listen_addresses", "ssl")
    listens, encrypts = values["listen_addresses"], values["ssl"] == "on"
    evidence = f"Redis on {bound or 'every address'}, Postgres on {listens}"
    exposed = listens == "*" and not encrypts and deployment.production
    return warning(f"{evidence} without TLS") if exposed else met(evidence)


@check(
    "Secret fields are sealed",
    Need.SCHEMA,
    fix="set DSPEX_ENCRYPTION_KEY (`dspex encryption key` makes one) for producers and workers",
)
def encryption(deployment: Deployment) -> Finding:
    """Fields marked secret are encrypted if a key is set; without one they are stored as they are."""
    with_secrets = sorted(program.name for program in deployment.programs if program.signature.secret_fields)
    if not with_secrets:
        return not_applicable("no program has a field marked secret")
    if deployment.settings.encryption_key is None:
        evidence = f"no key is set; programs with secret fields: {', '.join(with_secrets)}"
        return (not_met if deployment.production else warning)(evidence)
    return met(f"a key is set; programs with secret fields: {', '.join(with_secrets)}")


@check(
    "Submits are rate-limited",
    Need.SETTINGS,
    fix="set DSPEX_RATE_LIMIT_PER_MINUTE, such as 1000, where applications submit",
)
def rate_limit(deployment: Deployment) -> Finding:
    """In production a client that submits in a loop is limited before it fills the database."""
    limit = deployment.settings.rate_limit_per_minute
    if limit is None:
        return (warning if deployment.production else not_applicable)("no limit; production needs one")
    return met(f"{limit:,} a minute for each client, {deployment.settings.rate_limit_burst:,} at once")


@check("Flower requires a password", Need.SETTINGS, fix="set DSPEX_FLOWER_PASSWORD, or DSPEX_FLOWER_PASSWORD_FILE")
def flower(deployment: Deployment) -> Finding:
    """Flower shows ids and program names, and can stop workers: it requires a password, except on localhost."""
    if deployment.settings.flower_password is not None:
        return met("a password is set")
    if deployment.settings.profile.open_flower:
        return not_applicable("it is open here, to this machine only")
    return not_applicable("none is set: here Flower refuses to start without one")


def _encrypted(deployment: Deployment, url: str, how: str) -> Finding:
    if how:
        return warning(f"{how}, but the server's certificate is not checked") if is_unverified(url) else met(how)
    if is_local(url):
        return not_applicable("plain text, within this machine")
    return (not_met if deployment.production else warning)("plain text, over a network")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _open(deployment: Deployment) -> Callable[..., Finding]:
    return not_met if deployment.production else warning


@dataclass(frozen=True, slots=True)
class Access:
    """How a connection is authenticated; ``otherwise``: it may be without a password."""

    user: str
    password: str
    otherwise: bool = False


def weakness(access: Access) -> str | None:
    """What is weak about a password; None if nothing is."""
    if not access.password:
        return None if access.otherwise else "no password"
    if access.password.lower() in COMMON or access.password == access.user:
        return "a common password"
    return f"a password of less than {SHORT} characters" if len(access.password) < SHORT else None


def _database_access(deployment: Deployment) -> Access:
    """As libpq understands the URL, its environment and its password file, where Postgres can be reached."""
    url = libpq_url(deployment.settings.backends().database_url)
    given = conninfo_to_dict(url)
    by_certificate = "sslcert" in given
    if Need.POSTGRES not in deployment.missing:
        with psycopg.connect(url, connect_timeout=5) as session:
            by_socket = not session.info.host or session.info.host.startswith("/")
            return Access(session.info.user, session.info.password, by_certificate or by_socket)
    # A password outside the URL is not known.
    return Access(str(given.get("user", "")), str(given.get("password", "")), otherwise=True)


def _broker_access(deployment: Deployment) -> Access:
    url = deployment.settings.backends().broker_url
    user, password = credentials(url)
    return Access(user, password, "ssl_certfile=" in url)

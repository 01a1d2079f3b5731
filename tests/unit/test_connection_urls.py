"""URLs of Postgres and Redis: refused with a reason, or understood by every component in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu.utils.url import parse_url
from psycopg.conninfo import conninfo_to_dict

from dspex.errors import ConfigurationError
from dspex.publish.redis_clients import kombu_url
from dspex.settings import Settings, without_password
from dspex.settings.sentinels import Sentinels
from dspex.settings.urls import is_plain_text
from dspex.store.sessions import connect_arguments, is_pooled, libpq_url

POSTGRES, REDIS = "postgresql://u:p@127.0.0.1/d", "redis://127.0.0.1/0"


def refusal(**urls: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(**{"database_url": POSTGRES, "broker_url": REDIS, **urls})
    return str(refused.value)


@pytest.mark.parametrize("password", ["57#Wc903z", "57?Wc903z", "57/Wc903z", "pa@Wc903z", "#Wc903z", "p:57#Wc903z"])
def test_a_character_that_ends_the_password_is_refused_and_the_password_is_shown_nowhere(password: str) -> None:
    for name, url in (
        ("database_url", f"postgresql://shop:{password}@db.example/dspex"),
        ("broker_url", f"redis://:{password}@redis.example:6379/0"),
        ("broker_url", f"redis+sentinel://u:{password}@s1:26379,s2:26379/mymaster/0"),
    ):
        message = refusal(**{name: url})
        assert "%23" in message
        assert "%40" in message
        assert "Wc903z" not in message + without_password(url)


@pytest.mark.parametrize("password", ["50%off", "a%2", "%"])
def test_a_percent_sign_that_encodes_nothing_is_refused(password: str) -> None:
    for name, scheme in (("database_url", "postgresql"), ("broker_url", "redis")):
        message = refusal(**{name: f"{scheme}://u:{password}@127.0.0.1/1"})
        assert "%25" in message
        assert password not in message.replace("%23 %3F %2F %40 %3A %25", "").replace("# ? / @ : %", "")


@pytest.mark.parametrize(("password", "means"), [("50%25off", "50%off"), ("%2541", "%41"), ("a%252Fb", "a%2Fb")])
def test_an_encoded_percent_sign_is_read_alike(password: str, means: str) -> None:
    settings = Settings.load(database_url=f"postgresql://u:{password}@h/d", broker_url=f"redis://u:{password}@h/0")
    database_url, broker_url = settings.backends()
    assert conninfo_to_dict(libpq_url(database_url))["password"] == means
    assert parse_url(kombu_url(broker_url))["password"] == means


@pytest.mark.parametrize(
    ("given", "means"), [("CERT_NONE", "none"), ("CERT_REQUIRED", "required"), ("Required", "required")]
)
def test_how_a_server_is_verified_is_read_alike(given: str, means: str) -> None:
    settings = Settings.load(database_url=POSTGRES, broker_url=f"rediss://h:6379/0?ssl_cert_reqs={given}&db=1")
    assert settings.backends().broker_url == f"rediss://h:6379/0?ssl_cert_reqs={means}&db=1"


def test_another_way_to_verify_a_server_is_refused() -> None:
    assert "none, optional or required" in refusal(broker_url="rediss://h:6379/0?ssl_cert_reqs=False")


@pytest.mark.parametrize("path", ["/dspex", "/0/", "/0/1", "/-1"])
def test_a_database_of_redis_has_a_number(path: str) -> None:
    assert "number of a database" in refusal(broker_url=f"redis://127.0.0.1:6379{path}")


def test_sentinels_by_their_addresses_and_with_a_user() -> None:
    url = "redis+sentinel://dspex_worker:p%40ss%2F@[::1]:26379,s2/mymaster/0"
    assert Settings.load(database_url=POSTGRES, broker_url=url).backends().broker_url == url
    sentinels = Sentinels.of(url)
    assert sentinels is not None
    assert sentinels.hosts == (("::1", 26379), ("s2", 26379))
    assert sentinels.access == {"db": 0, "username": "dspex_worker", "password": "p@ss/"}
    assert kombu_url(url).startswith("sentinel://dspex_worker:p%40ss%2F@[::1]:26379/0;")
    second = Sentinels.of("redis+sentinel://s2,[::1]:26380/mymaster/0")
    assert second is not None
    assert second.hosts == (("s2", 26379), ("::1", 26380))
    assert "in brackets" in refusal(broker_url="redis+sentinel://::1:26379/mymaster/0")
    assert "number of a database" in refusal(broker_url="redis+sentinel://s1/mymaster/zero")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://u:p@pg1:5432,pg2:5432/dspex?target_session_attrs=read-write", False),
        ("postgresql://u:p@127.0.0.1:5432,[::1]:5433/dspex", True),
        ("postgresql://u:p@127.0.0.1,db.example/dspex", False),
        ("postgresql://u:p@/dspex?host=pg1,pg2&port=5432,5432", False),
        ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/dspex", True),
        ("postgresql:///dspex?host=/cloudsql/proj:europe-west1:inst", True),
        ("postgresql:///?service=dspex", True),
    ],
)
def test_several_hosts_and_sockets(url: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_plain_text(url) is not local
    assert Settings.load(database_url=url, broker_url=REDIS).backends().database_url == url
    assert libpq_url(url) == url
    assert connect_arguments(url, "tests")["fallback_application_name"] == "tests"


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    message = refusal(database_url="postgresql://u:p@/dspex?host=pg1:5432&host=pg2:5432")
    assert "has host twice" in message
    assert "separated by commas" in message


def test_the_parameters_of_a_url_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://u:p@h/d?application_name=a+b&connect_timeout=30&options=-c%20statement_timeout%3D5000"
    arguments = connect_arguments(url, "dspex client")
    assert "connect_timeout" not in arguments
    before, _, after = arguments["options"].partition("-c statement_timeout=5000")
    assert "-c statement_timeout=0" in before
    assert "-c timezone=UTC" in after
    monkeypatch.setenv("PGOPTIONS", "-c role=app")
    assert " -c role=app " in connect_arguments(POSTGRES, "dspex client")["options"]
    assert "role=app" not in connect_arguments(url, "dspex client")["options"]


def test_a_pooled_url_keeps_its_other_parameters_as_they_are() -> None:
    url = "postgresql://u:p@h/d?options=endpoint%3Dep-cool-1%20-c%20a%3Db+c&pgbouncer=true"
    assert is_pooled(url)
    assert libpq_url(url) == "postgresql://u:p@h/d?options=endpoint%3Dep-cool-1%20-c%20a%3Db+c"
    assert "options" not in connect_arguments(url, "tests")

#!/usr/bin/env bash
# Run once by the postgres image, as its superuser, in an empty cluster: an owner that is not a superuser, and a login
# for each role of `dspex migrate --roles`.
set -euo pipefail

login() { # NAME [GROUP]
    psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set login="dspex_$1_login" --set group="${2:-}" --set password="$(cat "/run/secrets/postgres_$1")" <<'SQL'
SELECT format('CREATE ROLE %I NOLOGIN', :'group') WHERE :'group' <> '' \gexec
CREATE ROLE :"login" LOGIN PASSWORD :'password';
SELECT format('GRANT %I TO %I', :'group', :'login') WHERE :'group' <> '' \gexec
SQL
}

login owner
for role in producer worker reader; do login "$role" "dspex_$role"; done
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --command "CREATE DATABASE dspex OWNER dspex_owner_login"

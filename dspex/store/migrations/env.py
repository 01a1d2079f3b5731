"""Alembic's entry: runs the migrations on the connection that dspex.store.migrate hands over."""

from alembic import context

from dspex.store.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    version_table="schema_version",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()

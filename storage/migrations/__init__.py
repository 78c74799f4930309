"""Alembic's folder: how the schema came to be, one step a file. Run through `storage.migrate.migrate`."""

"""PostgreSQL: pool, named queries, migrations, batches, notifications, and the embedded server."""

"""What outlives the process, on SQLite and on PostgreSQL."""

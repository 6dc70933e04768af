"""What outlives the process, in a database that SQLAlchemy can reach."""

"""State in a relational database, through SQLAlchemy Core: SQLite or PostgreSQL."""

"""What the application does, in plain Python that knows nothing of buses."""

"""The laws, by properties."""

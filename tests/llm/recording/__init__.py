"""Tests of recordings, and the runs that they have in common."""

"""Tests of the command line, most of them against the real program."""

"""Measures Warmer against live services: recall, indexing rate, latency and memory. See README.md beside this file."""

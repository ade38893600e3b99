"""A round, from the request to the terminal event: who runs it, its stages, and who follows it."""

"""The orchestrator: keeps sessions and rounds in Redis and joins embedder, captioner and rewriter into the loop."""

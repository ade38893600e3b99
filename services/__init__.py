"""The servers of Warmer: embedder, captioner, rewriter, orchestrator, and the local stack that joins all four."""

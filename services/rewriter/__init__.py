"""The rewriter: makes one better query of the last query, the captions of marked images and the person's comment."""

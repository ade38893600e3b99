"""Vector indexes: in memory, derived from a collection's record, rebuilt from it whenever in doubt."""

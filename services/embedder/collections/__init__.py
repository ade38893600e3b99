"""Collections on disk: SQLite is the record, image files lie beside it by content hash, the index is derived."""

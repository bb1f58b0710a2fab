"""Reading, cutting and embedding documents, and ranking their chunks. No database, no vector store, no network."""

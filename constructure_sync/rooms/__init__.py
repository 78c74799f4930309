"""The place on this instance where a document is open: its history, its connections, its presence."""

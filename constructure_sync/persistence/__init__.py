"""Getting updates onto disk and history back from it."""

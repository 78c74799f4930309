"""One suite per contract of `storage.contracts`, run over every backend."""

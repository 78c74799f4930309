"""A whole instance with its clients under a virtual clock: every delay, cut and failure comes from one seed (R14)."""

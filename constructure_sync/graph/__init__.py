"""The course graph on top of a document: what is derived from the log, later and off the path of an update."""

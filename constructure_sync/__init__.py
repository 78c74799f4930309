"""Constructure sync: a real-time collaboration server for course graphs, each course one Yjs document."""

"""Bytes ↔ meaning, pure: no I/O, no clock; limits are arguments."""

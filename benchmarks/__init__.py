"""Measures the server under load, as its users meet it: real processes, real sockets, real disks."""

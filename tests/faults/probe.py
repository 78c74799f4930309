"""Asks a server for its health at a steady pace until standard input has something, then writes the answer times as doubles."""

import http.client
import select
import struct
import sys
import time

from tests.server_process import HOST


def main(port: int, interval: float) -> None:
    """Ask over one kept-alive connection. interval: seconds between two questions."""
    times: list[float] = []
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    while not select.select([sys.stdin], [], [], interval)[0]:
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        times.append(time.perf_counter() - started)
    connection.close()
    sys.stdout.buffer.write(struct.pack(f"<{len(times)}d", *times))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))

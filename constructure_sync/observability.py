"""Metrics and structured logs. Label values are bounded: no course, user or address ever becomes a label."""

import logging
import sys
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

HTTP_REQUESTS = Counter("http_requests_total", "REST requests answered.", ("method", "route", "status"))
HTTP_DURATION = Histogram("http_request_duration_seconds", "Time to answer a REST request.", ("method", "route"))

CONNECTIONS = Gauge("websocket_connections_active", "Open WebSockets.", ("family",), multiprocess_mode="livesum")
REFUSED_CONNECTIONS = Counter("websocket_connections_refused_total", "Upgrades refused, by reason.", ("reason",))
SOCKETS_CLOSED = Counter("websocket_closed_total", "WebSockets closed by the server, by close code.", ("code",))
CONNECTIONS_BEHIND = Gauge(
    "connections_behind", "Connections that have not taken what is there for them.", multiprocess_mode="livesum"
)

ROOMS = Gauge("rooms", "Rooms of this instance, by state.", ("state",), multiprocess_mode="livesum")
ROOMS_LOADED = Counter("rooms_loaded_total", "Loads of a document into a room that were begun.")
UPDATES_TAKEN = Counter("updates_taken_total", "Updates that entered a room's history.")
UPDATES_EMPTY = Counter("updates_empty_total", "Updates that held nothing new.")
UPDATES_CUT = Counter(
    "updates_cut_total", "Updates of which a part was left out because something before it is missing."
)
UPDATES_REFUSED = Counter("updates_refused_total", "Updates refused, by reason.", ("reason",))
LIMIT_REACHED = Counter("limit_reached_total", "Times a limit was reached, by limit.", ("limit",))
PRESENCE_RECEIVED = Counter("presence_frames_total", "Awareness frames received, by what became of them.", ("outcome",))
RELAY_DELAY = Histogram(
    "relay_delay_seconds", "From taking an update to handing it to the neighbours' sockets.", buckets=_FAST
)
TIME_TO_RECEIPT = Histogram("time_to_receipt_seconds", "From taking an update to its commit.", buckets=_FAST)

COMMIT_UPDATES = Histogram("commit_batch_updates", "Updates per commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 500, 2000))
COMMIT_DURATION = Histogram("commit_duration_seconds", "Time of one commit.", buckets=_FAST)
COMMIT_FAILURES = Counter("commit_failures_total", "Commits that failed and are tried again.")
UNSAVED_BYTES = Gauge("unsaved_bytes", "Bytes taken and not yet committed.", multiprocess_mode="livesum")
STRANDED_CHANGES = Counter("stranded_changes_total", "Refused writes kept aside, by reason.", ("reason",))
LOG_READS = Counter("log_reads_total", "Times a room read from its log what the bus had not brought.")
LOGS_HEALED = Counter(
    "logs_healed_total", "Times a log was not the one followed before, and was offered what it lacks."
)
COMPACTIONS = Counter("compactions_total", "Compactions of a document's log, by outcome.", ("outcome",))
UPKEEP = Counter(
    "upkeep_runs_total", "Runs of the jobs that one of all instances does, by outcome.", ("job", "outcome")
)
BUS_PUBLISHED = Counter("bus_published_total", "Messages given to the bus for other instances, by kind.", ("kind",))
BUS_HEARD = Counter("bus_heard_total", "Messages of other instances that were heard, by kind.", ("kind",))
BUS_LOST = Counter(
    "bus_lost_total",
    "Messages that this instance could not send, had no room for or could not read, by kind.",
    ("kind",),
)
BUS_CONNECTED = Gauge("bus_connected", "Whether the bus can be reached: 1 or 0.", multiprocess_mode="livemin")
BUS_LAG = Histogram("bus_lag_seconds", "From publishing a message to hearing it back from the bus.", buckets=_FAST)
CIRCUIT_BREAKER = Gauge(
    "circuit_breaker",
    "1 for the state in which the breaker before a service is: closed, open or half_open.",
    ("service", "state"),
    multiprocess_mode="livemax",
)
WORKER_RETRIES = Counter("worker_retries_total", "Jobs repeated because a worker process died or hung.")


_shared_folder: Path | None = None


def show_metrics_of(folder: Path) -> None:
    """Let `metrics_page` give the sums over all processes that keep their metrics in the folder (prometheus-client's mode)."""
    global _shared_folder
    _shared_folder = folder


def metrics_page() -> bytes:
    """Return all metrics in the Prometheus text format: this process', or those of all workers of this machine."""
    if _shared_folder is None:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(_shared_folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def configure_logging(level: str = "INFO") -> None:
    """Log JSON lines to standard error: standard output belongs to the command line's own words."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger of the calling module; fields are passed as keywords, never content or secrets."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger

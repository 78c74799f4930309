"""What operators and their machines ask: alive, able to serve, numbers."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from constructure_sync.rest.endpoint import Call, NoBody, json_response
from schemas.rest import HealthBody


async def health(_: Call[NoBody]) -> Response:
    """200 while the process answers at all."""
    return json_response(HealthBody(status="ok"))


async def ready(call: Call[NoBody]) -> Response:
    """200 when this instance can serve, else 503 with the reasons; in both cases what is degraded."""
    readiness = await call.services.ready()
    status = "ready" if readiness.ready else "not_ready"
    body = HealthBody(status=status, reasons=readiness.reasons, degraded=readiness.degraded)
    return json_response(body, 200 if readiness.ready else 503)


async def metrics(call: Call[NoBody]) -> Response:
    """Every metric in the Prometheus text format."""
    return Response(call.services.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

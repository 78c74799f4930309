"""compose.yaml: what every service must have, and the settings and the proxy's configuration that it names."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from constructure_sync.settings import PREFIX, Settings
from tests.deployment.chart import read_yaml

# The documented keys that this file uses; one that Compose does not know would be a slip of the pen.
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "logging", "networks",
    "ports", "read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "ulimits", "user", "volumes",
}  # fmt: skip
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
SECRETS = ("CONSTRUCTURE_SECRET_KEY", "POSTGRES_PASSWORD", "VALKEY_PASSWORD")

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    """The compose file, anchors and merges resolved."""
    return read_yaml(repository / "compose.yaml")


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    """Service → what it is."""
    found: dict[str, Service] = compose["services"]
    return found


@pytest.fixture(scope="module")
def proxy(repository: Path) -> str:
    """The proxy's configuration."""
    return (repository / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")


def texts(node: object) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def test_every_key_is_one_that_compose_knows(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service.keys() <= SERVICE_KEYS, name


def test_every_service_is_confined(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        # Ours runs as the image says; the others are told.
        assert service["image"].startswith("constructure-sync:") or not service["user"].startswith("0")
        assert "/tmp" in service["tmpfs"]


def test_every_service_waits_for_what_it_needs(services: dict[str, Service]) -> None:
    needs = {
        name: {other: condition["condition"] for other, condition in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }

    for name, conditions in needs.items():
        assert conditions.keys() <= services.keys(), name
        assert set(conditions.values()) <= CONDITIONS
    assert needs["constructure-sync"] == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "valkey": "service_healthy",
    }
    assert needs["migrate"] == {"postgres": "service_healthy"}
    for waited_for in ("postgres", "valkey"):
        assert services[waited_for]["healthcheck"]["test"]


def test_there_are_several_instances_that_only_the_proxy_reaches(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert services["constructure-sync"]["deploy"]["replicas"] == 3
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert all(":-127.0.0.1:" in port for port in services["proxy"]["ports"])
    assert "stores" not in services["proxy"]["networks"]
    assert compose["networks"]["instances"]["internal"] is compose["networks"]["stores"]["internal"] is True
    for service in services.values():
        assert set(service["networks"]) <= compose["networks"].keys()


def test_the_proxy_is_the_only_one_believed(compose: dict[str, Any], proxy: str) -> None:
    (network,) = compose["networks"]["instances"]["ipam"]["config"]
    trusted = compose["services"]["constructure-sync"]["environment"]["CONSTRUCTURE_TRUSTED_PROXIES"]

    assert ipaddress.ip_network(trusted) == ipaddress.ip_network(network["subnet"])
    assert "http-request set-header X-Forwarded-For %[src]" in proxy


def test_every_variable_is_a_setting_that_the_server_takes(
    services: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = services["constructure-sync"]["environment"]
    for name, value in environment.items():
        filled = re.sub(r"\$\{\w+:\?[^}]*\}", "x" * 40, value)
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", filled))
    settings = Settings()

    assert environment.keys() <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert environment == services["migrate"]["environment"]
    assert settings.database_url == f"postgresql://constructure:{'x' * 40}@postgres:5432/constructure"
    assert settings.bus_url == f"redis://:{'x' * 40}@valkey:6379/0"


def test_every_secret_is_asked_for_and_none_is_written_down(compose: dict[str, Any], repository: Path) -> None:
    mentioned = [text for text in texts(compose) if any(secret in text for secret in SECRETS)]

    assert mentioned
    for text in mentioned:
        for secret in SECRETS:
            assert text.count(secret) == text.count(f"${{{secret}:?")
    passwords = [value for service in compose["services"].values() for value in service.get("environment", {}).items()]
    for name, value in passwords:
        assert value.startswith("${") or not re.search("PASSWORD|SECRET|AUTH$", name), name
    assert "/.env" in (repository / ".gitignore").read_text().splitlines()


def test_the_commands_at_the_top_make_every_secret_that_is_asked_for(repository: Path) -> None:
    text = (repository / "compose.yaml").read_text(encoding="utf-8")

    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(SECRETS)
    (made,) = re.findall(r"for name in ([\w ]+); do", text)
    assert tuple(made.split()) == SECRETS


def test_every_mounted_file_is_there(services: dict[str, Service], compose: dict[str, Any], repository: Path) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source, target, *rights = volume.split(":")
            if source.startswith("."):
                assert (repository / source).is_file()
                assert rights == ["ro"]
            else:
                assert source in compose["volumes"]
            assert target.startswith("/")


def test_there_is_time_to_drain_as_in_the_chart(services: dict[str, Service]) -> None:
    drain = Settings.model_fields["drain_seconds"].default
    commit = Settings.model_fields["database_timeout_seconds"].default

    assert int(services["constructure-sync"]["stop_grace_period"].removesuffix("s")) >= drain + 10 + 2 * commit + 5


def test_the_proxy_picks_the_instance_by_course_and_logs_no_tokens(proxy: str) -> None:
    sync = proxy.partition("\nbackend sync\n")[2].partition("\nbackend ")[0]

    assert "balance uri depth 2\n" in sync
    assert "hash-type consistent\n" in sync
    assert "GET uri /ready" in sync
    (log_format,) = re.findall(r'log-format "([^"]+)"', proxy)
    # %HPO is the path alone; %HU, %r and %HQ would hold the query string.
    assert not re.search(r"%(?:\{[^}]*\})?(?:HU|HUO|HQ|r)\b", log_format)
    assert "option httplog" not in proxy
    (tunnel,) = re.findall(r"timeout tunnel (\d+)h", proxy)
    assert int(tunnel) * 3600 > Settings.model_fields["keepalive_seconds"].default

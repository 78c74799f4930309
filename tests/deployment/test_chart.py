"""The chart in both worlds: valid for Kubernetes, nobody is root, nothing is secret, and what cannot work is refused."""

import json
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from helm_python import HelmError, lint

from constructure_sync.settings import PREFIX, Settings
from tests.deployment.chart import (
    CHART,
    RELEASE,
    Manifest,
    Values,
    notes,
    of_kind,
    only,
    pods,
    read_yaml,
    render,
    scaled,
    variables,
)

EMBEDDED: Values = {}
EVERYTHING = scaled(
    {
        "settings": {"max_document_bytes": 33_554_432, "drain_seconds": 7.5, "registration_open": False},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.internal:3128"}],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "priorityClassName": "high",
        "podLabels": {"team": "courses"},
        "podAnnotations": {"note": "1"},
        "service": {"annotations": {"note": "1"}},
        "serviceAccount": {"annotations": {"note": "1"}},
        "ingress": {"controller": "nginx", "annotations": {"note": "1"}, "syncAnnotations": {"note": "2"}},
        "networkPolicy": {
            "database": {"port": 6432, "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
            "extraEgress": [{"ports": [{"port": 443, "protocol": "TCP"}]}],
        },
    }
)
WORLDS = {
    "embedded": EMBEDDED,
    "scaled": scaled(),
    "everything": EVERYTHING,
    "elsewhere": {"ingress": {"enabled": True, "controller": "other", "host": "a.example.org"}},
    "existing claim": {"persistence": {"existingClaim": "old"}, "secret": {"existingSecret": "mine"}},
    "ephemeral": {
        "persistence": {"enabled": False},
        "serviceAccount": {"create": False},
        "strategy": {"type": "Recreate"},
    },
}
SECRETS = {
    "CONSTRUCTURE_SECRET_KEY": "k" * 40,
    "CONSTRUCTURE_DATABASE_URL": "postgresql://user:password@postgres/constructure",
    "CONSTRUCTURE_BUS_URL": "redis://:password@redis:6379/0",
}
SYNC = f"{RELEASE}-constructure-sync-sync"


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Values:
    """Values of one release after another."""
    return WORLDS[request.param]


@pytest.fixture
def manifests(world: Values) -> list[Manifest]:
    """Every manifest of that release."""
    return render(world)


def test_lint_finds_nothing(world: Values) -> None:
    report = lint(CHART, world, strict=True, namespace="courses")

    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_every_manifest_is_valid_for_the_oldest_and_the_newest_kubernetes(
    manifests: list[Manifest], version: str
) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    deployment = only(render(EMBEDDED), "Deployment")
    deployment["spec"]["template"]["spec"]["readOnlyRoot"] = True

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_no_container_is_root_or_can_become_it_or_write(manifests: list[Manifest]) -> None:
    for kind, pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True, kind
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"]


def test_every_container_has_requests_and_limits_and_the_server_probes(manifests: list[Manifest]) -> None:
    for kind, pod in pods(manifests):
        for container in pod["containers"]:
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}, kind
    (server,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert server["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert server["livenessProbe"]["httpGet"]["path"] == server["startupProbe"]["httpGet"]["path"] == "/health"


def test_no_secret_is_a_text(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        texts = {name for name, value in variables(pod, manifests).items() if isinstance(value, str)}
        assert texts & SECRETS.keys() == set()
    assert of_kind(manifests, "Secret") == []


def test_every_variable_is_a_setting(manifests: list[Manifest]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}

    for _, pod in pods(manifests):
        ours = {name for name in variables(pod, manifests) if name.startswith(PREFIX)}
        assert ours <= known


def test_the_schema_takes_every_setting_that_has_no_value_of_its_own() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    taken = schema["properties"]["settings"]["propertyNames"]["enum"]

    elsewhere = {"data_dir", "database_url", "bus_url", "host", "port", "secret_key", "public_url"}
    assert taken == sorted(Settings.model_fields.keys() - elsewhere), "bring the list in values.schema.json up to date"


def test_every_release_has_settings_that_the_server_takes(
    manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, pod in pods(manifests):
        with monkeypatch.context() as environment:
            for name, value in variables(pod, manifests).items():
                environment.setenv(name, value if isinstance(value, str) else SECRETS[name])

            Settings()


def test_values_reach_the_server_as_they_were_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in only(render(EVERYTHING), "ConfigMap")["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()

    assert settings.max_document_bytes == 33_554_432
    assert settings.drain_seconds == 7.5
    assert settings.registration_open is False
    assert settings.public_url == "https://courses.example.org"
    assert settings.bus_prefix == f"courses.{RELEASE}-constructure-sync"
    assert (settings.host, settings.port, str(settings.data_dir)) == ("0.0.0.0", 8000, "/data")


def test_no_service_can_set_the_servers_variables(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        assert pod["enableServiceLinks"] is False


def test_every_selector_selects_the_servers_pods(manifests: list[Manifest]) -> None:
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    budgets = [budget["spec"]["selector"]["matchLabels"] for budget in of_kind(manifests, "PodDisruptionBudget")]
    services = [service["spec"]["selector"] for service in of_kind(manifests, "Service")]
    policy = only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]

    for selector in (*budgets, *services, policy, only(manifests, "Deployment")["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    for job in of_kind(manifests, "Job"):
        for service in services:
            assert not service.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def test_the_embedded_world_is_one_instance_on_a_volume() -> None:
    manifests = render(EMBEDDED)
    deployment = only(manifests, "Deployment")["spec"]

    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    claim = only(manifests, "PersistentVolumeClaim")["metadata"]
    assert claim["annotations"]["helm.sh/resource-policy"] == "keep"
    assert {"name": "data", "persistentVolumeClaim": {"claimName": claim["name"]}} in deployment["template"]["spec"][
        "volumes"
    ]
    assert only(manifests, "NetworkPolicy")["spec"]["egress"] == []
    for absent in ("HorizontalPodAutoscaler", "PodDisruptionBudget", "Job", "Ingress"):
        assert of_kind(manifests, absent) == []


def test_the_scaled_world_has_three_to_ten_instances() -> None:
    manifests = render(scaled())
    autoscaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    targets = {
        each["resource"]["name"]: each["resource"]["target"]["averageUtilization"] for each in autoscaler["metrics"]
    }

    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (3, 10)
    assert targets == {"cpu": 70, "memory": 80}
    assert "replicas" not in only(manifests, "Deployment")["spec"]
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    assert only(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert only(manifests, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    ports = [port["port"] for rule in only(manifests, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5432, 6379]


def test_the_migration_runs_before_anything_of_the_release_exists() -> None:
    manifests = render(EVERYTHING)
    job = only(manifests, "Job")
    pod = job["spec"]["template"]["spec"]

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert pod["containers"][0]["args"] == ["migrate"]
    assert "envFrom" not in pod["containers"][0]
    assert "serviceAccountName" not in pod
    assert job["spec"]["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 5 + 5 + 10 + 20 + 5), ({"drain_seconds": 60.5, "database_timeout_seconds": 30}, 5 + 61 + 10 + 60 + 5)],
)
def test_the_grace_period_covers_the_whole_drain(settings: dict[str, float], seconds: int) -> None:
    pod = only(render({"settings": settings}), "Deployment")["spec"]["template"]["spec"]

    assert pod["terminationGracePeriodSeconds"] == seconds
    assert pod["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def test_the_grace_period_counts_on_the_servers_own_defaults() -> None:
    pod = only(render(EMBEDDED), "Deployment")["spec"]["template"]["spec"]
    told = {name: Settings.model_fields[name].default for name in ("drain_seconds", "database_timeout_seconds")}

    assert only(render({"settings": told}), "Deployment")["spec"]["template"]["spec"] | {"containers": []} == pod | {
        "containers": []
    }


def annotations(manifests: list[Manifest]) -> tuple[dict[str, str], dict[str, str]]:
    """The annotations of the Ingress for sockets, and of the other."""
    by_name = {
        each["metadata"]["name"]: each["metadata"].get("annotations", {}) for each in of_kind(manifests, "Ingress")
    }
    return by_name.pop(SYNC), by_name.popitem()[1]


def test_haproxy_picks_the_instance_by_course() -> None:
    sync, rest = annotations(render(scaled()))

    assert sync["haproxy.org/load-balance"] == "uri depth 2"
    assert sync["haproxy.org/backend-config-snippet"] == "hash-type consistent\ntimeout tunnel 3600s\n"
    assert "uri" not in rest["haproxy.org/load-balance"]


def test_nginx_picks_the_instance_by_course() -> None:
    manifests = render(EVERYTHING)
    sync, rest = annotations(manifests)
    paths = {
        path["path"]: path["pathType"]
        for ingress in of_kind(manifests, "Ingress")
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    }

    assert sync["nginx.ingress.kubernetes.io/upstream-hash-by"] == "$course"
    assert sync["nginx.ingress.kubernetes.io/use-regex"] == "true"
    assert paths["/sync/(?<course>[^/]+)"] == "ImplementationSpecific"
    assert "nginx.ingress.kubernetes.io/upstream-hash-by" not in rest
    for each in (sync, rest):
        assert int(each["nginx.ingress.kubernetes.io/proxy-read-timeout"]) >= 3600
        assert each["nginx.ingress.kubernetes.io/enable-access-log"] == "false"
    assert (sync["note"], rest["note"]) == ("2", "1")


def test_each_ingress_has_a_service_of_its_own_and_metrics_stay_inside(manifests: list[Manifest]) -> None:
    services = {service["metadata"]["name"] for service in of_kind(manifests, "Service")}
    paths = [path for ingress in of_kind(manifests, "Ingress") for path in ingress["spec"]["rules"][0]["http"]["paths"]]

    assert len(services) == max(1, len(of_kind(manifests, "Ingress")))
    assert {path["backend"]["service"]["name"] for path in paths} <= services
    assert not [path for path in paths if path["path"] in ("/", "/metrics", "/ready", "/health")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicaCount": 2}, "need database.type=postgresql"),
        (scaled({"database": {"type": "sqlite"}}), "need database.type=postgresql"),
        (scaled({"bus": {"type": "local"}}), "need bus.type=redis"),
        (
            scaled({"autoscaling": {"enabled": False}, "replicaCount": 3, "bus": {"type": "local"}}),
            "need bus.type=redis",
        ),
        ({"settings": {"workers": 2}}, "settings.workers > 1 needs bus.type=redis"),
        (scaled({"secret": {"existingSecret": ""}}), "need secret.existingSecret"),
        (scaled({"autoscaling": {"minReplicas": 11}}), "must not exceed autoscaling.maxReplicas"),
        (scaled({"ingress": {"host": ""}}), "needs ingress.host"),
        ({"podDisruptionBudget": {"enabled": True}}, "podDisruptionBudget.enabled needs several instances"),
        ({"strategy": {"type": "RollingUpdate"}}, "strategy must be Recreate"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(values: Values, message: str) -> None:
    with pytest.raises(HelmError, match=message):
        render(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"database": {"type": "mysql"}}, "/database/type"),
        ({"database": {"url": "postgresql://user:password@host/db"}}, "additional properties 'url' not allowed"),
        ({"settings": {"secret_key": "in clear"}}, "invalid propertyName 'secret_key'"),
        ({"settings": {"log_levle": "DEBUG"}}, "invalid propertyName 'log_levle'"),
        ({"extraEnv": [{"name": "CONSTRUCTURE_BUS_URL", "value": "redis://host"}]}, "/extraEnv/0/name"),
        ({"resources": {"limits": {"memory": None}}}, "missing property 'memory'"),
        ({"autoscaling": {"cpuPercent": 170}}, "/autoscaling/cpuPercent"),
        ({"publicUrl": "courses.example.org"}, "/publicUrl"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: Values, message: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(values)
    assert message in str(refused.value)


def test_every_object_of_the_schema_is_closed_but_those_of_kubernetes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_objects: set[str] = set()

    def look(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "additionalProperties" not in node:
                open_objects.add(path)
            for key, value in node.items():
                look(value, f"{path}/{key}")
        elif isinstance(node, list):
            for each in node:
                look(each, path)

    look(schema, "")
    assert open_objects == {
        "/properties/global",
        "/properties/affinity",
        "/properties/extraEnv/items",
        "/properties/networkPolicy/properties/extraEgress/items",
        "/properties/networkPolicy/properties/from/items",
        "/properties/strategy/oneOf/properties/rollingUpdate",
        "/properties/tolerations/items",
        "/$defs/peer/properties/to/items",
    }


def test_the_notes_warn_of_what_would_be_lost() -> None:
    assert "WARNING: persistence is off" in notes(WORLDS["ephemeral"])
    assert "WARNING" not in notes(EMBEDDED)
    assert "settings.trusted_proxies is empty" in notes(scaled())
    assert "https://courses.example.org" in notes(scaled())


def test_the_scaled_values_only_name_values_of_the_chart() -> None:
    assert read_yaml(CHART / "values-scaled.yaml").keys() <= read_yaml(CHART / "values.yaml").keys()

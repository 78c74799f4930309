"""The Helm chart, rendered offline into manifests."""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from helm_python import Chart, values_from_yaml

CHART: Final = Path(__file__).resolve().parent.parent.parent / "helm" / "constructure-sync"
RELEASE: Final = "demo"
NAMESPACE: Final = "courses"

Values = dict[str, Any]
Manifest = dict[str, Any]


@functools.cache
def _chart() -> Chart:
    return Chart.load(CHART)


def read_yaml(path: Path) -> Values:
    """Return the one document of a YAML file, anchors and merges resolved."""
    return values_from_yaml(path.read_text(encoding="utf-8"))


def scaled(overrides: Mapping[str, Any] | None = None) -> Values:
    """Return the values of the scaled world, with some of them replaced."""
    return _merged(read_yaml(CHART / "values-scaled.yaml"), overrides or {})


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Values:
    both = dict(values)
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = _merged(both[key], value) if nested else value
    return both


def render(values: Values) -> list[Manifest]:
    """Return every manifest of a release with these values. HelmError: the values cannot be used."""
    files = _chart().render(values, name=RELEASE, namespace=NAMESPACE)
    return [
        values_from_yaml(document)
        for name, content in files.items()
        if name.endswith(".yaml")
        for document in re.split(r"^---$", content, flags=re.MULTILINE)
        if document.strip()
    ]


def notes(values: Values) -> str:
    """Return what the operator is told after an installation."""
    return _chart().render(values, name=RELEASE, namespace=NAMESPACE)["constructure-sync/templates/NOTES.txt"]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """Return the one manifest of a kind."""
    (manifest,) = of_kind(manifests, kind)
    return manifest


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield (kind, pod specification) of everything that starts pods."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["kind"], cast(Manifest, manifest["spec"]["template"]["spec"])


def variables(pod: Manifest, manifests: list[Manifest]) -> dict[str, Any]:
    """Variable → text or reference, of a pod's only container, ConfigMaps of the release read in."""
    (container,) = pod["containers"]
    found: dict[str, Any] = {}
    for source in container.get("envFrom", []):
        found |= only(manifests, "ConfigMap")["data"] if "configMapRef" in source else {}
    return found | {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}

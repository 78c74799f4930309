"""The Dockerfile: linted, and what it promises of the image."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from constructure_sync.settings import PREFIX, Settings
from tests.deployment.chart import CHART, read_yaml
from tests.deployment.image import DOCKERFILE, environment, health_command, stages, values
from tests.server_process import ServerProcess, free_port

HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"


def hadolint(text: str) -> str:
    """What hadolint says of a Dockerfile, no rule left out."""
    command = [str(HADOLINT), "--no-color", "--disable-ignore-pragma", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60).stdout


def test_hadolint_finds_nothing() -> None:
    assert hadolint(DOCKERFILE.read_text(encoding="utf-8")) == ""


def test_hadolint_finds_what_it_is_for() -> None:
    assert "DL3006" in hadolint("FROM debian\n")


def test_no_address_of_an_index_is_written_down_and_none_is_a_default() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")

    assert not re.search(r"(?:index-url|extra-index|trusted-host)", text)
    assert "https://" not in text
    assert "PIP_INDEX_URL" in values(stages()[0], "ARG")


def test_every_requirement_comes_hashed_and_as_a_wheel() -> None:
    build, image = stages()
    installs = [run for run in values(build, "RUN") if re.search(r"pip (?:\S+ \S+ )?(?:install|wheel)", run)]

    assert len(installs) == 3
    for run in installs:
        assert "--require-hashes --only-binary :all:" in run or "--no-index" in run
    assert not [run for run in values(image, "RUN") if re.search(r"pip (?:install|wheel)|apt|apk", run)]


def test_only_the_environment_comes_out_of_the_build() -> None:
    assert values(stages()[1], "COPY") == ["--from=build /opt/constructure-sync /opt/constructure-sync"]


def test_the_image_runs_as_the_number_that_the_chart_expects() -> None:
    (user,) = values(stages()[1], "USER")

    assert user == "10001:10001"
    assert "runAsUser: 10001" in (CHART / "templates" / "_pod.tpl").read_text()


def test_the_image_starts_and_stops_the_server_itself() -> None:
    image = stages()[1]

    assert values(image, "ENTRYPOINT") == ['["constructure-sync"]']
    assert values(image, "CMD") == ['["serve"]']
    assert values(image, "STOPSIGNAL") == ["SIGTERM"]
    assert values(image, "VOLUME") == ['["/data"]']


def test_every_variable_of_the_image_is_a_setting_that_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: value for name, value in environment(stages()[1]).items() if name.startswith(PREFIX)}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = Settings()

    assert ours.keys() <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert (settings.host, settings.port, str(settings.data_dir)) == ("0.0.0.0", 8000, "/data")


def test_image_chart_and_package_agree_on_the_version(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]

    assert f"VERSION={version}" in values(stages()[1], "ARG")
    assert read_yaml(CHART / "Chart.yaml")["appVersion"] == version
    assert f"constructure-sync:${{CONSTRUCTURE_VERSION:-{version}}}" in (repository / "compose.yaml").read_text()


def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, *arguments = health_command(stages()[1])
    assert python == "python"
    # A proxy for the outside must not be asked for the container's own address.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")

    def healthy(port: int) -> bool:
        monkeypatch.setenv("CONSTRUCTURE_PORT", str(port))
        return subprocess.run([sys.executable, *arguments], capture_output=True, timeout=30).returncode == 0

    with ServerProcess(tmp_path) as server:
        assert healthy(server.port)
    assert not healthy(server.port)

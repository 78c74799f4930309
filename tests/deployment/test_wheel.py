"""The wheel that the image is made of: complete, and content with one folder to write to.

No container engine runs here. What stands in for the read-only root file system: the server runs from the built wheel, and an
audit hook in it and in all its worker processes notes every file that they open for writing, make, move or remove.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from hatch_build import MODULE
from tests.compiled import has_compiler
from tests.deployment.image import environment, stages, values
from tests.server_process import ServerProcess

SOURCES = (
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
    "schemas",
    "storage",
    "auth",
    "constructure_sync",
)
ENVIRONMENT = "/opt/constructure-sync"


def copy_sources(repository: Path, folder: Path) -> None:
    """Copy what the wheel is built from."""
    for name in SOURCES:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy2(source, folder / name)


def serve_and_watch(folder: Path, command: list[str], environ: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Serve from an empty folder that nobody may write to, use the server, stop it; return the (process, path) written."""
    watcher, here, temporary = folder / "watcher", folder / "here", folder / "tmp"
    for made in (watcher, here, temporary):
        made.mkdir()
    shutil.copy(Path(__file__).with_name("write_watcher.py"), watcher / "sitecustomize.py")
    here.chmod(0o555)
    path = os.pathsep.join(filter(None, (str(watcher), os.environ.get("PYTHONPATH"))))
    for name, value in {"PYTHONPATH": path, "TMPDIR": str(temporary), "WRITES_SEEN": str(folder / "seen")}.items():
        environ.setenv(name, value)
    environ.setenv("HOME", str(folder / "nobody"))
    environ.setenv("PYTHONSAFEPATH", "1")
    environ.setenv("PYTHONDONTWRITEBYTECODE", environment(stages()[1])["PYTHONDONTWRITEBYTECODE"])

    with ServerProcess(folder, command=command, cwd=here) as server:
        server.create_course(server.register("ada"))
        assert server.stop() == 0

    seen = [line.split("\t") for line in (folder / "seen").read_text().splitlines()]
    return [(process, Path(path)) for process, _, path in seen]


def elsewhere(written: list[tuple[str, Path]], folder: Path) -> set[Path]:
    """What was written outside the data folder and the folder for temporary files, the two that are mounted."""
    allowed = (folder / "data", folder / "tmp", Path(os.devnull))
    return {path for _, path in written if not any(path.is_relative_to(each) for each in allowed)}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the same command as in the image."""
    folder = tmp_path_factory.mktemp("sources")
    copy_sources(repository, folder)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "wheels"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    (built,) = (folder / "wheels").glob("*.whl")
    return built


def test_the_wheel_is_built_of_what_the_image_copies_and_the_build_context_holds(repository: Path) -> None:
    copied = {name for line in values(stages()[0], "COPY") for name in line.split()[:-1]}
    let_through = {
        line[1:].rstrip("/") for line in (repository / ".dockerignore").read_text().split() if line[0] == "!"
    }

    assert copied == {*SOURCES, "requirements/runtime.txt"} == let_through
    assert any("hatchling build --target wheel --directory wheels" in run for run in values(stages()[0], "RUN"))


def test_the_wheel_holds_every_module_and_migration_and_nothing_else(wheel: Path, repository: Path) -> None:
    packages = ("schemas", "storage", "auth", "constructure_sync")
    sources = {
        str(file.relative_to(repository))
        for package in packages
        for file in (repository / package).rglob("*")
        if file.suffix in (".py", ".pyi", ".mako", ".typed")
    }

    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert held - {MODULE} == sources
    assert (MODULE in held) == ("none-any" not in wheel.name) == has_compiler()
    assert any(re.fullmatch(r"storage/migrations/versions/\w+\.py", name) for name in held)


def test_the_server_writes_to_its_data_and_temporary_folders_only(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    origin = subprocess.check_output(
        [sys.executable, "-c", "import storage; print(storage.__file__)"], cwd=tmp_path, text=True, timeout=30
    )
    assert Path(origin.strip()).is_relative_to(site)

    written = serve_and_watch(tmp_path, [sys.executable, "-m", "constructure_sync.cli", "serve"], monkeypatch)

    assert tmp_path / "data" / "constructure.db" in {path for _, path in written}
    assert elsewhere(written, tmp_path) == set()


def test_the_watcher_sees_what_is_written_also_by_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).with_name("write_watcher.py"), tmp_path / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("WRITES_SEEN", str(tmp_path / "seen"))
    child = "import sqlite3, subprocess, sys; sqlite3.connect('a.db').close(); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    grandchild = "import os; open('b', 'w').close(); os.rename('b', 'c'); os.mkdir('d'); open('c').close()"

    subprocess.run([sys.executable, "-c", child, grandchild], cwd=tmp_path, check=True, timeout=60)

    seen = [line.split("\t") for line in (tmp_path / "seen").read_text().splitlines()]
    assert [Path(path).name for _, _, path in seen if str(tmp_path) in path] == ["a.db", "b", "b", "c", "d"]
    assert len({process for process, _, _ in seen}) == 2


@pytest.mark.long
def test_the_build_stage_gives_an_environment_that_serves_read_only(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, tools, made = tmp_path / "build", tmp_path / "base", tmp_path / "environment"
    (build / "requirements").mkdir(parents=True)
    copy_sources(repository, build)
    shutil.copy(repository / "requirements" / "runtime.txt", build / "requirements")
    venv.create(tools, with_pip=True)
    with monkeypatch.context() as shell:
        shell.setenv("PATH", os.pathsep.join((str(tools / "bin"), os.defpath)))
        for name, value in environment(build_stage := stages()[0]).items():
            shell.setenv(name, value)
        for run in values(build_stage, "RUN"):
            script = re.sub(r"--mount=\S+ ", "", run).replace(ENVIRONMENT, str(made))
            subprocess.run(["sh", "-ec", script], cwd=build, check=True, timeout=600)
    packages = {path.name.partition("-")[0] for path in made.glob("lib/python*/site-packages/*.dist-info")}
    for folder, _, files in os.walk(made):
        for name in files:
            Path(folder, name).chmod(0o555 if os.access(Path(folder, name), os.X_OK) else 0o444)
        Path(folder).chmod(0o555)

    written = serve_and_watch(tmp_path, [str(made / "bin" / "constructure-sync"), "serve"], monkeypatch)

    assert elsewhere(written, tmp_path) == set()
    assert "constructure_sync" in packages
    assert packages & {"pip", "hatchling", "setuptools", "wheel", "uv"} == set()
    for folder, _, _ in os.walk(made):
        Path(folder).chmod(0o755)

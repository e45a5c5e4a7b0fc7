"""The wheel, installed in an environment of its own, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
    ]
    subprocess.run(command, check=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its dependencies, without the checkout."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # The dependencies come from the environment of the tests. A path line does not run that folder's own .pth files,
    # so the editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(python: Path, *arguments: str, cwd: Path) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "XDG_STATE_HOME": str(cwd / "state")}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=environ, check=True, capture_output=True, text=True
    ).stdout


def test_the_top_level_is_exactly_prerouter(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"prerouter"}


def test_the_wheel_carries_types_prompts_prices_model_and_taxonomy(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "py.typed",
        "tiers.toml",
        "demo.jsonl",
        "shipped/labels/complexity.toml",
        "shipped/labels/heldout.jsonl",
        "shipped/training/default.toml",
    }
    assert {f"prerouter/{name}" for name in wanted} <= names
    prompts = {f"prerouter/prompts/{path.name}" for path in (ROOT / "prerouter" / "prompts").iterdir()}
    model = (path for path in (ROOT / "models" / "default").rglob("*") if path.is_file())
    shipped = {f"prerouter/shipped/{path.relative_to(ROOT).as_posix()}" for path in model}
    assert len(shipped) >= 5
    assert prompts | shipped <= names


def test_the_installed_package_is_not_the_checkout(python: Path, tmp_path: Path) -> None:
    where = _run(python, "-c", "import prerouter; print(prerouter.__file__)", cwd=tmp_path)
    assert ROOT not in Path(where.strip()).parents


def test_the_shipped_model_loads_and_routes_the_same_as_in_the_checkout(python: Path, tmp_path: Path) -> None:
    script = (
        "import json, prerouter; d = prerouter.PreRouter.load().decide('Translate into Spanish: good morning');"
        "print(json.dumps([d.label, d.decided_by, d.model_folder_id, d.probabilities]))"
    )
    installed = json.loads(_run(python, "-c", script, cwd=tmp_path))
    checkout = json.loads(_run(Path(sys.executable), "-c", script, cwd=tmp_path))
    assert installed == checkout


def test_the_installed_command_works(python: Path, tmp_path: Path) -> None:
    command = str(python.with_name("prerouter"))
    done = subprocess.run([command, "init", "ws"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "ws"
    assert (tmp_path / "ws" / "labels" / "complexity.toml").read_bytes() == (
        ROOT / "labels" / "complexity.toml"
    ).read_bytes()


def _closure(name: str, extra: str = "") -> set[str]:
    """Distributions that installing `name` brings in, itself included."""
    found: set[str] = set()
    todo = [(canonicalize_name(name), extra)]
    while todo:
        name, extra = todo.pop()
        if name in found and not extra:
            continue
        found.add(canonicalize_name(name))
        for requirement in map(Requirement, requires(name) or []):
            if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), e) for e in (requirement.extras or {""})]
    return found


def test_the_base_install_is_small_and_has_no_torch() -> None:
    base = _closure("prerouter")
    assert len(base) <= 32
    assert base & {"torch", "scikit-learn", "mlflow", "sentence-transformers", "transformers", "pandas"} == set()

"""Imports point one way, heavy packages have one room each, and `import prerouter` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "prerouter"

# Lower layers first. A room may import from the layers above it in this list, never from its own or a later one.
ORDER = [
    {
        "background",
        "breaker",
        "cache",
        "clusters",
        "drift",
        "edetector",
        "errors",
        "forks",
        "guard",
        "logmigrations",
        "logrecords",
        "logstore",
        "lookout",
        "pace",
        "plots",
        "progress",
        "reading",
        "records",
        "sealed",
        "svg",
        "thoughts",
        "webhook",
        "workers",
    },
    {
        "batchstore",
        "body",
        "checks",
        "dedup",
        "files",
        "flags",
        "journal",
        "links",
        "logfile",
        "overlap",
        "redact",
        "sections",
        "tables",
        "tokens",
    },
    {
        "encoder",
        "flags_batch",
        "flags_evaluate",
        "flags_label",
        "flags_learn",
        "flags_monitor",
        "flags_report",
        "flags_review",
        "flags_send",
        "flights",
        "logschema",
        "page",
        "postgres",
        "routes",
        "settings",
        "text",
        "tiers",
        "workspace",
    },
    {
        "abilities",
        "dispatchrecords",
        "embedcache",
        "export",
        "human",
        "promptsize",
        "purse",
        "reportview",
        "rollups",
        "sdkfaults",
        "taxonomy",
        "tracker",
    },
    {
        "attempts",
        "budgets",
        "calibration",
        "effects",
        "examples",
        "finetune",
        "ledgerrows",
        "logcommit",
        "mapping",
        "modelfolder",
        "policy",
        "prompt",
        "specialist",
        "spoken",
        "taxonomycheck",
    },
    {
        "ballot",
        "certify",
        "costs",
        "dispatchconfig",
        "judge",
        "ledger",
        "logtables",
        "modelcard",
        "outcomes",
        "quality",
        "registry",
        "reviewed",
        "runrecord",
        "savings",
        "sdk",
        "sklearnmodel",
        "track",
        "usagelog",
    },
    {
        "agreement",
        "batchitems",
        "claude",
        "conversations",
        "fitting",
        "heads",
        "local",
        "logtidy",
        "pairs",
        "recipe",
        "reference",
        "sdkbatches",
        "trackerjobs",
        "trainset",
    },
    {
        "batchapi",
        "comparing",
        "encoders",
        "figures",
        "levels",
        "logwriter",
        "nolocal",
        "plan",
        "routecase",
        "shadowview",
        "stages",
        "sweep",
        "trials",
    },
    {"answersview", "champion", "compare", "findings", "logreader", "pairing", "report_html"},
    {"evaluation", "routelog", "training"},
    {
        "audit",
        "feedback",
        "gatestate",
        "intake",
        "judged",
        "logview",
        "rejections",
        "replay",
        "shadowlane",
        "traffic",
        "trainview",
    },
    {"asking", "batches", "estimate", "labelout", "labelreport", "lessons", "livebound"},
    {"batchsending", "labelrun", "logset", "monitor", "reviewset", "router"},
    {
        "doctor",
        "economics",
        "labelling",
        "logreport",
        "monitorview",
        "parts",
        "promote",
        "relearn",
        "reviewlog",
        "reviewserver",
        "routing",
        "shadow",
        "usagereport",
    },
    {"batchestimate", "challenger", "demo", "fixedset", "labelcommand", "mlflow_model", "review", "run", "usageview"},
    {"choice", "handing", "retraining", "routingreply", "steps", "whatif"},
    {"batchreply", "batchrouting", "calls", "engine", "logreportview", "retrainview"},
    {"batchaccounts", "lookups", "report"},
    {"batchresults"},
    {"batchverbs"},
    {"middleware", "surface"},
    {"amiddleware"},
    {"dispatch"},
    {"roster", "sending"},
    {"batchfile", "contest"},
    {"answers", "batchcommand"},
    {"cli"},
    {"__init__", "__main__"},
]
ROOMS_OF = {
    "anthropic": {"sdk", "sdkfaults", "routingreply", "batchreply"},
    "onnxruntime": {"encoder", "export"},
    "onnx": {"export"},
    "torch": {"export", "finetune"},
    "sentence_transformers": {"export", "finetune"},
    "transformers": {"export", "finetune"},
    "tokenizers": {"tokens", "export"},
    "safetensors": {"encoder", "export", "modelfolder"},
    "sklearn": {"sklearnmodel", "heads"},
    "pyarrow": {"examples"},
    "mlflow": {"trackerjobs", "mlflow_model"},
    "joblib": {"sklearnmodel", "heads"},
    "aiohttp": set(),
    "sqlite3": {"logfile", "journal", "batchstore"},
    "psycopg": {"postgres"},
}
SCRIPTS = {"mlflow_model"}  # run by others: no room imports it, and it may import what runs it
HEAVY = set(ROOMS_OF) - {"sqlite3"}
MODULES = sorted(PACKAGE.glob("*.py"))


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = _running_at_import(tree) if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _running_at_import(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]


def _rooms(path: Path) -> set[str]:
    known = {module.stem for module in MODULES}
    parts = [name.split(".") for name in _imports(path) if name.split(".")[0] == "prerouter"]
    return {p[1] for p in parts if len(p) > 1 and p[1] in known}


def test_every_room_has_its_place_in_the_order() -> None:
    assert {module.stem for module in MODULES} == set().union(*ORDER)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.stem)
def test_imports_point_one_way(module: Path) -> None:
    place = next(i for i, rooms in enumerate(ORDER) if module.stem in rooms)
    below = set().union(*ORDER[:place])
    assert _rooms(module) - below - {module.stem} == set()


@pytest.mark.parametrize("package", sorted(ROOMS_OF))
def test_heavy_packages_have_one_room(package: str) -> None:
    users = {m.stem for m in MODULES if package in {name.split(".")[0] for name in _imports(m)}}
    assert users <= ROOMS_OF[package]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.stem)
def test_heavy_packages_are_imported_inside_functions(module: Path) -> None:
    found = {name.split(".")[0] for name in _imports(module, top_level_only=True)} & HEAVY
    assert found == ({"mlflow"} if module.stem in SCRIPTS else set())


def test_nothing_imports_a_script() -> None:
    assert [m.stem for m in MODULES if _rooms(m) & SCRIPTS] == []


def _loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_prerouter_is_light() -> None:
    assert _loaded_after("import prerouter") & (HEAVY | {"numpy", "asyncio", "sqlite3", "argparse"}) == set()


def test_a_local_decision_loads_no_training_or_api_package() -> None:
    loaded = _loaded_after("import prerouter; prerouter.PreRouter.load().decide('What is 2 + 2?', local_only=True)")
    assert loaded & (HEAVY - {"tokenizers", "safetensors", "onnxruntime"}) == set()


def test_the_command_line_shows_help_without_numpy() -> None:
    code = "from prerouter.cli import main\ntry: main(['route', '--help'])\nexcept SystemExit: pass"
    assert _loaded_after(code) & (HEAVY | {"numpy", "asyncio", "sqlite3"}) == set()


def _functions() -> list[tuple[str, int]]:
    found = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found.append((f"{module.name}:{node.name}", node.end_lineno - node.lineno + 1))
    return found


def test_functions_are_short() -> None:
    sizes = sorted(size for _, size in _functions())
    assert [f for f in _functions() if f[1] > 40] == []
    assert sizes[len(sizes) // 2] <= 10


def test_modules_are_at_most_350_lines() -> None:
    assert [m.name for m in MODULES if len(m.read_text("utf-8").splitlines()) > 350] == []


def test_nothing_imports_the_material() -> None:
    folders = {"labels", "training", "models"}
    assert [m.name for m in MODULES if {name.split(".")[0] for name in _imports(m)} & folders] == []
    assert [str(f) for f in PACKAGE.parent.glob("*/__init__.py") if f.parent.name in folders] == []


@pytest.mark.parametrize("command", ["mypy", "ruff check", "ruff format --check"])
def test_types_and_style(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""The rules of the house, read off the source: who may import whom, and what never enters the repository.

Each rule is a function from a source tree to a list of violations, so that the tests below can show, on small
made-up trees, that it finds what it is there to find.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Who may import whom, in the order data flows. Every subpackage may also import itself and LEAVES. The command
# line and the modules directly in accelsim/ that are not leaves (the package itself, api.py) stand above all and may
# import everything; nobody imports them.
LEAVES = {"errors": set(), "files": {"errors"}}
MAY_IMPORT = {
    "numerics": set(),
    "config": {"numerics"},
    "ir": {"numerics"},
    # Models that PyTorch has quantised are read with the scheme and the scale rule of our own quantisation.
    "frontend": {"numerics", "config", "ir", "quantization"},
    # Models that other tools quantised: integer graphs from files, requantised as a scheme says.
    "importers": {"numerics", "config", "ir"},
    # Bias correction and AdaRound ask what the integer layers before a layer give.
    "quantization": {"numerics", "config", "ir", "engine"},
    "isa": {"numerics", "config"},
    "timing": {"numerics", "config", "isa"},
    "compiler": {"numerics", "config", "ir", "isa", "timing"},
    "machine": {"numerics", "config", "isa", "timing"},
    "engine": {"numerics", "ir"},
    # Fine-tuning: float models come in through frontend and quantization, and run forward on the engine.
    "training": {"numerics", "config", "ir", "frontend", "quantization", "engine"},
    "exporters": {"numerics", "ir", "quantization"},
    "energy": {"config", "timing"},
    "vectors": {"numerics", "config", "ir", "isa", "timing", "machine", "engine"},
    "rtl": {"numerics", "config", "isa", "timing", "machine", "vectors"},
    "workloads": {"numerics", "config", "ir", "frontend", "quantization", "engine"},
    "configs": set(),
    "explore": {
        *("numerics", "config", "ir", "frontend", "quantization", "isa", "timing", "compiler"),
        *("machine", "engine", "energy", "workloads", "pipeline", "accounting"),
        "sources",  # rows of a study name workloads
        "training",  # and may be trained before they are evaluated
    },
    "sources": {"numerics", "config", "ir", "frontend", "importers", "quantization", "workloads"},
    "pipeline": {
        *("numerics", "config", "ir", "frontend", "quantization", "isa", "timing", "compiler"),
        *("machine", "engine", "energy", "workloads"),
    },
    "accounting": {"numerics", "config", "ir", "isa", "timing", "compiler", "machine", "energy", "pipeline"},
    "report": {
        *("numerics", "config", "ir", "isa", "timing", "machine", "engine", "energy"),
        *("pipeline", "accounting", "explore"),
    },
}
KNOWN = MAY_IMPORT.keys() | LEAVES.keys()
ABOVE_ALL = {"", "cli"}
# The checkout's folders and the package each of them is.
FOLDERS = {"accelsim": "accelsim", "workloads": "accelsim.workloads", "configs": "accelsim.configs"}

# torch is a second's worth of import and an optional extra.
MAY_IMPORT_TORCH = {"frontend", "quantization", "training", "workloads"}
# What `import accelsim` and the command line load lazily.
HEAVY = ("torch", "matplotlib", "sklearn", "scipy", "simpy", "numba", "onnx")
# pe_grid proves the closed forms of timing; using them would prove nothing.
INDEPENDENT_OF_TIMING = "accelsim.machine.pe_grid"
# Pickled files run code when they are read. Arrays go to .npz and .safetensors.
PICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


# --- reading the source ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One source file and the name it is imported under."""

    name: str
    path: str
    tree: ast.Module
    is_package: bool


@dataclass(frozen=True)
class Import:
    """One import: the module `importer` loads the dotted name `target`, in `where`, a line of a file."""

    importer: str
    target: str
    where: str
    when_loaded: bool
    """False inside a function or under TYPE_CHECKING: too late to make a circle."""


def part(name: str) -> str:
    """Return the subpackage or module of accelsim that a dotted name belongs to.

    >>> part("accelsim.machine.pe_grid"), part("accelsim.errors"), part("accelsim")
    ('machine', 'errors', '')
    """
    return f"{name}.".split(".")[1]


def read_modules(root: Path) -> dict[str, Module]:
    """Parse every module of the package, the mapped folders included."""
    modules = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root / folder).with_suffix("")
            is_package = relative.name == "__init__"
            name = ".".join([package, *(relative.parent if is_package else relative).parts])
            shown = str(path.relative_to(root))
            modules[name] = Module(name, shown, ast.parse(path.read_bytes(), shown), is_package)
    return modules


def read_imports(module: Module, known: set[str]) -> list[Import]:
    """List what a module imports, `importlib.import_module` of a constant name included."""
    found = []

    def visit(node: ast.AST, when_loaded: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when_loaded = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            when_loaded = False
        for target in _targets(node, module, known):
            found.append(Import(module.name, target, f"{module.path}:{node.lineno}", when_loaded))
        for child in ast.iter_child_nodes(node):
            visit(child, when_loaded)

    visit(module.tree, True)
    return found


def _targets(node: ast.AST, module: Module, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = module.name.split(".")[: -node.level + module.is_package or None] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            is_module = submodule in known or (base == "accelsim" and alias.name in KNOWN)
            yield submodule if is_module else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value


def all_imports(root: Path) -> list[Import]:
    modules = read_modules(root)
    return [found for module in modules.values() for found in read_imports(module, set(modules))]


def all_sources(root: Path) -> Iterator[Module]:
    """Parse every Python file of the repository, under names that nothing imports."""
    for folder in ("accelsim", "workloads", "configs", "tests", "benchmarks", "docs", "notebooks"):
        for path in sorted((root / folder).rglob("*.py")):
            shown = str(path.relative_to(root))
            yield Module(path.stem, shown, ast.parse(path.read_bytes(), shown), is_package=False)


# --- the rules ---------------------------------------------------------------------------------------------


def wrong_directions(root: Path) -> list[str]:
    """Imports against the data flow, and imports by a subpackage without a row in MAY_IMPORT."""
    wrong = []
    for found in all_imports(root):
        importer, target = part(found.importer), part(found.target)
        if found.target.split(".")[0] != "accelsim" or target == importer or stands_above_all(root, importer):
            continue
        if importer not in KNOWN:
            wrong.append(f"{found.where}: subpackage {importer} has no row in MAY_IMPORT")
            continue
        allowed = LEAVES[importer] if importer in LEAVES else MAY_IMPORT[importer] | LEAVES.keys()
        if target not in allowed:
            wrong.append(
                f"{found.where}: {importer} may not import {found.target}; "
                f"it may import {', '.join(sorted(allowed)) or 'nothing of accelsim'}"
            )
    return list(dict.fromkeys(wrong))  # one line per statement and target, however many names it asks for


def stands_above_all(root: Path, name: str) -> bool:
    return name in ABOVE_ALL or (name not in KNOWN and (root / "accelsim" / f"{name}.py").is_file())


def unknown_subpackages(root: Path) -> list[str]:
    """Folders of the package that the table of allowed imports does not mention."""
    names = {part(name) for name in read_modules(root)}
    return [
        f"accelsim/{name}: has no row in MAY_IMPORT"
        for name in sorted(names)
        if name not in KNOWN and not stands_above_all(root, name)
    ]


def circles(root: Path) -> list[str]:
    """Modules that need each other while they are being loaded."""
    modules = read_modules(root)
    needs: dict[str, set[str]] = {name: set() for name in modules}
    for found in all_imports(root):
        if found.when_loaded and found.target in modules and found.target != found.importer:
            needs[found.importer].add(found.target)
    return _circles(needs)


def _circles(needs: dict[str, set[str]]) -> list[str]:
    """Return circles of a graph, each from its first name on; none only when there is none."""
    done: set[str] = set()
    found: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            circle = way[way.index(name) :]
            start = circle.index(min(circle))
            found.add(" -> ".join([*circle[start:], *circle[:start], circle[start]]))
        elif name not in done:
            for target in sorted(needs.get(name, ())):
                visit(target, [*way, name])
            done.add(name)

    for name in sorted(needs):
        visit(name, [])
    return sorted(found)


def torch_outside_its_places(root: Path) -> list[str]:
    return [
        f"{found.where}: {part(found.importer) or 'accelsim'} may not import torch; "
        f"only {', '.join(sorted(MAY_IMPORT_TORCH))} may"
        for found in all_imports(root)
        if found.target.split(".")[0] == "torch" and part(found.importer) not in MAY_IMPORT_TORCH
    ]


def timing_in_its_own_proof(root: Path) -> list[str]:
    """Ways from the register-level grid to timing, through whatever modules."""
    needs: dict[str, set[str]] = {}
    for found in all_imports(root):
        needs.setdefault(found.importer, set()).add(found.target)
    ways, seen = [[INDEPENDENT_OF_TIMING]], {INDEPENDENT_OF_TIMING}
    for way in ways:  # breadth first, growing as it goes
        if part(way[-1]) == "timing":
            return [f"{' -> '.join(way)}: the grid must not use the closed forms it proves"]
        for target in sorted(needs.get(way[-1], set()) - seen):
            seen.add(target)
            ways.append([*way, target])
    return []


def folders_by_their_bare_name(root: Path) -> list[str]:
    """Imports that work only in the checkout, and load a second copy of a module there."""
    return [
        f"{found.where}: imports {found.target}; its installed name is {FOLDERS[top]}"
        for source in all_sources(root)
        for found in read_imports(source, set())
        if (top := found.target.split(".")[0]) in FOLDERS and top != "accelsim"
    ]


def pickled_files(root: Path) -> list[str]:
    """Anything that writes or reads pickles: modules, torch.save and torch.load, allow_pickle in NumPy."""
    wrong = []
    for source in all_sources(root):
        for found in read_imports(source, set()):
            if found.target.split(".")[0] in PICKLERS:
                wrong.append(f"{found.where}: imports {found.target}; use .npz or .safetensors")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.save", "torch.load"):
                wrong.append(f"{source.path}:{node.lineno}: {ast.unparse(node.func)} pickles; use safetensors")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
                wrong.append(f"{source.path}:{node.value.lineno}: allow_pickle must be False")
    return wrong


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


# The patterns are written so that they do not find themselves.
MACHINE_PATH = rb"(?<![\w.~$)}>*/-])/(?:root|home|work|opt|Users|scratch|mnt)/\w[\w./-]*"
REGISTRY = (
    rb"(?i:\b(?:py[p]i\.org|python[h]osted\.org|download\.py[t]orch\.org|anacon[d]a\.org|gola[n]g\.org)"
    rb"|--(?:extra-)?inde[x]-url\b|--find-lin[k]s\b|\bfil[e]://\w*/)"
)


def traces_of_a_machine(root: Path, files: list[str]) -> list[str]:
    """Absolute paths of someone's machine and addresses of registries, in text and binary files alike."""
    here = rb"|(?<![\w./-])" + re.escape(str(root).encode()) + rb"(?![\w-])" if len(root.parts) > 2 else b""
    traces = re.compile(MACHINE_PATH + here + b"|" + REGISTRY)
    wrong = []
    for name in files:
        path = root / name
        if path.is_file() and not path.is_symlink():
            for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
                if found := traces.search(line):
                    wrong.append(f"{name}:{number}: {found[0].decode(errors='replace')}")
    return wrong


def package_list_errors(root: Path, files: list[str] | None = None) -> list[str]:
    """Packages and data files that setup.cfg forgets, or lists though they are not there."""
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    listed = setup["options"]["packages"].split()
    there = sorted(name for name, module in read_modules(root).items() if module.is_package)
    wrong = [f"setup.cfg [options] packages: {name} is missing" for name in there if name not in listed]
    wrong += [f"setup.cfg [options] packages: {name} has no __init__.py" for name in listed if name not in there]
    wrong += [
        f"{module.path}: its folder has no __init__.py"
        for name, module in read_modules(root).items()
        if not module.is_package and name.rpartition(".")[0] not in there
    ]
    shipped: set[Path] = set()
    for package, patterns in setup["options.package_data"].items():
        folder = root / next(folder for folder, name in FOLDERS.items() if name == package)
        shipped.update(path for pattern in patterns.split() for path in folder.glob(pattern))
    for name in files or []:
        path = Path(name)
        if path.parts[0] in FOLDERS and path.suffix not in (".py", ".md") and root / path not in shipped:
            wrong.append(f"setup.cfg [options.package_data]: {name} would not be installed")
    return wrong


# --- the repository keeps them -----------------------------------------------------------------------------


def assert_none(violations: list[str]) -> None:
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize(
    "rule",
    [
        wrong_directions,
        unknown_subpackages,
        circles,
        torch_outside_its_places,
        timing_in_its_own_proof,
        folders_by_their_bare_name,
        pickled_files,
    ],
)
def test_the_source_keeps_the_rule(rule):
    assert_none(rule(ROOT))


def test_allowed_imports_have_no_circle():
    assert _circles(MAY_IMPORT) == []
    assert set().union(*MAY_IMPORT.values()) <= MAY_IMPORT.keys()


def test_installation_ships_every_package_and_data_file():
    assert_none(package_list_errors(ROOT, repository_files()))


def test_no_file_names_a_machine_or_a_registry():
    assert_none(traces_of_a_machine(ROOT, repository_files()))


def repository_files() -> list[str]:
    """Everything that git tracks or would track."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, or no git")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    if listing.returncode:
        pytest.skip(f"git ls-files: {listing.stderr.strip()}")
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()]


@pytest.mark.parametrize("module", ["accelsim", "accelsim.cli"])
def test_importing_the_front_door_loads_no_heavy_library(module):
    """`accelsim --help` answers in under half a second; torch alone takes more than one."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    assert heavy_libraries_loaded_by(f"import {module}") == []


def heavy_libraries_loaded_by(statement: str) -> list[str]:
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, text=True)
    return [name for name in HEAVY if name in json.loads(done.stdout)]


# --- and the rules find what they are there to find --------------------------------------------------------


def make_tree(root: Path, **sources: str) -> Path:
    """Write a made-up package; ``machine__pe_grid="..."`` is accelsim/machine/pe_grid.py."""
    for name, source in {"__init__": "", **sources}.items():
        top, *rest = name.split("__") if name != "__init__" else [name]
        inside = top not in (*FOLDERS, "tests", "benchmarks")
        path = root.joinpath("accelsim" if inside else "", top, *rest).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        if rest and not (path.parent / "__init__.py").exists():
            (path.parent / "__init__.py").touch()
        path.write_text(source)
    return root


@pytest.mark.parametrize(
    "name, source, target",
    [
        ("numerics__x", "import accelsim.config", "config"),
        ("ir__x", "from accelsim.config import Hardware", "config"),
        ("ir__x", "def f():\n    from ..config import Hardware", "config"),
        ("ir__x", "from .. import config", "config"),
        ("ir__x", "from accelsim import numerics, config", "config"),
        ("ir__x", "import importlib\nimportlib.import_module('accelsim.isa')", "isa"),
        ("compiler__x", "import accelsim.machine.dma", "machine.dma"),
        ("machine__x", "if TYPE_CHECKING:\n    from accelsim.ir import Graph", "ir"),
        ("machine__x", "from accelsim.compiler import compile", "compiler"),
        ("machine__deep__x", "from ..array import PE\nfrom ...ir import Graph", "ir"),
        ("machine__x", "from accelsim.cli import main", "cli"),
        ("report__x", "def f():\n    from accelsim.cli.arguments import hardware_of", "cli.arguments"),
        ("quantization__x", "from accelsim.frontend import q", "frontend"),
        ("quantization__x", "import accelsim.workloads", "workloads"),
        ("workloads__x", "import accelsim.machine", "machine"),
        ("errors", "from accelsim.files import read_text", "files"),
    ],
)
def test_an_import_against_the_data_flow_is_found(tmp_path, name, source, target):
    (found,) = wrong_directions(make_tree(tmp_path, **{name: source}))
    assert f"{name.split('__')[0]} may not import accelsim.{target};" in found
    assert re.match(r"(accelsim|workloads)/\S+\.py:[12]: ", found)


@pytest.mark.parametrize("source", ["import accelsim", "from accelsim import load_hardware"])
def test_the_front_door_is_not_for_those_inside(tmp_path, source):
    (found,) = wrong_directions(make_tree(tmp_path, machine__x=source))
    assert "machine may not import accelsim;" in found


@pytest.mark.parametrize(
    "name, source",
    [
        ("numerics__x", "from accelsim import files"),
        ("numerics__x", "from ..errors import InputError"),
        ("config__x", "from accelsim.numerics.rounding import Rounding"),
        ("isa__x", "import accelsim.numerics, accelsim.config"),
        ("machine__x", "from accelsim.machine import dma\nfrom . import post\nfrom .array import PE"),
        ("energy__x", "from accelsim.timing import counts"),
        ("workloads__x", "from .data import load\nfrom accelsim.workloads import models"),
        ("cli__x", "import accelsim.machine, accelsim.frontend, accelsim.workloads"),
        ("api", "import accelsim.machine, accelsim.frontend, accelsim.workloads"),
        ("files", "from accelsim.errors import InputError"),
    ],
)
def test_an_import_along_the_data_flow_is_allowed(tmp_path, name, source):
    assert wrong_directions(make_tree(tmp_path, **{name: source})) == []


@pytest.mark.parametrize("name", ["cli__x", "workloads__x", "tests__test_x", "benchmarks__x"])
@pytest.mark.parametrize("source", ["import workloads.data", "from workloads.data import load"])
def test_an_import_of_a_folder_by_its_bare_name_is_found(tmp_path, name, source):
    (found,) = folders_by_their_bare_name(make_tree(tmp_path, **{name: source}))
    assert "imports workloads.data; its installed name is accelsim.workloads" in found


def test_a_new_subpackage_without_a_row_is_found(tmp_path):
    (found,) = wrong_directions(make_tree(tmp_path, novel__x="import accelsim.ir"))
    assert "subpackage novel has no row in MAY_IMPORT" in found
    assert unknown_subpackages(make_tree(tmp_path, novel__x="", cli__x="", api="", errors="", ir__x="")) == [
        "accelsim/novel: has no row in MAY_IMPORT"
    ]


@pytest.mark.parametrize("late", ["def f():\n    ", "if TYPE_CHECKING:\n    "])
def test_a_circle_of_modules_is_found_and_a_late_import_is_none(tmp_path, late):
    sources = {
        "ir__a": "from .b import x",
        "ir__b": "from accelsim.ir import c",
        "ir__c": "import accelsim.ir.a",
    }
    circle = "accelsim.ir.a -> accelsim.ir.b -> accelsim.ir.c -> accelsim.ir.a"
    assert circles(make_tree(tmp_path, **sources)) == [circle]
    assert circles(make_tree(tmp_path, ir__c=late + sources["ir__c"])) == []


def test_a_module_that_asks_its_own_package_for_a_name_makes_a_circle(tmp_path):
    tree = make_tree(tmp_path, ir__graph="from accelsim.ir import Node")
    (tree / "accelsim" / "ir" / "__init__.py").write_text("from accelsim.ir.graph import Graph")
    assert circles(tree) == ["accelsim.ir -> accelsim.ir.graph -> accelsim.ir"]


@pytest.mark.parametrize("source", ["import torch", "from torch.nn import Module", "def f():\n    import torch.fx"])
@pytest.mark.parametrize("name", ["numerics__x", "machine__x", "engine__x", "cli__x", "__init__"])
def test_torch_outside_its_places_is_found(tmp_path, name, source):
    (found,) = torch_outside_its_places(make_tree(tmp_path, **{name: source}))
    assert "may not import torch" in found


@pytest.mark.parametrize("name", ["frontend__x", "quantization__x", "workloads__x"])
def test_torch_in_its_places_is_allowed(tmp_path, name):
    assert torch_outside_its_places(make_tree(tmp_path, **{name: "import torch\nimport torchless"})) == []


def test_the_register_level_grid_is_kept_from_the_closed_forms_it_proves(tmp_path):
    tree = make_tree(tmp_path, machine__pe_grid="from accelsim.timing import span")
    assert timing_in_its_own_proof(tree) == [
        "accelsim.machine.pe_grid -> accelsim.timing: the grid must not use the closed forms it proves"
    ]
    make_tree(tmp_path, machine__pe_grid="from . import post", machine__post="import accelsim.timing.post")
    assert len(timing_in_its_own_proof(tree)) == 1
    make_tree(tmp_path, machine__post="from accelsim.config import Hardware")
    assert timing_in_its_own_proof(tree) == []


@pytest.mark.parametrize(
    "source, is_wrong",
    [
        ("import pickle", True),
        ("def f():\n    from joblib import dump", True),
        ("import importlib\nimportlib.import_module('dill')", True),
        ("torch.save(model, path)", True),
        ("numpy.load(path, allow_pickle=True)", True),
        ("numpy.load(path, allow_pickle=flag)", True),
        ("numpy.load(path, allow_pickle=False)", False),
        ("import json  # not pickle", False),
    ],
)
@pytest.mark.parametrize("name", ["energy__x", "workloads__x", "__init__"])
def test_pickles_are_found(tmp_path, name, source, is_wrong):
    assert len(pickled_files(make_tree(tmp_path, **{name: source}))) == is_wrong


@pytest.mark.parametrize(
    "line",
    [
        "see /home/" + "ada/accelsim",
        "(/" + "root/x)",
        "pip install --index-" + "url=x",
        "https://py" + "pi.org/simple",
        "fi" + "le:///x/simple",
        "made in {here}/docs",
    ],
)
def test_a_trace_of_a_machine_is_found(tmp_path, line):
    (tmp_path / "notes.md").write_text("# ×\n" + line.format(here=tmp_path) + "\n")
    (found,) = traces_of_a_machine(tmp_path, ["notes.md"])
    assert found.startswith("notes.md:2: ")


@pytest.mark.parametrize("line", ["../shared/data", "~/jobs/x", "./jobs/x", "a/home/b", "#!/usr/bin/env bash", "PyPI"])
def test_ordinary_paths_are_no_traces(tmp_path, line):
    (tmp_path / "notes.md").write_text(line)
    assert traces_of_a_machine(tmp_path, ["notes.md"]) == []


def test_a_package_or_data_file_that_setup_cfg_forgets_is_found(tmp_path):
    make_tree(tmp_path, ir__x="", novel__x="", workloads__x="", ir__loose__x="")
    (tmp_path / "accelsim" / "ir" / "loose" / "__init__.py").unlink()
    files = ["workloads/a.npz", "workloads/b.bin", "workloads/x.py", "README.md"]
    for name in files:
        (tmp_path / name).touch()
    (tmp_path / "setup.cfg").write_text(
        "[options]\npackages =\n  accelsim\n  accelsim.ir\n  accelsim.gone\n  accelsim.workloads\n"
        "[options.package_data]\naccelsim.workloads = *.npz\n"
    )
    assert package_list_errors(tmp_path, files) == [
        "setup.cfg [options] packages: accelsim.novel is missing",
        "setup.cfg [options] packages: accelsim.gone has no __init__.py",
        "accelsim/ir/loose/x.py: its folder has no __init__.py",
        "setup.cfg [options.package_data]: workloads/b.bin would not be installed",
    ]


def test_a_heavy_import_at_the_front_door_is_found():
    assert heavy_libraries_loaded_by("import simpy") == ["simpy"]

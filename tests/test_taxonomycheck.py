"""`prerouter doctor --taxonomy DIR`."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from assistant import FILES, write

from prerouter.cli import main
from prerouter.settings import load_settings
from prerouter.taxonomycheck import examine_taxonomy

SAME = [
    (
        "Questions about invoices, charges, refunds and payment methods.",
        "Invoice and payment questions, such as a refund.",
    ),
    ("Where a parcel is, delivery dates, lost parcels.", "Tracking a parcel: delivery date, lost parcels."),
    ("How to build what is not there yet: structure, trade-offs.", "The structure of a new system and its trade-offs."),
]
DISTINCT = [
    "Questions about invoices, charges, refunds and payment methods.",
    "Where a parcel is, delivery dates, lost or damaged parcels.",
    "Logging in, passwords, changing name, e-mail or address.",
    "Prices, quotes and which product to buy.",
    "A report that the software does something wrong.",
    "A wish for something that the software cannot do yet.",
]


def labels(*definitions: str) -> str:
    rows = ",\n".join(f'{{name = "l{i}", tier = "haiku", definition = "{d}"}}' for i, d in enumerate(definitions))
    return f'name = "x"\ndefault = "l0"\nlabels = [\n{rows}\n]'


def found(folder: Path) -> list[str]:
    return [f"{c.state} {c.found} {c.next or ''}" for c in examine_taxonomy(folder, load_settings()) if c.state != "ok"]


def test_the_assistant_is_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "routes")
    assert main(["doctor", "--taxonomy", str(folder), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["state"] for check in checks] == ["ok"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("code_review/route.toml", "", "max_tokens is missing ({folder}/code_review/route.toml, max_tokens)"),
        ("code_review/system.md", "", "only the tier is used ({folder}/code_review/system.md)"),
        ("code_review/sytem.md", "x", "a file that nothing reads ({folder}/code_review/sytem.md)"),
    ],
)
def test_what_is_unwise_is_named_with_file_and_key(tmp_path: Path, file: str, text: str, said: str) -> None:
    folder = write(tmp_path / "routes")
    (folder / file).write_text(text)
    assert any(said.format(folder=folder) in line for line in found(folder))
    assert main(["doctor", "--taxonomy", str(folder)]) == 0


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "taxonomy.toml",
            FILES["taxonomy.toml"].replace("opus", "opsu"),
            "unknown tier 'opsu' ({folder}",
        ),
        (
            "code_review/route.toml",
            'params = {x = "int"}',
            "params.x has the type 'int' ({folder}/code_review/",
        ),
        ("code_review/route.toml", "max_token = 3", "unknown key max_token ({folder}/code_review/route.toml)"),
    ],
)
def test_what_is_wrong_is_a_problem(tmp_path: Path, file: str, text: str, said: str) -> None:
    folder = write(tmp_path / "routes")
    (folder / file).write_text(text)
    (line,) = [line for line in found(folder) if line.startswith("problem")]
    assert said.format(folder=folder) in line
    assert main(["doctor", "--taxonomy", str(folder)]) == 1


@pytest.mark.parametrize(("one", "other"), SAME)
def test_definitions_that_say_the_same_are_found(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "taxonomy.toml").write_text(labels(one, other))
    assert any("l0 and l1 say nearly the same" in line for line in found(tmp_path))


def test_distinct_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "taxonomy.toml").write_text(labels(*DISTINCT))
    assert not any("nearly the same" in line for line in found(tmp_path))
    assert len(list(combinations(DISTINCT, 2))) == 15


def test_more_than_ten_routes_are_many(tmp_path: Path) -> None:
    (tmp_path / "taxonomy.toml").write_text(labels(*(f"Requests about {i * 'x'}{i}." for i in range(11))))
    assert any("11 labels" in line and "accuracy falls off" in line for line in found(tmp_path))

from __future__ import annotations

from pathlib import Path

import pytest

from lts_ray.errors import LtsRayError
from serve.fleet.node_kind import NodeKind, load_kinds, named_kinds
from serve.serve_args import ServeArgs
from tests.conftest import ROOT

FLEET = """
kinds:
  - name: cpu-small
  - name: spot
    target: cpu-large
    min_replicas: 0
    max_replicas: 3
    cost_per_hour: 0.25
    threads: 2
"""


def test_a_fleet_file_names_kinds_and_leaves_out_what_is_as_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    small, spot = load_kinds(path)
    assert small == NodeKind(name="cpu-small") == named_kinds(("cpu-small",))[0]
    assert (small.target_name, small.min_replicas, small.most, small.cost_per_hour) == ("cpu-small", 1, 1, 1.0)
    assert (spot.target_name, spot.min_replicas, spot.most, spot.cost_per_hour) == ("cpu-large", 0, 3, 0.25)
    assert spot.threads == 2
    assert NodeKind(name="a", min_replicas=4).most == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a list `kinds:` with at least one entry"),
        ("- name: a", "needs a list `kinds:`"),
        ("kinds: []", "needs a list `kinds:`"),
        ("kinds: {name: a}", "needs a list `kinds:`"),
        ("kinds: [", "cannot be read as YAML"),
        ("{kinds: [{name: a}], knids: 1}", "has unknown keys knids; known: kinds, faults"),
        ("kinds: [a]", "a kind must be a mapping; got 'a'"),
        ("kinds: [{target: a}]", "a kind needs name"),
        ("kinds: [{name: a b}]", "kind 'a b'.name must be letters, digits, dots, dashes; got 'a b'"),
        ("kinds: [{name: elastic}]", "kind 'elastic'.name must be another word than elastic"),
        ("kinds: [{name: a, cost: 1}]", "kind 'a' has unknown keys cost; known: cost_per_hour, max_replicas, "),
        ("kinds: [{name: a}, {name: b}, {name: a}]", "a more than once"),
        ("kinds: [{name: a, min_replicas: 3, max_replicas: 2}]", "kind 'a': min_replicas 3 is above max_replicas 2"),
        ("kinds: [{name: a, min_replicas: many}]", "kind 'a'.min_replicas must be a whole number; got 'many'"),
        ("kinds: [{name: a, min_replicas: -1}]", "kind 'a'.min_replicas must be at least 0; got -1"),
        ("kinds: [{name: a, max_replicas: 0}]", "kind 'a'.max_replicas must be at least 1; got 0"),
        ("kinds: [{name: a, max_replicas: 1.5}]", "kind 'a'.max_replicas must be a whole number; got 1.5"),
        ("kinds: [{name: a, cost_per_hour: cheap}]", "kind 'a'.cost_per_hour must be a number; got 'cheap'"),
        ("kinds: [{name: a, cost_per_hour: .nan}]", "kind 'a'.cost_per_hour must be a "),
        ("kinds: [{name: a, cost_per_hour: 0}]", "kind 'a'.cost_per_hour must be above 0; got 0"),
        ("kinds: [{name: a, simulated: fast}]", "kind 'a'.simulated must be a mapping; got 'fast'"),
        (
            "kinds: [{name: a, simulated: {slow: 2}}]",
            "kind 'a'.simulated has unknown keys slow; known: calibration_s, ",
        ),
        ("kinds: [{name: a, simulated: {slower: 0}}]", "kind 'a'.simulated.slower must be above 0; got 0"),
        ("kinds: [{name: a, simulated: {noise: -1}}]", "kind 'a'.simulated.noise must be at least 0; got -1"),
        ("kinds: [{name: a, simulated: {drift: .inf}}]", "kind 'a'.simulated.drift must be "),
        ("kinds: [{name: a, simulated: {node_s: soon}}]", "kind 'a'.simulated.node_s must be a number; got 'soon'"),
        ("kinds: [{name: a, simulated: {step_costs: 3}}]", "kind 'a'.simulated.step_costs must be text; got 3"),
        ("kinds: [{name: a, threads: 0}]", "kind 'a'.threads must be at least 1; got 0"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_fleet_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(LtsRayError) as refused:
        load_kinds(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(("fleet file", "kind 'a': min_replicas"))
    assert "\n" not in str(refused.value)


def test_what_the_simulator_reads_changes_nothing_for_serving(tmp_path: Path) -> None:
    """Neither how a kind is simulated, nor faults: whatever they say, and whether or not the files are there."""
    plain, simulated = tmp_path / "plain.yaml", tmp_path / "simulated.yaml"
    plain.write_text(FLEET)
    said = "    simulated: {step_costs: none.json, slower: 2, noise: 0.1, drift: 0.1, node_s: 60, load_s: 1}"
    simulated.write_text(FLEET + said + "\nfaults: [{at_s: 1, kind: spot}]")
    args = [ServeArgs(fleet=path) for path in (plain, simulated)]
    served = [[each.of_kind(kind) for kind in each.node_kinds()] for each in args]
    assert served[0] == served[1]
    assert load_kinds(simulated)[1].simulated.slower == 2


def test_a_fleet_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LtsRayError, match=r"fleet file .*none\.yaml does not exist"):
        load_kinds(tmp_path / "none.yaml")


@pytest.mark.parametrize(("names", "message"), [(("a", "a"), "kinds: a more than once"), (("a:b",), "kind 'a:b'.name")])
def test_names_on_a_command_line_are_kinds_too(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(LtsRayError, match=message):
        named_kinds(names)


def test_the_example_is_a_fleet_and_the_page_shows_it() -> None:
    assert [(kind.name, kind.target_name, kind.most) for kind in load_kinds(ROOT / "configs" / "fleet.yaml")] == [
        ("cpu-small", "cpu-small", 1),
        ("cpu-large", "cpu-large", 3),
        ("spot", "cpu-large", 1),
    ]
    example = (ROOT / "configs" / "fleet.yaml").read_text().partition("kinds:")[2]
    assert example in (ROOT / "docs" / "fleet.md").read_text()

from __future__ import annotations

from dataclasses import replace

import pytest

from lts_ray.errors import LtsRayError
from lts_ray.measurement.on_ray.selector import (
    ClusterNode,
    labels_match,
    place,
    vacancies,
    value_matches,
    waiting_message,
)
from lts_ray.ray_session import nodes_for
from lts_ray.target import Target


@pytest.mark.parametrize(
    ("constraint", "value", "matches"),
    [
        ("edge", "edge", True),
        ("edge", "server", False),
        ("edge", None, False),
        ("!edge", "edge", False),
        ("!edge", "server", True),
        ("!edge", None, True),
        ("in(edge,server)", "server", True),
        ("in(edge, server)", "server", True),
        ("in(edge,server)", "gpu", False),
        ("in(edge,server)", None, False),
        ("!in(edge,server)", "edge", False),
        ("!in(edge,server)", "gpu", True),
        ("!in(edge,server)", None, True),
        ("inner", "inner", True),
    ],
)
def test_label_constraints_mean_what_rays_do(constraint: str, value: str | None, matches: bool) -> None:
    assert value_matches(constraint, value) is matches


def test_every_label_of_a_selector_must_match() -> None:
    labels = {"role": "edge", "zone": "a"}
    assert labels_match({"role": "edge", "zone": "!b"}, labels)
    assert not labels_match({"role": "edge", "zone": "b"}, labels)
    assert labels_match({}, labels)


def node(name: str, *, cpus: float = 2, slots: float = 1, free: float | None = None) -> ClusterNode:
    return ClusterNode(
        node_id=name,
        labels={"role": name, "ray.io/node-id": "x"},
        resources={"CPU": cpus, "slot": slots, "memory": 1e9, "node:1.2.3.4": 1.0},
        available={"CPU": cpus, "slot": slots if free is None else free},
    )


def edge(name: str = "edge", **options: object) -> Target:
    return Target(name=name, label_selector={"role": "edge"}, **options)  # type: ignore[arg-type]


def test_targets_that_fit_have_no_problem() -> None:
    local = Target(name="here", local=True, resources={"slot": 1})
    targets = [edge(resources={"slot": 1}), local]
    assert place(targets, [node("edge"), node("head")], local_node_id="head") is None


def test_no_matching_node_names_the_selector_and_the_labels_there_are() -> None:
    with pytest.raises(LtsRayError) as raised:
        place([edge()], [node("server"), node("head")], local_node_id="head")
    message = str(raised.value)
    assert "target 'edge': no node matches label_selector {'role': 'edge'}" in message
    assert "{'role': 'server'}" in message
    assert "ray.io" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "target",
    [
        edge(threads=4),
        edge(resources={"slot": 2}),
        edge(resources={"CPU": 999}),
        edge(resources={"GPU": 1}),
        edge(resources={"no-such": 0.5}),
        edge(resources={"memory": 1e12}),
        edge(device="cuda"),
        edge(device="cuda", resources={"GPU": 8}),
    ],
    ids=lambda target: f"{target.threads} {target.device} {dict(target.resources)}",
)
def test_a_node_too_small_for_ever_is_an_error(target: Target) -> None:
    """Though they be idle: what is asked and what there is are both told, at once."""
    with pytest.raises(
        LtsRayError, match=r"lack its \d CPU threads or resources .*: labels .* with {'CPU': 2"
    ) as raised:
        place([target], [node("edge"), node("head")], local_node_id="head")
    assert all(f"'{name}': {amount}" in str(raised.value) for name, amount in target.resources.items())


def test_a_gpu_target_needs_a_gpu() -> None:
    with pytest.raises(LtsRayError, match="GPU"):
        place([edge(device="cuda")], [node("edge")], local_node_id="head")


def test_resources_in_use_are_worth_waiting_for() -> None:
    problem = place([edge(resources={"slot": 1})], [node("edge", free=0)], local_node_id="head")
    assert problem is not None
    assert "are in use" in problem


def test_two_targets_cannot_hold_one_slot() -> None:
    targets = [edge(resources={"slot": 1}), edge("edge-2", resources={"slot": 1})]
    problem = place(targets, [node("edge")], local_node_id="head")
    assert problem is not None
    assert "edge-2" in problem
    assert (
        place(targets, [node("edge"), ClusterNode(**{**vars(node("edge")), "node_id": "b"})], local_node_id="") is None
    )


@pytest.mark.parametrize("constraint", ["edge", "in(edge,server)", "!server", "!in(server,gpu)"])
def test_simulated_nodes_satisfy_their_targets(constraint: str) -> None:
    target = Target(name="t", label_selector={"role": constraint}, resources={"slot": 1}, threads=3)
    (simulated,) = nodes_for([target, Target(name="here", local=True)])
    resources = {"CPU": float(simulated.num_cpus), **simulated.resources}
    there = ClusterNode(node_id="a", labels=simulated.labels, resources=resources, available=resources)
    assert place([target], [there], local_node_id="head") is None


def seats(targets: list[Target], nodes: list[ClusterNode], *taken: tuple[str, str]) -> list[tuple[str, str]]:
    found = vacancies(targets, nodes, taken=taken, local_node_id="head")
    return [(target.name, node.node_id) for target, node in found]


def twin(name: str, of: str = "edge", **options: float) -> ClusterNode:
    """Another node with the labels of `of`."""
    return replace(node(of, **options), node_id=name)


def test_a_target_gets_a_seat_on_every_node_that_fits_it_and_no_second_one() -> None:
    nodes = [node("head"), twin("a"), twin("b"), twin("small", cpus=1), twin("held", free=0), node("server")]
    local = Target(name="here", local=True)
    targets = [edge(resources={"slot": 1}, threads=2), local]
    assert sorted(seats(targets, nodes)) == [("edge", "a"), ("edge", "b"), ("here", "head")]
    assert seats(targets, nodes, ("edge", "a"), ("here", "head")) == [("edge", "b")]
    assert seats(targets, nodes, ("edge", "a"), ("edge", "b"), ("here", "head"), ("edge", "gone")) == []


def test_targets_that_want_the_same_resources_get_one_node_each_before_any_gets_two() -> None:
    """The second target fits one node only: if the first took that one, the second would wait for ever."""
    first = Target(name="any", label_selector={"role": "in(edge,server)"}, resources={"slot": 1})
    second = edge(resources={"slot": 1})
    assert seats([first, second], [node("edge"), node("server")]) == [("edge", "edge"), ("any", "server")]
    nodes = [twin(name) for name in "abcd"]
    even = seats([first, second], nodes)
    assert sorted(name for name, _ in even) == ["any", "any", "edge", "edge"]
    assert {node_id for _, node_id in even} == set("abcd")
    assert seats([first, second], [twin("a")], ("any", "gone")) == [("edge", "a")]


def test_what_a_seat_holds_is_not_given_twice_though_ray_still_calls_it_available() -> None:
    targets = [edge(resources={"slot": 1}), edge("edge-2", resources={"slot": 1})]
    assert seats(targets, [twin("a")], ("edge", "a")) == []
    assert seats(targets, [twin("a", slots=2)], ("edge", "a")) == [("edge-2", "a")]


@pytest.mark.parametrize(
    ("waiting", "wait"),
    [(0, "evaluations will wait"), (1, "1 evaluation waits"), (3, "3 evaluations wait")],
)
def test_a_target_without_a_node_says_how_many_wait_for_which(waiting: int, wait: str) -> None:
    message = waiting_message(edge(), [node("server")], waiting=waiting, local_node_id="head")
    assert message == f"target 'edge' has no node now: {wait} for one that matches {{'role': 'edge'}}"


def test_a_target_whose_nodes_are_too_small_or_held_says_so() -> None:
    small = waiting_message(edge(threads=4), [node("edge")], waiting=2, local_node_id="head")
    assert small.endswith("that matches {'role': 'edge'} and has 4 CPU threads and resources {}")
    held = waiting_message(edge(resources={"slot": 1}), [node("edge", free=0)], waiting=2, local_node_id="head")
    assert held == (
        "target 'edge' has no free node now: 2 evaluations wait until resources {'slot': 1} are free on a node "
        "that matches {'role': 'edge'}"
    )

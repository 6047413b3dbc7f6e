"""Graphs from all that a user may have, and the words for what is none."""

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array

from emberwalk.kernels.walk import (
    Growth,
    Ramp,
    as_graph,
    from_edges,
    from_networkx,
    from_scipy,
    hdt_graph,
    is_bipartite,
    largest_component,
    log_target,
    row_table,
    srrw,
    token_walk,
    validate,
)
from emberwalk.kernels.walk.targets import laziness
from emberwalk.models import barabasi_albert, karate_club, read_edge_list

PATH = from_edges([(0, 1), (1, 2), (2, 3)])
TWO_PARTS = from_edges([(0, 1), (1, 2), (3, 4)])


def test_walk_graph_is_the_same_from_edges_scipy_and_networkx():
    karate = nx.karate_club_graph()
    graphs = [
        from_edges(list(karate.edges())),
        from_networkx(karate),
        from_scipy(nx.to_scipy_sparse_array(karate, weight=None)),
        karate_club(),
        as_graph(karate),
    ]
    for graph in graphs:
        np.testing.assert_array_equal(graph.adjacency().toarray(), nx.to_numpy_array(karate, weight=None))
        assert (graph.num_nodes, graph.num_edges) == (34, 78)
        assert graph.indptr.dtype == graph.indices.dtype == graph.degree.dtype == np.int32


def test_walk_graph_of_random_hubs_is_one_part_without_loops():
    graph = barabasi_albert(2000, 5, seed=1)
    validate(graph)
    assert graph.num_nodes == 2000
    assert graph.adjacency().diagonal().sum() == 0
    assert 9700 < graph.num_edges <= 9995
    assert graph.degree.max() > 100  # hubs: a random graph of this mean has none above 30


def test_walk_graph_labels_stay_with_their_nodes():
    graph = from_networkx(nx.Graph([("b", "a"), ("a", "c"), ("x", "y")]))
    kept = largest_component(graph)
    assert sorted(kept.labels.tolist()) == ["a", "b", "c"]
    hub = kept.labels.tolist().index("a")
    assert kept.degree[hub] == 2
    tuples = from_networkx(nx.grid_2d_graph(2, 2))
    assert tuples.labels.tolist()[0] == (0, 0)


def test_walk_graph_is_bipartite_where_its_nodes_fall_into_two_sides():
    assert is_bipartite(PATH)
    assert is_bipartite(from_networkx(nx.davis_southern_women_graph()))
    assert is_bipartite(TWO_PARTS)
    assert not is_bipartite(karate_club())
    assert not is_bipartite(from_edges([(0, 1), (1, 2), (2, 0), (3, 4)]))


def test_walk_graph_of_a_file_is_read_with_its_comments(tmp_path):
    file = tmp_path / "edges.txt"
    file.write_text("# from SNAP\n% from elsewhere\n10 20 7.5\n20 30 1\n")
    assert read_edge_list(file).labels.tolist() == [10, 20, 30]
    file.write_text("10 twenty\n")
    with pytest.raises(ValueError, match=r"edges\.txt is no list of edges: "):
        read_edge_list(file)


NO_EDGES = csr_array((3, 3), dtype=np.int8)
BAD_GRAPHS = {
    "several parts": (
        lambda: srrw(TWO_PARTS), r"graph has 2 components, the largest of 3 of its 5 nodes.*largest_component"),
    "node without neighbours": (
        lambda: validate(from_scipy(csr_array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))),
        r"graph: 1 nodes have no neighbour: 2\. Use largest_component"),
    "one node": (lambda: validate(from_scipy(csr_array([[0]]))), "a walk needs at least 2 nodes, got 1"),
    "directed matrix": (
        lambda: from_scipy(csr_array([[0, 1], [0, 0]])),
        r'graph is directed: 1 edges stand in one direction only, the first from 0 to 1\. Pass directed="symmetrize"'),
    "directed networkx": (
        lambda: from_networkx(nx.DiGraph([("u", "v")])), r"graph is directed: .* the first from u to v"),
    "directed list": (
        lambda: from_edges([(0, 1), (1, 0), (1, 2)]), r"edges: 50% of the edges stand in both directions"),
    "self loop": (
        lambda: from_edges([(0, 1), (1, 1)], self_loops="error"), "graph: 1 self loops, the first at node 1"),
    "repeated edge": (
        lambda: from_edges([(0, 1), (0, 1)], duplicates="error"), "graph: 1 edges are repeated"),
    "weights": (
        lambda: from_scipy(csr_array([[0, 2.5], [2.5, 0]])), r"matrix: entry \(0, 1\) is 2\.5, and a graph"),
    "not square": (lambda: from_scipy(csr_array((2, 3))), r"matrix must be square, got \(2, 3\)"),
    "negative node": (lambda: from_edges([(0, 1), (-1, 1)]), r"edges\[1, 0\] is -1: a node is an integer from 0 on"),
    "node that is none": (lambda: from_edges([(0, 1), (1, np.nan)]), r"edges\[1, 1\] is nan"),
    "node and a half": (lambda: from_edges([(0, 1.5)]), r"edges\[0, 1\] is 1\.5"),
    "simple with another target": (
        lambda: srrw(karate_club(), base="simple"), r'base="simple" has the degree for its target.*base="mh"'),
    "negative strength": (lambda: srrw(PATH, alpha=-1.0), "alpha must be 0 .* or more, got -1"),
    "strength that is none": (lambda: hdt_graph(PATH, alpha=float("nan")), "alpha must be 0 .* or more, got nan"),
    "strength that is no number": (lambda: srrw(PATH, alpha="5"), "alpha must be a number, a Ramp.* got '5'"),
    "strengths": (lambda: srrw(PATH, alpha=np.array([1.0, 2.0])), "alpha must be a number, a Ramp"),
    "negative strength of float32": (lambda: srrw(PATH, alpha=np.float32(-1)), "alpha must be 0 .* or more, got -1"),
    "no edges": (lambda: token_walk([]), "a walk needs at least 2 nodes, got 0"),
    "single loop, alone": (lambda: token_walk(TWO_PARTS), "graph has 2 components"),
    "misspelt option": (lambda: from_edges([(0, 1)], directed="errors"), r"directed must be one of .* got 'errors'"),
    "misspelt option of loops": (
        lambda: from_networkx(nx.path_graph(3), self_loops="keep"), r"self_loops must be one of .* got 'keep'"),
    "matrix with an entry twice": (
        lambda: from_scipy(coo_array(([1, 1, 1], ([0, 0, 1], [1, 1, 0])), shape=(2, 2)), duplicates="error"),
        "graph: 1 edges are repeated"),
    "matrix with a NaN": (lambda: from_scipy(csr_array([[0, np.nan], [np.nan, 0]])), r"matrix: entry \(0, 1\) is nan"),
    "prior of 0": (lambda: srrw(PATH, prior=0.0), r"prior must be above 0, got 0\.0"),
    "prior of a token": (lambda: token_walk(PATH, gamma_exponent=1.0, prior=-1.0), r"prior must be above 0, got -1\.0"),
    "chunk of 0": (lambda: srrw(PATH, chunk=0), "chunk must be above 0, got 0"),
    "log target too short": (
        lambda: srrw(PATH, np.zeros(3)), r"log_mu must have one value a node, 4, got shape \(3,\)"),
    "log target of NaN": (
        lambda: hdt_graph(PATH, np.array([0, np.nan, 0, 0])), "log_mu must be finite: node 1 has nan"),
    "table of another graph": (
        lambda: srrw(karate_club(), base=row_table(PATH)), "base: log_p and log_p_self have shapes"),
    "table whose rows do not sum to 1": (
        lambda: hdt_graph(PATH, base=row_table(PATH)._replace(log_p_self=np.zeros(4))),
        r"base: the row of node 0 sums to 1\.5, not 1"),
    "table of another target": (
        lambda: srrw(PATH, np.array([0.0, 0, 1, 0]), base=row_table(PATH)), r"base is not reversible: from 1 to 2"),
    "ramp of no steps": (lambda: Ramp(1.0, 0), "steps must be above 0, got 0"),
    "ramp to less than nothing": (lambda: Ramp(-1.0, 5), "alpha must be 0 .* or more, got -1"),
    "growth that falls": (lambda: Growth(-1.0), "rate must be above 0, got -1"),
    "growth without rows": (lambda: hdt_graph(PATH, alpha=Growth()), "Growth needs the rows of srrw"),
    "laziness of 1": (lambda: srrw(PATH, lazy=1.0), r"lazy must be at least 0 and below 1, got 1"),
    "unknown base": (lambda: srrw(PATH, base="swap"), r"base must be \"mh\", \"simple\" or a RowTable, got 'swap'"),
    "unknown target": (lambda: log_target(PATH, "even"), "target must be \"uniform\".* got 'even'"),
    "target too short": (lambda: log_target(PATH, [1.0, 2.0]), r"one value a node, 4, got shape \(2,\)"),
    "target of 0": (
        lambda: log_target(PATH, [1.0, 0.0, 1, 1]), "target must be finite weights above 0: node 1 has 0.0"),
    "target in no dict": (lambda: log_target(PATH, {0: 1.0, 2: 1.0}), "target misses 2 nodes: 1, 3"),
    "target function": (
        lambda: log_target(PATH, lambda ids: np.where(ids == 2, np.nan, 0.0)),
        "target must be finite log weights: node 2 has nan"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD_GRAPHS.values(), ids=BAD_GRAPHS)
def test_walk_bad_input_of_a_graph_says_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("thing", ["karate", 3, [[1, 2, 3]]])
def test_walk_bad_input_that_is_no_graph_says_what_one_is(thing):
    with pytest.raises(TypeError, match="graph must be a Graph, a graph of networkx"):
        as_graph(thing)


def test_walk_graph_says_what_it_left_out():
    with pytest.warns(UserWarning, match="graph: 2 self loops, the first at node 1, were left out"):
        from_edges([(0, 1), (1, 1), (0, 0)])
    with pytest.warns(UserWarning, match="graph: 1 repeated edges were merged"):
        assert from_edges([(0, 1), (1, 2), (0, 1)]).num_edges == 2
    assert from_edges([(0, 1), (1, 0), (1, 2)], directed="symmetrize").num_edges == 2
    assert from_edges([(0, 1), (1, 0)]).num_edges == 1


def test_walk_base_chain_that_swings_between_two_sides_is_made_lazy():
    ring = from_networkx(nx.cycle_graph(6))
    with pytest.warns(
        UserWarning, match=r"swings between the two sides of a bipartite graph; lazy=0\.1 was put on it"
    ):
        assert laziness(ring, None, "mh", "auto") == 0.1
    with pytest.warns(UserWarning, match="single draws alternate between the sides"):
        assert laziness(ring, None, "mh", 0) == 0.0
    assert laziness(PATH, None, "mh", "auto") == 0.0  # its ends reject, and so stay
    assert laziness(karate_club(), None, "mh", "auto") == 0.0
    with pytest.warns(UserWarning, match=r"lazy=0\.1 was put on it"):
        token_walk(ring)
    assert laziness(ring, None, "mh", np.float32(0.5)) == 0.5
    with pytest.raises(TypeError, match='lazy must be "auto" or a number'):
        laziness(PATH, None, "mh", "yes")


def test_walk_target_is_what_was_given():
    graph = from_networkx(nx.Graph([("b", "a"), ("a", "c")]))
    weights = {"a": 3.0, "b": 1.0, "c": 2.0}
    by_label = np.exp(log_target(graph, weights))
    np.testing.assert_allclose(by_label, [weights[label] for label in graph.labels.tolist()])
    np.testing.assert_allclose(log_target(graph, lambda ids: -1.0 * ids), [0, -1, -2])
    assert log_target(graph, "uniform") is None

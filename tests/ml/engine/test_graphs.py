"""When steps are captured, how many are kept, and what happens when it fails. The capture itself needs a GPU: it is
replaced here by one that notes what it was asked for; what it does to a step is in test_steps."""

from __future__ import annotations

from ml.engine.graphs import Graphs


class Noted:
    """A capture whose replays can be told from the step itself."""

    def __init__(self, fails_at: int = 0) -> None:
        self.n, self._fails_at = 0, fails_at

    def __call__(self, step, inputs):
        self.n += 1
        if self.n == self._fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda *inputs: f"replayed {step(*inputs)}"


def test_a_step_is_captured_when_it_comes_again():
    capture = Noted()
    graphs = Graphs(capture)
    assert [graphs.run("key", lambda: "step") for _ in range(4)] == ["step", *["replayed step"] * 3]
    assert capture.n == len(graphs) == 1


def test_steps_of_different_keys_have_graphs_of_their_own():
    graphs = Graphs(Noted())
    for name in "abab":
        graphs.run(name, lambda name=name: name)
    assert [graphs.run(name, lambda: "other") for name in "ab"] == ["replayed a", "replayed b"]


def test_the_graph_used_longest_ago_goes_first():
    capture = Noted()
    graphs = Graphs(capture, limit=2)
    for name in "aabbacc":
        graphs.run(name, lambda: "step")
    assert len(graphs) == 2 and capture.n == 3
    assert graphs.run("a", lambda: "step") == "replayed step"
    assert graphs.run("b", lambda: "step") == "step"


def test_where_graphs_are_lasting_none_goes_and_the_rest_is_run_as_it_is():
    capture = Noted()
    graphs = Graphs(capture, limit=2, after=1, is_lasting=True)
    found = [graphs.run(name, lambda: "step") for name in "abccab"]
    assert found == ["replayed step", "replayed step", "step", "step", "replayed step", "replayed step"]
    assert len(graphs) == capture.n == 2


def test_a_step_has_to_come_as_often_as_was_asked_for():
    graphs = Graphs(Noted(), after=3)
    assert [graphs.run("key", lambda: "step") for _ in range(4)] == ["step", "step", *["replayed step"] * 2]


def test_a_replay_is_given_the_inputs_at_hand():
    graphs = Graphs(Noted())
    assert [graphs.run("key", lambda n: f"step {n}", [n]) for n in range(3)] == [
        "step 0", "replayed step 1", "replayed step 2"
    ]  # fmt: skip


def test_after_clearing_everything_is_captured_anew():
    capture = Noted()
    graphs = Graphs(capture)
    for _ in range(2):
        graphs.run("key", lambda: "step")
    graphs.clear()
    assert len(graphs) == 0 and graphs.run("key", lambda: "step") == "step"
    assert graphs.run("key", lambda: "step") == "replayed step" and capture.n == 2


def test_when_a_capture_fails_the_log_says_so_once_and_steps_are_run_as_they_are(caplog):
    graphs = Graphs(Noted(fails_at=2))
    for name in "aabbbbaa":
        assert graphs.run(name, lambda: "step") in ("step", "replayed step")
    assert not graphs.is_on and len(graphs) == 0
    assert graphs.run("a", lambda: "step") == "step"
    assert caplog.text.count("could not be captured") == 1 and "not permitted when stream is capturing" in caplog.text


def test_where_graphs_are_lasting_a_failed_capture_leaves_the_others(caplog):
    """An adapter of one team whose layers cannot be traced must not make all others slow."""
    capture = Noted(fails_at=2)
    graphs = Graphs(capture, after=1, is_lasting=True)
    found = [graphs.run(name, lambda: "step") for name in "abbac"]
    assert found == ["replayed step", "step", "step", "replayed step", "replayed step"]
    assert graphs.is_on and capture.n == 3 and caplog.text.count("could not be captured") == 1


def test_where_there_is_nothing_to_capture_with_steps_are_run():
    graphs = Graphs(None)
    assert [graphs.run("key", lambda: "step") for _ in range(3)] == ["step"] * 3 and not graphs.is_on

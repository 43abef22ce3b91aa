"""The facts shown beside an answer."""

from msgspec.structs import replace

from rankdeck.runner.state.timeline import Lane, Span, Timeline
from rankdeck.tui.panels.outputs.answer_lines import answer_page, batch_seconds
from rankdeck.tui.words.text import plain
from tests import scripted


def test_an_answer_shows_how_long_its_batch_took_once_known() -> None:
    state = scripted.running().state
    first, second = scripted.record(0, rank=0, batch=1), scripted.record(16, rank=1, batch=2)
    spans = {span.batch: span for lane in state.timeline.lanes for span in lane.spans if span.kind == "batch"}
    assert batch_seconds(state, first) == spans[1].seconds
    assert batch_seconds(state, second) == spans[2].seconds
    assert "batch #1 took 5.0 s" in plain(answer_page(first, 120, seconds=batch_seconds(state, first)).lines)
    in_hand = scripted.record(70, rank=0, batch=5)
    assert batch_seconds(state, in_hand) is None
    assert "took" not in plain(answer_page(in_hand, 120, seconds=None).lines)


def test_no_time_is_shown_for_stints_and_merged_batches() -> None:
    spans = (
        Span("batch", 0.0, 9.0, batch=1, joined=3),
        Span("failed", 9.0, 11.0, batch=4),
        Span("stint", 11.0, 13.0, batch=5),
        Span("batch", 13.0, 15.5, batch=6),
    )
    state = replace(scripted.running().state, timeline=Timeline(lanes=(Lane(spans=spans),)))
    said = [batch_seconds(state, scripted.record(0, rank=0, batch=batch)) for batch in (1, 2, 4, 5, 6, 7)]
    assert said == [None, None, None, None, 2.5, None]
    nowhere = replace(scripted.record(0), rank=None, batch=None)
    assert batch_seconds(state, nowhere) is None
    assert batch_seconds(state, scripted.record(0, rank=9, batch=6)) is None

"""Screens in the order of the navigation."""

from typing import NamedTuple


class Screen(NamedTuple):
    """Screen of the console."""

    path: str
    title: str
    question: str


SCREENS = (
    Screen("/", "Overview", "Is everything running, and are events arriving?"),
    Screen("/live", "Live events", "Which events arrive now, and what became of each?"),
    Screen("/find", "Where is my event", "What became of an event, a search, a person's events?"),
    Screen("/dead-letters", "Dead letters", "Which events were rejected, why, and how are they corrected?"),
    Screen("/reports", "Reports", "How is search doing?"),
    Screen("/journey", "Journey", "What did one session do, step by step?"),
    Screen("/learning", "Learning", "What is learned from the events, and how sure is it?"),
    Screen("/keys", "Keys", "Who may send and read events?"),
)

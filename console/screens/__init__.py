"""Screens of the console: each module has the routes of one screen."""

from console.screens import account, dead_letters, events, keys, learning, live, overview, reports

ROUTES = tuple(
    route
    for module in (account, overview, live, events, dead_letters, reports, learning, keys)
    for route in module.ROUTES
)

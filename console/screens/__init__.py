"""Screens of the console: each module has the routes of one screen."""

from console.screens import account, events, live, overview

ROUTES = (*account.ROUTES, *overview.ROUTES, *live.ROUTES, *events.ROUTES)

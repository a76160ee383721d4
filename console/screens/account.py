"""The viewer's key: its name, scopes and namespaces."""

from starlette.routing import Route

from console.view import PageValues, View, panel


@panel("account.html")
async def account(view: View) -> PageValues:
    """Show what the viewer's key allows, and its namespaces to choose from."""
    found = await view.get("/v1/keys/self")
    return {"key": found}


ROUTES = (Route("/account", account),)

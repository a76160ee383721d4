"""The viewer's key: its name, scopes and namespaces."""

from starlette.routing import Route

from console.view import PageValues, View, panel


@panel("account.html")
async def account(view: View) -> PageValues:
    """Show what the viewer's key allows, and its namespaces to choose from."""
    found = await view.call("GET", "/v1/keys/self", in_namespace=False)  # the page's one may be none of the key's
    return {"key": found}


ROUTES = (Route("/account", account),)

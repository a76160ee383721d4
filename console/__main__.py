"""`python -m console`: one console process."""

from console.server import main

main()

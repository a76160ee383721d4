"""`python -m tests.chaos`. As short as can be: every worker process imports it again."""

from tests.chaos.campaign import main

if __name__ == "__main__":
    main()

"""The ClickHouse engine (chdb) behind ClickHouse's HTTP interface, for one machine without Docker.

    request.py   what a client asked for: query, database, settings, parameters
    statement.py how a statement must be run: streamed out, streamed in, or at once
    codecs.py    compressed bodies, both ways
    engine.py    one engine session per request
    app.py       the ASGI application that joins them

Run it with `python -m deploy.embedded.clickhouse_http --path DIR --port PORT`.
"""

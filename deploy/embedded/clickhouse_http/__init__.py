"""ClickHouse's HTTP interface for the ClickHouse engine (chdb), for one machine without Docker.

    request.py   request of a client: query, database, settings, parameters
    statement.py mode of running a statement: streamed out, streamed in, or at once
    body.py      request body, decompressed as it arrives
    engine.py    one engine session per request
    app.py       ASGI application that joins them

Run it with `python -m deploy.embedded.clickhouse_http --path DIR --port PORT`.
"""

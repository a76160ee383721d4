ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
ENV PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/clickhouse && mkdir -p /var/lib/clickhouse && chown 101:101 /var/lib/clickhouse
COPY requirements/run.txt /tmp/run.txt
RUN /opt/clickhouse/bin/pip install --quiet --require-hashes -r /tmp/run.txt
COPY . /opt/clickhouse/app
USER 101:101
WORKDIR /opt/clickhouse/app
EXPOSE 8123
# User and password come from CLICKHOUSE_USER and CLICKHOUSE_PASSWORD, as with the official image.
ENV PYTHONPATH=/opt/clickhouse/app
CMD ["/opt/clickhouse/bin/python", "-P", "-m", "deploy.embedded.clickhouse_http", "--host", "0.0.0.0", "--port", "8123", \
    "--path", "/var/lib/clickhouse/data"]

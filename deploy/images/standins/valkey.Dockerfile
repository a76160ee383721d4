ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY valkey-server /usr/local/bin/
RUN mkdir /data && chown 999:999 /data
USER 999:999
WORKDIR /data
EXPOSE 6379
CMD ["valkey-server", "--protected-mode", "no"]

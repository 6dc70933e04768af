"""What looks secret is not recorded; what does not is recorded as it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError
from llmgine.observability.redact import REDACTED, Redactor, redact, redactor_of

SECRETS = {
    "openai": "sk-proj-T3BlbkFJabcdefghijkl",
    "openai, letters only": "sk-abcdefghijklmnopqrst",
    "anthropic": "sk-ant-api03-abcdefgh1234",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "aws, temporary": "ASIAIOSFODNN7EXAMPLE",
    "github": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github, fine-grained": "github_pat_11ABCDEFG0abcdefghijkl_mnop",
    "gitlab": "glpat-abcdefghij1234567890",
    "slack": "xoxb-123456789012-abcdefABCDEF",
    "google": "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "huggingface": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "stripe": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbU",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc=\n-----END RSA PRIVATE KEY-----",
    "pem, cut off": "-----BEGIN PRIVATE KEY-----\nMIIEpAIBAAKCAQEA",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_key_or_token_is_taken_out_of_any_text(secret: str) -> None:
    assert redact(secret) == REDACTED
    assert redact({"note": ["so", f"it is ({secret})"]})["note"][1].startswith(f"it is ({REDACTED}")
    assert redact({secret: None}) == {REDACTED: None}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc123def", "Authorization: Bearer <redacted>"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: <redacted>"),
        ("curl -H 'X-Api-Key: 12ab'", "curl -H 'X-Api-Key: <redacted>'"),
        ("Cookie: a=b; c=d\nHost: x", "Cookie: <redacted>\nHost: x"),
        ("postgresql://me:p@ss@db.example/app", "postgresql://me:<redacted>@db.example/app"),
        ("redis://:hunter2@cache:6379/0", "redis://:<redacted>@cache:6379/0"),
        ("https://x.example/?api_key=abc&page=2", "https://x.example/?api_key=<redacted>&page=2"),
        ("password=hunter2 user=me", "password=<redacted> user=me"),
        ("password: 'correct horse' # set", "password: '<redacted>' # set"),
        ('{"password": "correct horse", "n": 1}', '{"password": "<redacted>", "n": 1}'),
        (r'{"a": "{\"apiKey\": \"x \\\"y\", \"n\": 1}"}', r'{"a": "{\"apiKey\": \"<redacted>\", \"n\": 1}"}'),
        ("Account(name='Ada', client_secret='x')", "Account(name='Ada', client_secret='<redacted>')"),
    ],
)
def test_in_a_text_that_names_what_is_secret_only_that_goes(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) is clean


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "PASSWD",
        "db_password",
        "passwordHash",
        "secret",
        "client-secret",
        "token",
        "accessToken",
        "X-Auth-Token",
        "api_key",
        "apikey",
        "OPENAI_API_KEY",
        "X-API-Key",
        "Authorization",
        "proxy-authorization",
        "cookie",
        "Set-Cookie",
        "private_key",
        "awsSecretAccessKey",
        "credentials",
        "userpassword",
        "jwt",
        "HTTPToken",
    ],
)
def test_what_has_the_name_of_a_secret_goes_whole(key: str) -> None:
    for value in ("x", 12.5 if "oken" not in key else "y", ["a"], {"user": "u"}):
        assert redact({"a": [{key: value}]}) == {"a": [{key: REDACTED}]}


@pytest.mark.parametrize(
    "data",
    [
        {"tokens": ["a", "b"], "max_tokens": 5, "token_count": "7", "completion_tokens": 3, "tokens_per_second": 2.0},
        {"time_to_first_token": 0.3, "token": 17, "secretary": "Ann", "author": "Bo", "monkey": 1, "passport": "x"},
        {"password": None, "token": "", "secret": True, "cookies": {}, "credentials": [], "api_key": REDACTED},
        "Ask the task-based desk-sk-x; 12:30 http://a.example:80/x@y user: me",
        "def login(user: str, password: str, token: str = '') -> bool: return None",
        "1,024 prompt_tokens=7 completion_tokens: 12 first token: 0.35 s",
        "AKIAIOSFODNN7EXAMPLEX sk- ghp_short eyJ.a.b Bearer of news",
        "<120 characters of content>",
        [1, 2.5, None, True, "", {}],
        b"sk-proj-T3BlbkFJabcdefghijkl",
    ],
)
def test_what_is_not_secret_comes_back_as_the_same_object(data: Any) -> None:
    assert redact(data) is data


def test_what_holds_no_secret_is_shared_with_the_copy_and_the_original_is_not_changed() -> None:
    kept = {"deep": [1, 2]}
    data = {"kept": kept, "password": "x", "list": [kept, "sk-abcdefghijklmnopqrst"]}
    clean = redact(data)
    assert clean == {"kept": kept, "password": REDACTED, "list": [kept, REDACTED]}
    assert clean["kept"] is clean["list"][0] is kept
    assert data["password"] == "x"


def test_two_secret_names_stay_two() -> None:
    data = {"sk-abcdefghijklmnopqrst": 1, "sk-abcdefghijklmnopqrsu": 2}
    assert list(redact(data).values()) == [1, 2]


def test_an_application_adds_names_and_patterns_and_leaves_some_out() -> None:
    own = Redactor(
        keys=["iban", "Tax-Id"], patterns=[r"\bK-\d{3}\b", re.compile("vip", re.IGNORECASE)], off=["jwt", "cookie"]
    )
    data = {"IBAN": "DE1", "taxId": "7", "text": "K-123 of a VIP, tax_id=9", "cookie": "a", "x": SECRETS["jwt"]}
    assert own(data) == data | {
        "IBAN": REDACTED,
        "taxId": REDACTED,
        "text": "<redacted> of a <redacted>, tax_id=<redacted>",
    }
    assert own({"password": "x"}) == {"password": REDACTED}
    with pytest.raises(ConfigurationError, match=r"'\(' is not a regular expression"):
        Redactor(patterns=["("])


def test_a_sink_s_option_is_a_redactor_or_whether_to_use_the_usual_one() -> None:
    own = Redactor()
    assert redactor_of(own) is own
    assert redactor_of(True) is redact
    assert redactor_of(False) is None


@given(
    st.text(alphabet="abAK -_=:@\"'\\{}/.\nsk1", max_size=60),
    st.sampled_from(sorted(SECRETS)),
    st.text(" ,;\n", max_size=3),
)
def test_a_secret_is_found_whatever_is_around_it_and_redacting_twice_changes_nothing(
    before: str, kind: str, after: str
) -> None:
    clean = redact(f"{before} {SECRETS[kind]}\n{after}")
    assert SECRETS[kind] not in clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "piece", ["a", "sk-", "eyJ", "://a:", "password=", 'token:"', "\\", "-----BEGIN PRIVATE KEY", "Bearer ", " "]
)
def test_no_text_takes_more_than_time_in_proportion_to_its_length(piece: str) -> None:
    from time import process_time

    def seconds(length: int) -> float:
        text = "x=" + piece * (length // len(piece))
        start = process_time()
        redact(text)
        return process_time() - start

    assert min(seconds(200_000) for _ in range(3)) < 1.0  # what is quadratic takes minutes

"""`check` on what stands where a secret belongs: a secret, a placeholder, nothing; and on other false alarms."""

import pytest
from check_files import MODEL, found, serve, service, severities, stack

from ernie_deploy.check.placeholders import is_nothing, is_placeholder

BLANKS = (
    "<token>", "[your token]", "{{ vault_hf_token }}", "%HF_TOKEN%", "__HF_TOKEN__", "@TOKEN@", "#{hf.token}#",
    "hf_xxxxxxxxxxxxxxxxxxxx", "sk-XXXXXXXXXXXXXXXX", "hf_...", "sk-****", "your-token-here", "YOUR_HF_TOKEN",
    "changeme", "CHANGE_ME_PLEASE", "replace-with-token", "TODO", "my-secret-key", "token-abc123", "sk-1234",
    "hf_token", "'<key>'",
)  # fmt: skip
NOTHINGS = (
    "",
    "''",
    '""',
    "EMPTY",
    "none",
    "0",
    "not-needed",
    "/run/secrets/hf",
    "op://infra/hf/token",
    "arn:aws:x",
)
SECRETS = ("hf_" + "aB3dE5gH7jK9mN1pQ2rS", "sk-" + "proj-9f8e7d6c5b4a3f2e", "correct-horse-battery", "hunter2",
           "Yh3re" + "K8example2Z")  # fmt: skip


@pytest.mark.parametrize("text", BLANKS)
def test_a_blank_is_a_placeholder_and_no_secret(text):
    assert is_placeholder(text)
    assert not is_nothing(text)
    quoted = text.replace("'", "''")
    hub = serve(f"environment: {{HF_TOKEN: '{quoted}'}}")
    assert severities(hub, "ED227") == ["warning"]
    assert not found(hub, "ED220")
    key = serve(f"environment: {{VLLM_API_KEY: '{quoted}'}}")
    assert "real key to the server" in found(key, "ED227")[0].sentence
    assert not found(key, "ED220")


@pytest.mark.parametrize("text", NOTHINGS)
def test_nothing_is_neither(text):
    assert is_nothing(text)
    quoted = text.replace("'", "''")
    assert not {"ED220", "ED227"} & {f.id for f in found(serve(f"environment: {{HF_TOKEN: '{quoted}'}}"))}


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_a_secret(text):
    assert not is_placeholder(text)
    assert not is_nothing(text)
    assert severities(serve(f"environment: {{HF_TOKEN: {text}}}"), "ED220") == ["error"]


@pytest.mark.parametrize("word", ["EMPTY", "none", "token-abc123"])
def test_a_key_that_everybody_tries_is_a_key_to_the_server(word):
    assert severities(serve(command=f"{MODEL} --api-key {word}"), "ED227") == ["warning"]


@pytest.mark.parametrize("default", ["", ":-", "-", ":-''", ':-""'])
def test_an_empty_default_is_handed_over_and_no_secret(default):
    text = serve(f"environment: ['HF_TOKEN=${{HF_TOKEN{default.replace(chr(39), chr(39) * 2)}}}']")
    assert "ED221" in {f.id for f in found(text)}
    assert not {"ED220", "ED227"} & {f.id for f in found(text)}


def test_a_client_may_show_a_key_that_nobody_asks_for():
    ui = service(
        "ui", "environment: {OPENAI_API_KEY: sk-no-key-required}", image="ghcr.io/example/ui:1", command=""
    )
    assert not {"ED220", "ED227"} & {f.id for f in found(stack(service("serve"), ui))}


@pytest.mark.parametrize("name", ["EOS_TOKEN", "MAX_TOKEN", "TOKENIZER_PAD_TOKEN"])
def test_a_tokenizers_words_are_no_secrets(name):
    assert not found(serve(f"environment: {{{name}: im_end_of_turn}}"), "ED220")


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["environment: {HUGGINGFACE_HUB_CACHE: /hub}", "volumes: ['hub:/hub']"], True),
        (["environment: {VLLM_USE_MODELSCOPE: 'true'}", "volumes: ['/data:/root/.cache/modelscope']"], True),
        (
            ["environment: {VLLM_USE_MODELSCOPE: 'true'}", "volumes: ['/data:/root/.cache/huggingface']"],
            False,
        ),
        (["volumes: ['hub:${CACHE}']"], True),
        (["env_file: [vllm.env]", "volumes: ['hub:/hub']"], True),
        (["env_file: [vllm.env]"], False),
        (["volumes_from: [weights]"], True),
        (["volumes: ['./logs:/var/log']"], False),
    ],
)
def test_weights_that_may_be_kept_are_not_called_lost(lines, kept):
    assert (found(serve(*lines), "ED324") == []) is kept


def test_a_gateway_on_the_servers_own_network_is_what_is_published():
    web = service("web", "network_mode: service:serve", image="caddy:2.10.0", command="")
    server = service("serve", "ports: ['127.0.0.1:443:443']", command=f"{MODEL} --host 127.0.0.1")
    assert not found(stack(server, web), "ED131")
    assert found(stack(server), "ED131")

"""What a child gets of the worker's environment."""

from bloom.worker.executors.environment import CLAUDE, child_environment, is_withheld, secrets_in

OWN = {
    "PATH": "/bin",
    "HOME": "/home/someone",
    "LC_ALL": "C.UTF-8",
    "XDG_CONFIG_HOME": "/x",
    "HTTPS_PROXY": "http://proxy",
    "NODE_EXTRA_CA_CERTS": "/ca.pem",
    "BLOOM_API_KEY": "secret",
    "RUNTIME_API_KEY": "secret",
    "RUNTIME_API_KEY_PREVIOUS": "secret",
    "DATABASE_URL": "postgresql://secret",
    "MINIO_SECRET_KEY": "secret",
    "MEMBRIDGE_ADMIN_KEY": "secret",
    "ANTHROPIC_API_KEY": "sk-ant-secret",
    "AWS_PROFILE": "work",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "LD_PRELOAD": "/evil.so",
    "PYTHONPATH": "/x",
    "SSH_AUTH_SOCK": "/x",
}


def test_only_listed_variables_reach_a_child() -> None:
    basic = {"PATH", "HOME", "LC_ALL", "XDG_CONFIG_HOME", "HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"}
    assert child_environment(OWN).keys() == basic
    assert child_environment(OWN, pass_env=CLAUDE).keys() == basic | {"ANTHROPIC_API_KEY"}
    assert child_environment(OWN, pass_env=["AWS_*", "LD_PRELOAD"]).keys() == basic | {
        "AWS_PROFILE",
        "AWS_SECRET_ACCESS_KEY",
        "LD_PRELOAD",
    }


def test_secrets_of_bloom_reach_no_child_whoever_lists_them() -> None:
    given = child_environment(OWN, pass_env=["*KEY", "MINIO_*", "DATABASE_URL"], extra={"RUNTIME_API_KEY": "secret"})
    assert not [name for name in given if is_withheld(name)]
    assert "secret" not in {value for name, value in given.items() if name != "AWS_SECRET_ACCESS_KEY"}


def test_what_the_agent_sets_comes_last() -> None:
    assert child_environment(OWN, extra={"HOME": "/other", "NEW": "1"}) | {} == {
        **child_environment(OWN),
        "HOME": "/other",
        "NEW": "1",
    }


def test_secret_values_are_known_by_the_names_of_their_variables() -> None:
    found = secrets_in({"ANTHROPIC_API_KEY": "a", "CLAUDE_CODE_OAUTH_TOKEN": "b", "db_password": "c", "PATH": "d"})
    assert found == ["a", "b", "c"]

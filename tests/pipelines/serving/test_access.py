"""Tokens: where they come from, and which are refused before anything starts."""

import os

import pytest

from pipelines import serve as command
from pipelines.serving.access import is_loopback, read_token
from pipelines.serving.options import ServeOptions

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_alone(host, is_own):
    assert is_loopback(host) is is_own


def test_answers_name_the_network_by_its_folder_alone():
    options = ServeOptions(checkpoint="s3://lab/run?secret_key=sEcReT")
    assert options.shown_checkpoint == "run"


def test_a_file_with_the_token_is_its_owners_alone(tmp_path):
    place = tmp_path / "token"
    place.write_text(f"{TOKEN}\n")
    place.chmod(0o644)
    with pytest.raises(ValueError, match=r"mode 0644 lets others read the token; chmod 600"):
        read_token(str(place), is_needed=True)
    place.chmod(0o600)
    found = read_token(str(place), is_needed=False)
    assert found is not None
    assert TOKEN not in found
    assert len(found) == 64


def test_the_variable_is_gone_once_it_is_read(monkeypatch):
    monkeypatch.setenv("SDDUSR_SERVE_TOKEN", TOKEN)
    assert read_token(None, is_needed=True)
    assert "SDDUSR_SERVE_TOKEN" not in os.environ


@pytest.mark.parametrize("token", ["short", "with a blank inside it", "0123456789abcdé"])
def test_a_token_that_could_be_guessed_or_not_sent_is_refused(monkeypatch, token):
    monkeypatch.setenv("SDDUSR_SERVE_TOKEN", token)
    with pytest.raises(ValueError, match="need 16 or more visible ASCII") as refused:
        read_token(None, is_needed=True)
    assert token not in str(refused.value)


def test_without_a_token_no_other_address_is_served(monkeypatch):
    monkeypatch.delenv("SDDUSR_SERVE_TOKEN", raising=False)
    with pytest.raises(ValueError, match="no token, but others could reach this server"):
        command.main(ServeOptions(host="0.0.0.0"))
    with pytest.raises(ValueError, match="no token"):
        command.build({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas": 0}, "--replicas is 0, need 1 to 1000"),
        ({"max_queued": -1}, "--max-queued is -1, need 0 to 1000"),
        ({"port": 70000}, "--port is 70000, need 1 to 65535"),
        ({"timeout_s": float("nan")}, "--timeout-s is nan"),
        ({"max_mb": 0}, "--max-mb is 0"),
        ({"max_megapixels": 0.0}, "--max-megapixels is 0"),
        ({"memory": "much"}, "--memory is 'much'"),
        ({"checkpoint": "/nowhere"}, "no checkpoint there"),
        ({"token_file": "/nowhere"}, "No such file"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_starts(monkeypatch, changes, message):
    monkeypatch.setattr(command.cluster, "init_ray", lambda: pytest.fail("Ray was started"))
    with pytest.raises((ValueError, OSError), match=message):
        command.main(ServeOptions(**changes))


def test_a_port_that_is_taken_is_refused_before_anything_starts(monkeypatch, served_checkpoint):
    monkeypatch.setattr(command.cluster, "init_ray", lambda: pytest.fail("Ray was started"))
    with command.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"--port {port} cannot be listened on"):
            command.main(ServeOptions(checkpoint=served_checkpoint, port=port))


def test_a_config_files_arguments_are_checked():
    with pytest.raises(ValueError, match="'prot' is no option of the server"):
        command.build({"prot": 1})
    with pytest.raises(ValueError, match="'host' is no option"):
        command.build({"host": "0.0.0.0"})

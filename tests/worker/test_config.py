"""Configuration from the environment: defaults, and errors that say which variable and how to mend it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import GatewayConfig
from session_worker.config import WorkerConfig
from session_worker.contract import WorkerKey
from session_worker.environment import ConfigurationError, Environment
from whatsapp_operator.config import OperatorConfig

WORKER = {"POD_NAME": "w1", "POD_NAMESPACE": "team", "POD_UID": "u", "POD_IP": "10.0.0.1", "REDIS_URL": "redis://r"}
GATEWAY = {"REDIS_URL": "redis://r", "WAHA_API_KEY": "key"}
OPERATOR = {"REDIS_URL": "redis://r", "WORKER_IMAGE": "example/worker:1"}
PORT = "a whole number from 1 to 65535"
REDIS = "an address that begins with redis://, rediss://"
LEVEL = "DEBUG or INFO or WARNING or ERROR"

Read = Callable[..., Any]


def worker(**variables: str) -> WorkerConfig:
    return WorkerConfig.from_env({**WORKER, **variables})


def gateway(**variables: str) -> GatewayConfig:
    return GatewayConfig.from_env({**GATEWAY, **variables})


def operator(**variables: str) -> OperatorConfig:
    return OperatorConfig.from_env({**OPERATOR, **variables})


def test_a_workers_defaults_are_those_that_are_documented() -> None:
    config = worker()
    assert config.worker == WorkerKey("team", "w1")
    assert (config.port, config.metrics_port, config.max_sessions) == (3001, 9090, 15)
    assert (config.session_timeout, config.health_check_interval, config.drain_timeout) == (300, 30, 300)
    assert (config.redis_password, config.token, config.memory_limit) == (None, None, None)
    assert config.profile_dir == Path("/var/lib/whatsapp/profiles")
    assert (config.browser_url, config.browser_args) == ("https://web.whatsapp.com/", ())
    assert (config.browser_executable, config.browser_sandbox, config.log_level) == (None, False, "INFO")


def test_a_workers_variables_are_read_in_their_units() -> None:
    config = worker(
        HEALTH_CHECK_INTERVAL="1500",
        SESSION_TIMEOUT="60000",
        MEMORY_LIMIT_BYTES="2147483648",
        BROWSER_ARGS='["--lang=de"]',
        BROWSER_SANDBOX="TRUE",
        PORT=" 4001 ",
    )
    assert (config.health_check_interval, config.session_timeout) == (1.5, 60)
    assert config.memory_limit == 2**31
    assert (config.browser_args, config.browser_sandbox, config.port) == (("--lang=de",), True, 4001)


@pytest.mark.parametrize(("ip", "address"), [("10.0.0.1", "10.0.0.1:3001"), ("fd00::7", "[fd00::7]:3001")])
def test_a_workers_address_is_one_that_goes_into_a_url(ip: str, address: str) -> None:
    assert worker(POD_IP=ip).address == address


def test_a_gateways_defaults_are_those_that_are_documented() -> None:
    config = gateway(NAMESPACE="team")
    assert (config.port, config.metrics_port, config.namespace, config.pool) == (3000, 9090, "team", "default")
    assert (config.api_key, config.worker_token, config.hmac_secret) == ("key", None, "whatsapp-webhook-keys")


def test_a_gateway_without_a_key_must_be_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="WAHA_API_KEY is not set"):
        GatewayConfig.from_env({"REDIS_URL": "redis://r"})
    assert GatewayConfig.from_env({"REDIS_URL": "redis://r", "WAHA_NO_API_KEY": "true"}).api_key is None
    assert gateway(WAHA_NO_API_KEY="true").api_key is None
    assert GatewayConfig.from_env({"REDIS_URL": "redis://r", "WHATSAPP_API_KEY": "old"}).api_key == "old"


def test_a_gateways_key_may_be_given_as_its_hash() -> None:
    key = f"sha512:{hashlib.sha512(b'key').hexdigest()}"
    assert gateway(WAHA_API_KEY=key).api_key == key


def test_an_operators_defaults_are_those_that_are_documented() -> None:
    config = operator()
    assert (config.namespaces, config.port, config.metrics_port) == ((), 8080, 9090)
    assert config.worker_redis_url == config.redis_url
    assert config.browser_url == "https://web.whatsapp.com/"
    assert operator(WATCH_NAMESPACES="a, b c").namespaces == ("a", "b", "c")
    assert operator(WORKER_REDIS_URL="redis://other").worker_redis_url == "redis://other"


@pytest.mark.parametrize(
    ("read", "variable", "value", "expected"),
    [
        (worker, "POD_NAME", "", "POD_NAME is not set"),
        (worker, "POD_NAMESPACE", " ", "POD_NAMESPACE is not set"),
        (worker, "POD_UID", "", "POD_UID is not set"),
        (worker, "REDIS_URL", "", "REDIS_URL is not set"),
        (worker, "REDIS_URL", "http://r", f"REDIS_URL must be {REDIS}"),
        (worker, "REDIS_URL", "redis:6379", f"REDIS_URL must be {REDIS}"),
        (worker, "REDIS_URL", "redis+sentinel://r", "redis+sentinel://host:26379/service"),
        (worker, "PORT", "http", f"PORT is 'http', but must be {PORT}"),
        (worker, "PORT", "65536", f"PORT is '65536', but must be {PORT}"),
        (worker, "PROMETHEUS_PORT", "0", f"PROMETHEUS_PORT is '0', but must be {PORT}"),
        (worker, "MAX_SESSIONS_PER_INSTANCE", "15.5", "must be a whole number from 1 to 200"),
        (worker, "SESSION_TIMEOUT", "10", "SESSION_TIMEOUT is '10', but must be a number from 1000 to 8.64e+07"),
        (worker, "HEALTH_CHECK_INTERVAL", "nan", "must be a number from 100 to 3.6e+06"),
        (worker, "DRAIN_TIMEOUT_SECONDS", "-1", "must be a number from 0 to 3600"),
        (worker, "MEMORY_LIMIT_BYTES", "2Gi", "MEMORY_LIMIT_BYTES is '2Gi', but must be a whole number"),
        (worker, "BROWSER_URL", "web.whatsapp.com", "must be an address that begins with http:// or https://"),
        (worker, "BROWSER_ARGS", "--lang=de", 'must be a JSON list of strings such as ["--lang=de"]'),
        (worker, "BROWSER_ARGS", '["--lang=de", 1]', "must be a JSON list of strings"),
        (worker, "BROWSER_SANDBOX", "yes", "BROWSER_SANDBOX is 'yes', but must be true or false"),
        (worker, "LOG_LEVEL", "LOUD", f"LOG_LEVEL is 'LOUD', but must be {LEVEL}"),
        (gateway, "REDIS_URL", "", "REDIS_URL is not set"),
        (gateway, "REDIS_URL", "http://r", f"REDIS_URL must be {REDIS}"),
        (gateway, "WAHA_API_KEY", "", "WAHA_API_KEY is not set"),
        (gateway, "WAHA_API_KEY", "sha512:abc", "must be sha512: followed by 128 lower-case hexadecimal digits"),
        (gateway, "WAHA_NO_API_KEY", "1", "WAHA_NO_API_KEY is '1', but must be true or false"),
        (gateway, "PORT", "-1", f"PORT is '-1', but must be {PORT}"),
        (gateway, "PROMETHEUS_PORT", "x", f"PROMETHEUS_PORT is 'x', but must be {PORT}"),
        (gateway, "LOG_LEVEL", "info", f"must be {LEVEL}"),
        (operator, "REDIS_URL", "", "REDIS_URL is not set"),
        (operator, "REDIS_URL", "r:6379", f"REDIS_URL must be {REDIS}"),
        (operator, "WORKER_REDIS_URL", "r:6379", f"WORKER_REDIS_URL must be {REDIS}"),
        (operator, "WORKER_IMAGE", "", "WORKER_IMAGE is not set"),
        (operator, "BROWSER_URL", "ftp://x", "must be an address that begins with http:// or https://"),
        (operator, "PORT", "x", f"PORT is 'x', but must be {PORT}"),
        (operator, "PROMETHEUS_PORT", "70000", f"must be {PORT}"),
        (operator, "LOG_LEVEL", "LOUD", f"must be {LEVEL}"),
    ],
)
def test_a_bad_variable_is_named_with_what_it_may_be(read: Read, variable: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(expected)) as caught:
        read(**{variable: value})
    assert variable in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        WorkerConfig.from_env({"PORT": "x", "LOG_LEVEL": "y"})
    assert {"POD_NAME", "POD_NAMESPACE", "POD_UID", "REDIS_URL", "PORT", "LOG_LEVEL"} <= set(
        re.findall(r"[A-Z_]{4,}", str(caught.value))
    )


@pytest.mark.parametrize(
    ("read", "variable"), [(worker, "REDIS_URL"), (gateway, "REDIS_URL"), (gateway, "WAHA_API_KEY")]
)
def test_what_may_be_secret_is_not_repeated(read: Read, variable: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(**{variable: "sha512:geheim@host"})
    assert "geheim" not in str(caught.value)


def test_a_variable_of_blanks_counts_as_absent() -> None:
    environment = Environment({"A": "  ", "B": ""})
    assert (environment.text("A", "x"), environment.optional("B"), environment.integer("A", 3, low=1, high=9)) == (
        "x",
        None,
        3,
    )
    environment.check()

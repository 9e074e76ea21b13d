"""Whatever clients send, the gateway answers with an error of its own: odd requests to every operation."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

from gateway.api import ALL
from gateway.operations import Operation
from session_worker.contract import Phase
from tests.gateway.test_api import give
from tests.support.gateway_world import Gateway, OtherWorker
from tests.support.kube_product import ProductApi
from tests.support.redis_server import RedisServer

ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, -(10**30), "", " ", "x" * 300, "\x00", "\ud800", "../..", "%2e%2e", "a@b@c", "@",
    "💥", "true_1@c.us_A", "http://[::1", "data:;base64,", [], {}, [None], [[]], [{}], {"id": None}, {"url": 1},
    {"data": []}, {"url": "http://\x00/"}, {"data": "=" * 5}, [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip
TRIES = 20
MAKING = {"SessionsController_create", "SessionsController_DEPRACATED_start"}
"""What makes sessions is not asked to in earnest."""


@pytest.fixture(scope="module")
async def gateway(kube: ProductApi, redis_server: RedisServer) -> AsyncIterator[Gateway]:
    """A gateway with a session whose worker refuses everything that reaches it."""
    refusal = {"refusal": "Page", "message": "no"}
    namespace = await kube.namespace()
    async with OtherWorker(status=502, body=refusal) as worker, Gateway(kube, redis_server.url, namespace) as running:
        await give(kube, running, "s", Phase.CONNECTED, address=worker.address)
        yield running


def sample(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that a schema describes, more or less."""
    if "$ref" in schema:
        return sample(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for name in ("const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return sample(schema[name][0], definitions)
    match schema.get("type"):
        case "object":
            return {name: sample(one, definitions) for name, one in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema["items"], definitions)] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
    return "1"


def described(model: type[BaseModel] | None) -> dict[str, Any]:
    """An instance of a model as JSON."""
    if model is None:
        return {}
    schema = model.model_json_schema(by_alias=True)
    value: dict[str, Any] = sample(schema, schema.get("$defs", {}))
    return value


def spoiled(luck: random.Random, value: Any) -> Any:
    """A value with something odd somewhere in it."""
    if isinstance(value, dict) and value and luck.random() < 0.8:
        name = luck.choice(list(value))
        return {**value, name: spoiled(luck, value[name])}
    if isinstance(value, list) and value and luck.random() < 0.5:
        return [spoiled(luck, value[0]), *value[1:]]
    return luck.choice(ODD)


def text_of(value: Any) -> str:
    """A value in an address; of a list its first item."""
    if isinstance(value, list) and value:
        return text_of(value[0])
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text.encode(errors="surrogatepass"), safe="")


@pytest.mark.parametrize("operation", ALL, ids=lambda one: str(one.operation_id))
async def test_an_odd_request_gets_an_answer(gateway: Gateway, operation: Operation) -> None:
    luck = random.Random(operation.operation_id)
    body, query, where = (described(model) for model in (operation.body, operation.query, operation.where))
    for model in (body, query):
        if "session" in model:
            model["session"] = "s"
    session = "nobody" if operation.tag.endswith("Sessions") else "s"  # which has to stay as it is
    for attempt in range(TRIES):
        odd: list[Any] = [body, query, where]
        if attempt:  # the first is as it should be
            place = luck.randrange(3)
            odd[place] = spoiled(luck, odd[place])
        elif operation.operation_id in MAKING:
            continue
        asked, named = (one if isinstance(one, dict) else {} for one in odd[1:])
        values = {**named, "session": session}
        parts = {name: text_of(values.get(name, "x")) or "x" for name in re.findall(r"\{(\w+)\}", operation.path)}
        search = "&".join(f"{name}={text_of(value)}" for name, value in asked.items() if value is not None)
        path = f"{operation.path.format(**parts)}?{search}"
        data = json.dumps(odd[0]) if operation.body else None
        answer = await gateway(operation.method, path, data)
        assert answer.status < 500 or answer.status == 503, f"{operation.method} {path} {data}: {answer}"
        if answer.status >= 400:
            assert {"message", "error"} & set(answer.body), str(answer)
        if attempt == 0 and operation.calls is not None:
            # What is as it should be reaches the worker, which refuses it.
            assert (answer.status, answer.body["statusCode"]) == (422, 422), (
                f"{operation.method} {path} {data}: {answer}"
            )

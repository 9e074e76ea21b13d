"""What tests of API servers share: requests as an administrator, watches, and small objects to work with."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from sandbox.kube import KubeStandIn
from sandbox.kubelet import PodRunner
from sandbox.kubelet.container import Settings
from sandbox.kubelet.node import NodeSpec

JsonObject = dict[str, Any]

WIDGETS = yaml.safe_load((Path(__file__).parent / "kube_widgets.yaml").read_text())
_names = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    body: Any
    headers: Any = field(repr=False)

    @property
    def warnings(self) -> list[str]:
        """Texts of the Warning headers."""
        return [text.partition('"')[2][:-1].replace('\\"', '"') for text in self.headers.getall("Warning", [])]

    @property
    def message(self) -> str:
        """The message of a Status."""
        return str(self.body["message"])

    @property
    def causes(self) -> set[tuple[str, str, str]]:
        """Reason, field and message of each cause of a Status; servers tell them in any order."""
        found = (self.body.get("details") or {}).get("causes") or []
        return {(cause.get("reason", ""), cause.get("field", ""), cause["message"]) for cause in found}

    def ok(self) -> Any:
        """The body of a success."""
        assert self.status < 300, (self.status, self.body)
        return self.body


class Watching:
    """The events of an open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self, seconds: float = 20) -> JsonObject:
        """The next event."""
        async with asyncio.timeout(seconds):
            line = await self._response.content.readline()
        assert line, "the watch has ended"
        event: JsonObject = json.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Types and names of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def rest(self, seconds: float = 20) -> list[JsonObject]:
        """All events up to the end of the watch."""
        async with asyncio.timeout(seconds):
            text = await self._response.content.read()
        return [json.loads(line) for line in text.splitlines()]


@dataclass
class Cluster:
    """A running API server."""

    kind: str
    url: str
    kubeconfig: Path
    session: aiohttp.ClientSession
    standin: KubeStandIn | None = None

    @property
    def real(self) -> bool:
        """Whether this is a real kube-apiserver."""
        return self.kind == "real"


class Api:
    """Requests as an administrator, in a namespace of the test's own."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def path(self, plural: str, name: str = "", subresource: str = "", *, namespace: str | None = None) -> str:
        """The path of a collection or object in the test's namespace; `group/version/plural` outside the core group."""
        group, _, resource = plural.rpartition("/")
        root = f"/apis/{group}" if group else "/api/v1"
        parts = [root, "namespaces", namespace or self.namespace, resource, name, subresource]
        return "/".join(part for part in parts if part)

    async def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: Any
    ) -> Answer:
        """One request."""
        all_headers = {"Content-Type": "application/json", "User-Agent": "tests/1", **(headers or {})}
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        parameters = {key: str(value) for key, value in query.items()}
        async with self.cluster.session.request(
            method, self.cluster.url + path, data=data, headers=all_headers, params=parameters
        ) as response:
            text = await response.text()
            parsed = json.loads(text) if "json" in response.headers.get("Content-Type", "") else text
            return Answer(response.status, parsed, response.headers)

    async def get(self, path: str, **query: Any) -> Answer:
        """Read."""
        return await self.request("GET", path, **query)

    async def create(self, path: str, body: Any, **query: Any) -> Answer:
        """Create."""
        return await self.request("POST", path, body, **query)

    async def replace(self, path: str, body: Any, **query: Any) -> Answer:
        """Replace."""
        return await self.request("PUT", path, body, **query)

    async def delete(self, path: str, body: Any = None, **query: Any) -> Answer:
        """Delete."""
        return await self.request("DELETE", path, body, **query)

    async def patch(self, path: str, body: Any, kind: str = "merge", **query: Any) -> Answer:
        """Patch; `kind` is merge, json, strategic-merge or apply."""
        media = "application/apply-patch+yaml" if kind == "apply" else f"application/{kind}-patch+json"
        return await self.request("PATCH", path, body, headers={"Content-Type": media}, **query)

    async def apply(self, path: str, body: Any, manager: str, **query: Any) -> Answer:
        """Server-side apply."""
        return await self.patch(path, body, "apply", fieldManager=manager, **query)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, *, accept: str = "application/json", **query: Any) -> AsyncIterator[Watching]:
        """An open watch."""
        parameters = {"watch": "true", **{key: str(value) for key, value in query.items()}}
        async with self.cluster.session.get(
            self.cluster.url + path, params=parameters, headers={"Accept": accept}
        ) as response:
            assert response.status == 200, await response.text()
            yield Watching(response)

    async def until(self, path: str, condition: Any, seconds: float = 30) -> JsonObject:
        """Read an object again and again until `condition` holds for its answer."""
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.get(path)
                if condition(answer):
                    return answer.body  # type: ignore[no-any-return]  # JSON
                await asyncio.sleep(0.05)

    async def until_gone(self, path: str, seconds: float = 30) -> None:
        """Wait until there is no object at a path."""
        await self.until(path, lambda answer: answer.status == 404, seconds)

    def config_map(self, name: str, **more: Any) -> JsonObject:
        """A small object."""
        meta = more.pop("metadata", {})
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, **more}

    def widget(self, name: str, /, status: Any = None, metadata: Any = None, **spec: Any) -> JsonObject:
        """A small custom resource."""
        body = {
            "apiVersion": "example.test/v1",
            "kind": "Widget",
            "metadata": {"name": name, **(metadata or {})},
            "spec": {"color": "blue", **spec},
        }
        return body if status is None else {**body, "status": status}

    def pod(self, name: str, **spec: Any) -> JsonObject:
        """A pod that nobody runs."""
        meta = spec.pop("metadata", {})
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **meta},
            "spec": {"containers": [{"name": "main", "image": "example/main:1"}], **spec},
        }


WIDGET = "example.test/v1/widgets"


def _ssl_context(kubeconfig: JsonObject, directory: Path) -> ssl.SSLContext:
    import base64

    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    files = {}
    for name, source in (
        ("certificate-authority", cluster),
        ("client-certificate", user),
        ("client-key", user),
    ):
        if name in source:
            files[name] = Path(source[name])
        else:
            files[name] = directory / name
            files[name].write_bytes(base64.b64decode(source[f"{name}-data"]))
    context = ssl.create_default_context(cafile=str(files["certificate-authority"]))
    context.load_cert_chain(files["client-certificate"], files["client-key"])
    return context


@contextlib.asynccontextmanager
async def connected(kind: str, kubeconfig: Path, directory: Path) -> AsyncIterator[Cluster]:
    config = yaml.safe_load(kubeconfig.read_text())
    connector = aiohttp.TCPConnector(ssl=_ssl_context(config, directory), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Cluster(kind, config["clusters"][0]["cluster"]["server"], kubeconfig, session)


async def install_widgets(cluster: Cluster) -> None:
    api = Api(cluster, "default")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    (await api.create(path, WIDGETS)).ok()
    await api.until(f"{api.path(WIDGET)}", lambda answer: answer.status == 200)


async def new_namespace(cluster: Cluster) -> str:
    """A namespace that pods can be made in."""
    name = f"test-{next(_names)}"
    api = Api(cluster, name)
    (await api.create("/api/v1/namespaces", {"metadata": {"name": name}})).ok()
    await api.until(api.path("serviceaccounts", "default"), lambda answer: answer.status == 200)
    return name


async def ready_pod(api: Api, name: str, *, restarts: int = 0, last_end: str = "") -> None:
    """Say in a pod's status that it runs and is ready, as a kubelet would."""
    last = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": last_end}} if last_end else {}
    status = {
        "phase": "Running",
        "podIP": "127.0.9.9",
        "podIPs": [{"ip": "127.0.9.9"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {
                "name": "main",
                "image": "example/main:1",
                "imageID": "example/main:1",
                "ready": True,
                "restartCount": restarts,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "lastState": last,
            }
        ],
    }
    (await api.patch(api.path("pods", name, "status"), {"status": status}, "strategic-merge")).ok()


# --- Nodes ------------------------------------------------------------------------------------------------------------

QUICK = Settings(back_off_seconds=0.2, memory_poll_seconds=0.1, retry_seconds=0.1, force_seconds=1.0)
IMAGES = {"echo": [sys.executable, "-c", "import sys; print('echo', *sys.argv[1:])"]}


@dataclass
class Node:
    """A pod runner and the node that it is."""

    runner: PodRunner
    name: str
    directory: Path

    def pod(self, name: str, script: str, **spec: Any) -> JsonObject:
        """A pod for this node, with one container that runs a shell script; `container` adds to the container."""
        meta, container = spec.pop("metadata", {}), spec.pop("container", {})
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **meta},
            "spec": {
                "nodeName": self.name,
                "terminationGracePeriodSeconds": 5,
                "containers": [
                    {"name": "main", "image": "example/shell:1", "command": ["sh", "-c", script], **container}
                ],
                **spec,
            },
        }


@contextlib.asynccontextmanager
async def running_node(cluster: Cluster, name: str, directory: Path) -> AsyncIterator[Node]:
    """A node that takes no pods but those that name it, since other tests have pods that nobody should run."""
    await cordoned_node(cluster, name)
    spec = NodeSpec(name, capacity={"cpu": "8", "memory": "8Gi", "pods": "100"})
    async with PodRunner(cluster.kubeconfig, images=IMAGES, node=spec, directory=directory, settings=QUICK) as runner:
        yield Node(runner, name, directory)


async def cordoned_node(cluster: Cluster, name: str) -> None:
    """Make a node that the scheduler leaves alone."""
    body = {"metadata": {"name": name}, "spec": {"unschedulable": True}}
    (await Api(cluster, "default").create("/api/v1/nodes", body)).ok()


def container_state(answer: Answer, name: str = "main", field: str = "containerStatuses") -> JsonObject:
    """The status of one container of a pod; empty while there is none."""
    statuses = (answer.body.get("status") or {}).get(field) or []
    return next((item for item in statuses if item["name"] == name), {})


def phase_is(*phases: str) -> Any:
    """A condition for `Api.until`."""
    return lambda answer: answer.status == 200 and answer.body["status"].get("phase") in phases


def is_ready(answer: Answer) -> bool:
    """Whether a pod is ready; a condition for `Api.until`."""
    conditions = answer.body["status"].get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def wait_for_file(path: Path) -> str:
    """Shell words that wait until a test has made a file."""
    return f"until [ -e {shlex.quote(str(path))} ]; do sleep 0.02; done"


async def lines_of(path: Path, count: int = 1, seconds: float = 20) -> list[str]:
    """The lines of a file, once somebody has written so many."""
    async with asyncio.timeout(seconds):
        while True:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            if len([line for line in lines if line.endswith("\n")]) >= count:
                return [line.strip() for line in lines]
            await asyncio.sleep(0.02)


async def until_ended(pid: int, seconds: float = 20) -> None:
    """Wait until there is no process of this id any more."""
    async with asyncio.timeout(seconds):
        while True:
            if not Path(f"/proc/{pid}").exists():
                return
            await asyncio.sleep(0.02)


# --- kubectl ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """What a program said."""

    code: int
    out: str
    err: str


class Kubectl:
    """The kubectl of this machine, in the test's own namespace."""

    def __init__(self, api: Api, home: Path) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(api.cluster.kubeconfig),
            # Discovery is cached per server for hours, and other tests define kinds.
            "KUBECACHEDIR": str(home / "cache"),
        }
        self._namespace = api.namespace

    @contextlib.asynccontextmanager
    async def start(self, *words: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that goes on until it is left."""
        process = await asyncio.create_subprocess_exec(
            *("kubectl", "--namespace", self._namespace, *words),
            env={**self._environment, **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def run(self, *words: str, text: str | None = None, **environment: str) -> Finished:
        """A command that comes to an end; `text` is its standard input."""
        async with asyncio.timeout(60), self.start(*words, **environment) as process:
            out, err = await process.communicate(text.encode() if text is not None else None)
        return Finished(process.returncode or 0, out.decode(), err.decode())

    async def __call__(self, *words: str, text: str | None = None, **environment: str) -> str:
        """What a command prints that succeeds."""
        finished = await self.run(*words, text=text, **environment)
        assert finished.code == 0, (words, finished)
        return finished.out

    async def minor(self) -> int:
        """The minor version of kubectl."""
        version = json.loads(await self("version", "--client", "--output=json"))["clientVersion"]
        return int(version["minor"].rstrip("+"))

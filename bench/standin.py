"""The sandbox's API stand-in with a count of its requests: `python -m bench.standin --kubeconfig FILE`.

Owns `/metrics` in the words of kube-apiserver (`apiserver_request_total`), so that a benchmark counts requests at the
API in one way on both. Must not change how the stand-in answers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.kube import KubeStandIn
from sandbox.kube.auth import Authorizer
from sandbox.kube.requests import parse_path
from sandbox.kube.server import Server

METRIC = "apiserver_request_total"
_VERBS = {"create": "POST", "update": "PUT", "deletecollection": "DELETECOLLECTION"}
"""kube-apiserver's metric names these requests by other words than its authorizer; the others are the same."""
_BOOKMARK_SECONDS = 30.0


class CountingServer(Server):
    """A `Server` that counts what it has answered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._answered: Counter[tuple[str, str, str, str, int]] = Counter()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or tell the counts."""
        if request.path == "/metrics":
            return web.Response(text=self._metrics())
        response = await super().handle(request)
        info = parse_path(request.method, request.path, request.query)
        if info is not None:
            applied = request.headers.get("Content-Type", "").startswith("application/apply-patch")
            verb = "APPLY" if applied else _VERBS.get(info.verb, info.verb.upper())
            self._answered[verb, info.group, info.plural, info.subresource, response.status] += 1
        return response

    def _metrics(self) -> str:
        names = ("verb", "group", "resource", "subresource", "code")
        lines = [f"# TYPE {METRIC} counter"]
        for labels, count in self._answered.items():
            pairs = ",".join(f'{name}="{value}"' for name, value in zip(names, labels, strict=True))
            lines.append(f"{METRIC}{{{pairs}}} {count}")
        return "\n".join([*lines, ""])


class CountingStandIn(KubeStandIn):
    """The stand-in with a `CountingServer`."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self._server = CountingServer(
            self.api, self._authenticator, Authorizer(self.store), bookmark_seconds=_BOOKMARK_SECONDS
        )


async def _run(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    async with CountingStandIn(port=arguments.port) as kube:
        kube.write_kubeconfig(arguments.kubeconfig)
        sys.stdout.write(f"Kubernetes API on {kube.url}\n")
        sys.stdout.flush()
        await stopped.wait()


def main() -> None:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m bench.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for a free one")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="file for the administrator's kubeconfig")
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()

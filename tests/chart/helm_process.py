"""Helm in a process of its own: `python -m tests.chart.helm_process`, one request in JSON per line of standard input.

Helm's library blocks while it waits for an API server, which would be for ever if that ran in the same event loop.
Every request gets a configuration of its own, as every call of the program `helm` has: Helm remembers for its life
which kinds a server knows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python


def answer(request: dict[str, Any]) -> Any:
    """Carry out `{"action": ..., "kubeconfig": ..., "namespace": ..., ...}`."""
    action, values = request["action"], request["values"]
    chart, namespace, name = str(request["chart"]), str(request["namespace"]), str(request.get("name", "wa"))
    if action == "lint":
        return helm_python.lint(chart, values, strict=True, namespace=namespace)
    if action == "render":
        return helm_python.Chart.load(chart).render(values, name=name, namespace=namespace)
    with helm_python.Config(kubeconfig_path=request["kubeconfig"], namespace=namespace) as config:
        if action == "install":
            return config.install(chart, name, values, namespace=namespace, create_namespace=True, timeout=60)
        if action == "upgrade":
            return config.upgrade(chart, name, values, namespace=namespace, timeout=60)
        if action == "rollback":
            return config.rollback(name, version=request["version"], timeout=60)
        if action == "uninstall":
            return config.uninstall(name, timeout=60)
    raise ValueError(f"there is no action {action}")


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        try:
            reply = {"result": answer(json.loads(line))}
        except helm_python.HelmError as error:
            reply = {"error": str(error)}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

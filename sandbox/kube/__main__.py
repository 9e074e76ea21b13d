"""Run the stand-in alone: `python -m sandbox.kube --port 6443 --kubeconfig FILE`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from sandbox.kube import KubeStandIn


async def _run(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    async with KubeStandIn(port=arguments.port) as kube:
        kube.write_kubeconfig(arguments.kubeconfig)
        print(f"Kubernetes API on {kube.url}; export KUBECONFIG={arguments.kubeconfig}", flush=True)
        await stopped.wait()


def main() -> None:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.kube", description="A Kubernetes API server in memory.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for a free one")
    parser.add_argument(
        "--kubeconfig", type=Path, required=True, help="file to write the administrator's kubeconfig to"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(arguments))


if __name__ == "__main__":
    main()

"""Run the pod runner alone: `python -m sandbox.kubelet --kubeconfig FILE --image NAME='PROGRAM ARGUMENTS'`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import signal
from pathlib import Path

from sandbox.kubelet import PodRunner
from sandbox.kubelet.node import NodeSpec


def _image(text: str) -> tuple[str, list[str]]:
    name, _, command = text.partition("=")
    if not name or not command.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=COMMAND (worker='python -m worker')")
    return name, shlex.split(command)


async def _run(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    runner = PodRunner(
        arguments.kubeconfig,
        images=dict(arguments.image),
        node=NodeSpec(arguments.node),
        directory=arguments.directory,
    )
    async with runner:
        print(f"node {arguments.node} is ready; logs on port {runner.port}", flush=True)
        await stopped.wait()


def main() -> None:
    """Parse the command line and run pods until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.kubelet", description="Runs pods as local processes.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="access to the API server")
    parser.add_argument("--node", default="sandbox", help="name of the node")
    parser.add_argument("--directory", type=Path, help="for volumes and logs; a temporary one where it is not given")
    parser.add_argument(
        "--image", type=_image, action="append", default=[], help="what to start for an image: NAME=COMMAND; repeatable"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(arguments))


if __name__ == "__main__":
    main()

"""`python -m sandbox.whatsapp`: the WhatsApp Web stand-in by itself, until Ctrl-C.

Must not do more than read the command line and wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from sandbox.whatsapp.server import WhatsAppServer
from sandbox.whatsapp.settings import Settings


async def _serve(arguments: argparse.Namespace) -> None:
    settings = Settings(time_scale=arguments.time_scale, state_file=arguments.state)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with WhatsAppServer(host=arguments.host, port=arguments.port, settings=settings) as server:
        print(f"WhatsApp Web stand-in at {server.url}/  (phones: {server.url}/sandbox)")
        await stopped.wait()


def main() -> None:
    """Run the stand-in."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.whatsapp", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8780, help="profiles belong to it, so keep it (default: 8780)")
    parser.add_argument("--time-scale", type=float, default=1.0, help="factor for pairing times and answers")
    parser.add_argument("--state", type=Path, default=None, help="file that keeps accounts and messages")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments))


if __name__ == "__main__":
    main()
